"""The remedies that messages name: each is typed as it is printed, and works."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from unprivileged import obeying_modes

from gcnrec import cli, pipeline
from gcnrec.errors import os_remedy
from gcnrec.system import kernel_cache

ROOT = Path(cli.__file__).parent.parent
JOB = "[model]\nname = 'mf'\nwidth = 4\n[train]\nepochs = 1\n[evaluate]\nk = [5]\nbootstrap = 0\nbaselines = []\n"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """events/e.parquet and e.csv, job.toml, the dataset `data` of 30 users and 20 items, and the run `run`."""
    folder = tmp_path_factory.mktemp("advice")
    users = np.arange(300) % 30
    items = (3 * users + np.arange(300) // 30 * 7) % 20
    (folder / "events").mkdir()
    pq.write_table(pa.table({"u": users, "i": items}), folder / "events/e.parquet")
    (folder / "e.csv").write_text("u,i\n" + "".join(f"{u},{i}\n" for u, i in zip(users, items, strict=True)))
    (folder / "job.toml").write_text(JOB)
    here = Path.cwd()
    os.chdir(folder)
    try:
        for command in ("ingest --train events --user u --item i --out data", "train job.toml --data data --out run"):
            with pytest.raises(SystemExit) as caught:
                cli.app(command.split())
            assert caught.value.code == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def quoted(text):
    """The command that a message names."""
    return shlex.split(re.search(r"'gcnrec ([^\n]+)'", text)[1])


@pytest.mark.parametrize(("command", "given"), [("run", "events/e.parquet"), ("check", "events"), ("check", "nameless")])
def test_parquet_in_place_of_a_job_is_to_be_ingested(gcnrec, workplace, out, given, command):
    shutil.copy(workplace / "events/e.parquet", workplace / "nameless")
    code, _, said = gcnrec(command, given)
    typed = [{"COLUMN": "u", "DIR": out}.get(word, word) for word in quoted(said)]
    typed[typed.index("--item") + 1] = "i"
    assert code == 2 and f"--train {given}" in said and gcnrec(*typed)[0] == 0


def test_parquet_in_place_of_a_card_is_named_by_train(gcnrec, out):
    for given in ("events/e.parquet", "events"):
        code, _, said = gcnrec("ingest", given, "--out", out)
        assert code == 2 and "--train" in said and not out.exists()
    assert gcnrec("ingest", "--train", "events", "--user", "u", "--item", "i", "--out", out)[0] == 0


def test_a_job_in_place_of_a_card_is_run(gcnrec, workplace, out):
    (workplace / "own.toml").write_text(JOB + '[data]\ntrain = "events"\nuser = "u"\nitem = "i"\n')
    code, _, said = gcnrec("ingest", "own.toml", "--out", out)
    assert code == 2 and quoted(said) == ["run", "own.toml"] and gcnrec(*quoted(said), "--out", out)[0] == 0


@pytest.mark.parametrize("command", ["run", "check", "sweep"])
def test_a_card_in_place_of_a_job_is_to_be_ingested(gcnrec, workplace, out, command):
    (workplace / "shop.toml").write_text('[card]\nname = "shop"\n[data]\ntrain = "events"\n')
    code, _, said = gcnrec(command, "shop.toml", *(("--out", out) if command == "sweep" else ()))
    assert code == 2 and quoted(said) == ["ingest", "shop.toml", "--out", "DIR"]


def test_a_csv_is_written_as_parquet(gcnrec, workplace, out):
    said = gcnrec("ingest", "e.csv", "--out", out)[2]
    typed = said.rstrip("\n").rpartition(" for a CSV by python ")[2]
    code, _, said = gcnrec("ingest", "--train", "e.csv", "--user", "u", "--item", "i", "--out", out)
    assert code == 3 and said.endswith(f"; write it as Parquet by python {typed}\n")
    assert subprocess.run([sys.executable, *shlex.split(typed)], cwd=workplace).returncode == 0
    assert gcnrec("ingest", "--train", "e.parquet", "--user", "u", "--item", "i", "--out", out)[0] == 0
    assert pq.read_table(workplace / "e.parquet").equals(pq.read_table(workplace / "events/e.parquet"))


def test_a_dataset_in_place_of_a_job_is_named_by_data(gcnrec):
    code, _, said = gcnrec("check", "data")
    assert code == 2 and said.endswith("a dataset folder is named by --data data\n")
    assert gcnrec("check", "job.toml", "--resolved", "--data", "data")[0] == 0


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_job_without_data_gets_no_option_that_its_command_lacks(gcnrec, workplace, command):
    code, _, said = gcnrec(command, "job.toml")
    assert code == 3 and "--train" not in said and quoted(said) == ["run", "JOB.toml", "--data", "DIR"]
    named = workplace / "named.toml"
    named.write_text(JOB + "[data]\ntrain = 'events'\nuser = 'u'\nitem = 'i'\n")
    assert gcnrec("check", "named.toml", "--resolved")[0] == 0


def test_an_unfinished_run_continues_as_its_message_says(gcnrec, workplace):
    shutil.copytree(workplace / "run", workplace / "half")
    (workplace / "half/embeddings/items.parquet").unlink()
    code, _, said = gcnrec("recommend", "half", "--out", "lists.parquet")
    assert code == 2 and gcnrec(*quoted(said))[0] == 0
    assert gcnrec("recommend", "half", "--out", "lists.parquet")[0] == 0


@pytest.mark.parametrize("command", [["train", "job.toml", "--data", "data"], ["run", "job.toml", "--data", "data"]])
def test_only_a_run_is_to_be_resumed(gcnrec, workplace, command):
    (workplace / "plain").mkdir(exist_ok=True)
    code, _, said = gcnrec(*command, "--out", "plain")
    assert code == 2 and said.endswith("plain exists and is never overwritten; choose another --out, or remove it\n")
    code, _, said = gcnrec(*command, "--out", "run")
    assert code == 2 and said.endswith("or continue it with --resume\n")
    assert gcnrec("train", "job.toml", "--data", "data", "--out", "run", "--resume")[0] == 0


def test_test_from_beside_a_test_file_is_to_be_left_out(gcnrec, out):
    flags = ["ingest", "--train", "events", "--test", "events", "--user", "u", "--item", "i", "--repeats", "keep", "--out", out]
    code, _, said = gcnrec(*flags, "--test-from", "2020-01-01")
    assert code == 2 and said.endswith("leave test_from out: the test file is the test set\n")
    assert gcnrec(*flags)[0] == 0


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free some space"), (errno.EDQUOT, "quota"), (errno.EROFS, ""), (errno.EACCES, "permissions"),
        (errno.ELOOP, "remove the link"), (errno.ENAMETOOLONG, "shorten the name"), (errno.ENOTDIR, ""), (errno.EISDIR, ""),
    ],
)  # fmt: skip
def test_only_a_full_disk_asks_for_space(number, words):
    for problem in (OSError(number, "x"), RuntimeError(f"IO error (os error {number})"), OSError(f"[Errno {number}] x")):
        remedy = os_remedy(problem, "choose another --out")
        assert remedy.endswith("choose another --out") and words in remedy
        assert ("free some" in remedy) == (number in (errno.ENOSPC, errno.EDQUOT))


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("n" * 300, "File name too long; shorten the name"),
        ("events/e.parquet/x", "File exists; choose another place"),
        ("events/e.parquet/x/y", "Not a directory; choose another place"),
    ],
)
def test_names_that_cannot_be_are_one_sentence(gcnrec, out, words):
    code, _, said = gcnrec("ingest", "--train", "events", "--user", "u", "--item", "i", "--out", out)
    assert code == 3 and words in said and "free some" not in said


def test_a_name_in_other_bytes_than_utf_8_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gcnrec", "info", os.fsdecode(b"caf\xe9")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.count("\n") == 1 and "rename that file or folder" in said


def test_a_working_directory_that_is_gone_is_one_sentence(monkeypatch, capsys, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["gcnrec", "info", "run"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.count("\n") == 1 and "working directory is not there any more" in said


def test_numba_without_any_folder_names_its_variable(gcnrec, monkeypatch):
    def fail(path):
        raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")

    monkeypatch.setattr(pipeline, "describe", fail)
    code, _, said = gcnrec("info", "x")
    assert code == 4 and f"set {kernel_cache.VARIABLE} to a folder" in said


@pytest.mark.parametrize("arguments", [["evaluate", "nowhere"], ["check", "job.toml", "--data", "nowhere"]])
def test_a_place_for_kernels_that_does_not_last_is_warned_of(gcnrec, monkeypatch, arguments):
    monkeypatch.setattr(kernel_cache, "_warnings", ["kernels vanish"])
    assert gcnrec(*arguments)[2].startswith("warning: kernels vanish\n")
    assert "kernels" not in gcnrec(*arguments)[2]


@pytest.fixture
def read_only_run(workplace):
    """The run without write permission, and a process that obeys it."""
    run = workplace / "read-only"
    shutil.copytree(workplace / "run", run)
    paths = [run, *run.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with obeying_modes():
        yield "read-only"
    for path in paths:
        path.chmod(0o755)
    shutil.rmtree(run)


@pytest.mark.parametrize(
    "arguments", [["recommend", "--k", "3"], ["export", "--format", "bundle"], ["export", "--format", "parquet"]]
)
def test_a_read_only_run_serves(gcnrec, read_only_run, workplace, out, arguments):
    command, *options = arguments
    assert gcnrec(command, read_only_run, *options, "--out", out)[0] == 0
    assert gcnrec(command, "run", *options, "--out", out.with_name("same"))[0] == 0
    for path in [out] if out.is_file() else out.iterdir():
        assert path.read_bytes() == (out.with_name("same") / path.relative_to(out)).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    now = os.umask(0)
    os.umask(now)
    return now


def test_a_read_only_run_cannot_be_evaluated_until_it_may_be_written(gcnrec, read_only_run, workplace):
    code, _, said = gcnrec("evaluate", read_only_run)
    assert code == 3 and "cannot write read-only/run.lock: Permission denied; change the permissions there" in said
    for path in [workplace / read_only_run, *(workplace / read_only_run).rglob("*")]:
        path.chmod(0o755)
    code, _, said = gcnrec("evaluate", read_only_run)
    assert code == 0, said


def test_files_of_a_run_follow_the_umask(workplace):
    made = [path for path in [*(workplace / "run").rglob("*"), *(workplace / "data").rglob("*")] if path.is_file()]
    assert {path.suffix for path in made} >= {".safetensors", ".parquet", ".json", ".npy"}
    assert {oct(path.stat().st_mode & 0o777) for path in made} == {oct(0o666 & ~umask())}


def sources():
    """The package, without benches and pip's options."""
    for path in [*ROOT.glob("gcnrec/**/*.py"), *ROOT.glob("loaders/**/*.py"), *ROOT.glob("cuda/**/*.py")]:
        if "bench" not in path.parts and path.name != "downloads.py":
            yield path.read_text(encoding="utf-8")


def test_commands_options_and_extras_that_messages_name_exist():
    commands = typer.main.get_command(cli.app).commands
    options = {option for command in commands.values() for each in command.params for option in each.opts}
    options |= {"--version", "--help"}
    of_others = {"--porcelain", "--untracked-files", "--no-optional-locks", "--install"}  # git's and wsl's
    said = list(sources())
    found = {option for text in said for option in re.findall(r"(?<!var\()--[a-z][a-z-]*", text)}
    assert found - options - of_others == set() and len(found) > 20
    named = {name for text in said for name in re.findall(r"'gcnrec ([a-z-]+)", text)}
    assert named - set(commands) == set() and len(named) > 3
    assert not [text for text in said if "gcnrec[" in text], "no index has gcnrec"


def test_extras_that_messages_name_exist():
    named = {name for text in sources() for name in re.findall(r"\binstall\('([a-z]+)'\)", text)}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {"faiss", "gpu", "pyg", "dgl", "tracking", "bench"} <= named <= set(extras)
