"""TOML of a stranger: whatever it holds becomes plain tables or one sentence, and `--set` takes one key."""

from __future__ import annotations

import os
import threading

import pytest

from gcnrec.config import Job
from gcnrec.config.toml import MOST_BYTES, read_toml, set_key
from gcnrec.errors import UsageError
from gcnrec.system import limits

DIGITS = "9" * 5000
NESTED = {"lists": "x = " + "[" * 20_000 + "]" * 20_000, "tables": "x = " + "{a = " * 2000 + "1" + "}" * 2000}
SHAPES = {
    "5000 digits": (f"[train]\nepochs = {DIGITS}", "an integer has thousands of digits"),
    "5000 hexadecimal digits": (f"[train]\nepochs = 0x{'f' * 5000}", "'train.epochs' is an integer of over 64 bits"),
    "65 bits": (f"[train]\nseed = {2**64}", "'train.seed' is an integer of over 64 bits"),
    "deep lists": (NESTED["lists"], "nested too deep"),
    "deep tables": (NESTED["tables"], "nested too deep"),
    "33 levels": ("x = " + "[" * 33 + "]" * 33, "nested over 32 levels deep"),
    "a key of 400,000 parts": ("a." * 400_000 + "a = 1", "has over 32 parts"),
    "a key of 400,000 parts in a table": ("x = {" + "a." * 400_000 + "a = 1}", "has over 32 parts"),
    "UTF-16": ("a = 1".encode("utf-16"), "it is UTF-16; save it in UTF-8"),
    "Latin-1": (b"a = '\xe9'", "save it in UTF-8"),
    "NUL": ("a = '\0'", "character '\\x00'"),
    "a key twice": ("a = 1\na = 2", "Cannot overwrite a value"),
    "over 1 MB": ("#" * (MOST_BYTES + 1), "at most 1,000,000 bytes"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_that_is_none_is_one_sentence_with_its_name(tmp_path, shape):
    content, part = SHAPES[shape]
    path = tmp_path / "job.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        read_toml(path)
    message = str(caught.value)
    assert "job.toml" in message and part in message and "\n" not in message and len(message) < 600


def test_what_editors_write_is_read(tmp_path):
    path = tmp_path / "job.toml"
    for content in (b"\xef\xbb\xbfa = 1\nb = 2", b"a = 1\r\nb = 2\r\n", b"a = 1\rb = 2\r"):
        path.write_bytes(content)
        assert read_toml(path) == {"a": 1, "b": 2}
    path.write_bytes(b"x = " + b"[" * 32 + b"]" * 32)
    assert str(read_toml(path)["x"]).count("[") == 32


def test_dates_and_times_are_text_as_quoted_ones_are(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text("[data]\ntest_from = 2014-03-01\n[x]\nmoments = [2014-03-01T07:00:00Z, 07:00:00]")
    document = read_toml(path)
    assert document == {"data": {"test_from": "2014-03-01"}, "x": {"moments": ["2014-03-01T07:00:00+00:00", "07:00:00"]}}
    assert (
        Job.parse({}, ["data.time=t", "data.split=temporal", "data.test_from=2014-03-01"], "job").data.test_from == "2014-03-01"
    )


@pytest.mark.parametrize("name", ["file.txt/job.toml", "a" * 300 + ".toml", "nul\0.toml", "link.toml", "/dev/zero", "."])
def test_a_path_that_leads_to_no_text_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "link.toml").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"no such file|cannot be read|at most 1,000,000 bytes|is a folder"):
        Job.load(tmp_path / name)


def test_a_pipe_brings_a_job(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("[train]\nepochs = 3",))
    writer.start()
    assert Job.load(path).train.epochs == 3
    writer.join()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("a.b=1\nc=2", "one value on one line"), ("a.b=1\r[c]", "one value on one line"), ("a.b=\x00", "one value on one line"),
        ("a.b=1 # three", "without a comment"), ("a.b=[1] # ]", "without a comment"),
        ('"a.b".c=1', "section.key=value"), ('a."b"=1', "section.key=value"), ("[a].b=1", "section.key=value"),
        ("a.b.c=1", "section.key=value"), ("\u00e4.b=1", "section.key=value"), ("a.b\n=1", "section.key=value"),
        (f"a.b={DIGITS}", "thousands of digits"), ("a.b=0x" + "f" * 40, "over 64 bits"), ("a.b=" + "[" * 20_000, "too deep"),
        ("a.b={" + "a." * 40 + "a=1}", "over 32 parts"), ("a.b=" + "[" * 40 + "]" * 40, "32 levels"),
    ],
)  # fmt: skip
def test_an_override_that_is_more_than_one_key_and_value_is_refused(override, part):
    sections = {}
    with pytest.raises(UsageError, match=part) as caught:
        set_key(sections, override)
    assert sections == {} and len(str(caught.value)) < 600 and "--set" in str(caught.value)


def test_an_override_sets_one_value():
    sections = {"run": {"name": "before"}}
    for override in (
        "run.name=a#b",
        'data.where="x # y"',
        " model.width = 8 ",
        "evaluate.k=[5, 10]",
        "data.user=",
        "data.item=a = b",
    ):
        set_key(sections, override)
    assert sections == {
        "run": {"name": "a#b"}, "model": {"width": 8}, "evaluate": {"k": [5, 10]},
        "data": {"where": "x # y", "user": "", "item": "a = b"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "size",
    ["infGB", "nanGB", "-1GB", "1e400GB", "1e99GB", "0x10GB", "1_0GB", "\u0662GB", "2\u212aB", "9" * 400, "GB", "", "2GB GB"],
)
def test_a_size_that_is_none_is_one_sentence(size):
    with pytest.raises(UsageError, match=r"memory_limit (expects a size|must be at most 1000000TB)"):
        limits.parse_bytes(size)


def test_sizes():
    sizes = {
        "2GB": 2 * 10**9,
        "512 MiB": 512 * 2**20,
        "2.5gb": 25 * 10**8,
        "1e9": 10**9,
        " 70000000b ": 7 * 10**7,
        "1000000TB": 10**18,
    }
    assert {text: limits.parse_bytes(text) for text in sizes} == sizes
