"""JSON from disk: what is no bounded object of plain values is one sentence that names file and place."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from gcnrec.errors import DataError
from gcnrec.storage.documents import Document, checked, object_of, read_object, write_json

ODD = {
    b"": "line 1 column 1",
    b"5": "holds int",
    b"[1]": "holds list",
    b"\xff": "byte 0xff in position 0",
    b'{"a": 1': "line 1 column 8",
    b'{"a": 1, "a": 2}': "the key a twice",
    b'{"a": {"b": [NaN]}}': "NaN",
    b'{"a": {"b": [0, 1e999]}}': r"number at a\.b\.1",
    b'{"a": 18446744073709551616}': "number at a",
    b'{"a": ' + b"9" * 5000 + b"}": "digits",
    b'{"a": "x\\u0000"}': "text at a",
    b'{"a": "\\ud800"}': "text at a",
    b'{"a": {"\\ud800": 1}}': "a key at a",
    b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}": "32 deep",
    b"[" * 100_000: "32 deep",
    b'{"\\u001b[2J": 1, "\\u001b[2J": 2}': r"key \\x1b\[2J twice",
}


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_odd_json_is_a_sentence_with_its_place_and_remedy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=ODD[content]) as caught:
        read_object(tmp_path / "x.json", "make it again")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'x.json'} ") and said.endswith("make it again") and said.isprintable()


def test_values_of_64_bits_and_names_that_are_no_utf_8_come_back(tmp_path: Path) -> None:
    document = {"least": -(2**63), "most": 2**64 - 1, "path": os.fsdecode(b"\xe4.parquet"), "none": None, "x": [0.5, True]}
    write_json(tmp_path / "x.json", document)
    assert read_object(tmp_path / "x.json", "make it again") == document


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is missing" if kind == "nothing" else f"is a {kind}"):
        read_object(path, "make it again")


def test_a_document_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'{"a": 1}')
    assert read_object(tmp_path / "x.json", "make it again", most=8) == {"a": 1}
    with pytest.raises(DataError, match="at most 7 bytes"):
        read_object(tmp_path / "x.json", "make it again", most=7)


class Pair(Document):
    """A number with a default."""

    count: int = 0


def test_a_value_of_another_type_is_named_by_its_key() -> None:
    assert checked(Pair, object_of(b'{"count": 3}', "x", "again"), "x").count == 3
    with pytest.raises(DataError, match=r"^x is damaged \(count: .*integer.*\); again$"):
        checked(Pair, {"count": "many"}, "x", "again")


def test_a_small_document_takes_little_memory_whatever_its_bound(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    tracemalloc.start()
    try:
        assert read_object(tmp_path / "x.json", "make it again", most=2**25) == {"a": 1}
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
