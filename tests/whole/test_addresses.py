"""Commands whose inputs and outputs lie at addresses, on this machine and on another one, which has an empty cache."""

from __future__ import annotations

import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.cards import load_card
from gcnrec.loaders.ingest.inputs import open_files
from gcnrec.training import finish

DATA, RUN = "memory://bucket/data", "memory://bucket/runs/shop"
JOB = "[model]\nwidth = 8\n[train]\nepochs = 1\n[evaluate]\nbaselines = []\nbootstrap = 0\n"


@pytest.fixture(scope="module")
def memory():
    """The store of these tests, which later tests find as earlier ones left it."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("addresses")
    users = np.repeat(np.arange(40), 12)
    items = (users * 3 + np.tile(np.arange(12), 40)) % 30
    pq.write_table(pa.table({"user": users, "item": items}), folder / "events.parquet")
    (folder / "job.toml").write_text(JOB)
    return folder


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path_factory, memory, workplace):
    """Changes to a machine of this name: what was fetched lies there alone. Pages have no charts, which take their time."""
    from gcnrec.reports import charts

    monkeypatch.setattr(charts, "_svg", lambda *drawn: "<svg></svg>")

    def change(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / name))

    change("first")
    return change


@pytest.fixture
def called(gcnrec):
    def call(*arguments):
        code, out, err = gcnrec(*arguments)
        assert code == 0, err
        return out

    return call


@pytest.fixture(scope="module")
def made():
    """What tests share: the run is made once, by the first that needs it."""
    return {}


@pytest.fixture
def run(called, made, memory):
    if not made:
        columns = ("--user", "user", "--item", "item", "--seed", 1)
        made["ingest"] = called("ingest", "--train", "events.parquet", *columns, "--out", DATA, "--json")
        made["run"] = called("run", "job.toml", "--data", DATA, "--out", RUN, "--json")
    return made


def test_a_run_at_an_address(run, memory):
    assert json.loads(run["run"])["run"] == RUN and json.loads(run["ingest"])["num_users"] == 40
    names = {path.removeprefix("/bucket/runs/shop/") for path in memory.find("/bucket/runs/shop")}
    assert {"gcnrec-upload.json", "lineage.json", "metrics.json", "report.html", "embeddings/items.parquet"} <= names
    assert not any(name.startswith("dataset/") or name.endswith(".lock") for name in names)
    assert json.loads(memory.cat("/bucket/runs/shop/gcnrec-upload.json"))["data"] == DATA


def test_another_machine_reads_it(run, called, machine, memory, tmp_path):
    machine("second")
    out = called("recommend", RUN, "--k", 3, "--out", "memory://bucket/recs.parquet", "--json")
    assert json.loads(out)["out"] == "memory://bucket/recs.parquet"
    called("recommend", RUN, "--k", 3, "--out", tmp_path / "recs.parquet")
    with memory.open("/bucket/recs.parquet", "rb") as file:
        assert pq.read_table(file).equals(pq.read_table(tmp_path / "recs.parquet"))
    assert json.loads(called("info", RUN, "--json"))["metrics"] == json.loads(memory.cat("/bucket/runs/shop/metrics.json"))
    called("export", RUN, "--format", "int8", "--out", "memory://bucket/int8")
    assert memory.isfile("/bucket/int8/export.json") and memory.isfile("/bucket/int8/gcnrec-upload.json")
    called("export", RUN, "--format", "bundle", "--out", "memory://bucket/shop.safetensors")
    assert memory.isfile("/bucket/shop.safetensors")


def test_what_writes_into_a_run_uploads_that(run, called, machine, memory):
    machine("third")
    called("evaluate", RUN, "--k", "7")
    assert "recall@7" in json.loads(memory.cat("/bucket/runs/shop/metrics.json"))
    memory.rm("/bucket/runs/shop/report.html")
    machine("fourth")
    before = json.loads(memory.cat("/bucket/runs/shop/gcnrec-upload.json"))
    del before["files"]["report.html"]
    memory.pipe_file("/bucket/runs/shop/gcnrec-upload.json", json.dumps(before).encode())
    assert json.loads(called("report", RUN, "--json"))["report"] == f"{RUN}/report.html"
    assert b"recall@7" in memory.cat("/bucket/runs/shop/report.html")


def test_files_of_ids_at_addresses(run, called, memory, tmp_path):
    memory.pipe_file("/bucket/users.csv", b"user\n3\n5\n")
    called("recommend", RUN, "--k", 2, "--users", "memory://bucket/users.csv", "--out", tmp_path / "recs.parquet")
    assert pq.read_table(tmp_path / "recs.parquet").column("user").to_pylist() == [3, 3, 5, 5]


@pytest.mark.slow
def test_runs_at_addresses_are_compared(run, called):
    assert "recall@" in called("compare", RUN, RUN, "--json")


def test_nothing_is_overwritten(run, gcnrec, memory):
    before = {path: memory.cat(path) for path in memory.find("/bucket")}
    for arguments in (
        ("train", "job.toml", "--data", DATA, "--out", RUN),
        ("recommend", RUN, "--out", "memory://bucket/users.csv"),
        ("ingest", "--train", "events.parquet", "--user", "user", "--item", "item", "--out", DATA),
        ("export", RUN, "--format", "parquet", "--out", "memory://bucket/runs"),
    ):
        code, _, err = gcnrec(*arguments)
        assert code == 2 and "exists and is never overwritten; choose another --out" in err
    assert before == {path: memory.cat(path) for path in memory.find("/bucket")}


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(run, gcnrec, called, memory, monkeypatch):
    away = "memory://bucket/runs/stopped"

    def stop(*arguments, **others):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finish, "write_embeddings", stop)
        code, _, _ = gcnrec("train", "job.toml", "--data", DATA, "--out", away)
    assert code == 130 and not memory.exists("/bucket/runs/stopped")
    code, _, err = gcnrec("train", "job.toml", "--data", DATA, "--out", away)
    assert code == 2 and f"{away} exists" in err and "--resume" in err
    called("train", "job.toml", "--data", DATA, "--out", away, "--resume")
    for name in ("users", "items"):
        a, b = (memory.cat(f"/bucket/runs/{run}/embeddings/{name}.parquet") for run in ("stopped", "shop"))
        assert a == b


@pytest.mark.parametrize("address", ["s3://key:secret@bucket/x", "https://host/x?token=secret"])
def test_secrets_are_refused_and_not_shown(gcnrec, address):
    code, _, err = gcnrec("train", "job.toml", "--data", "data", "--out", address)
    assert code == 2 and "without password, query and fragment" in err and "secret" not in err


def test_a_lineage_holds_no_secret(monkeypatch):
    from gcnrec.runs import lineage

    arguments = ["gcnrec", "train", "job.toml", "--set", "data.train=s3://key:secret@bucket/x.parquet?region=secret"]
    monkeypatch.setattr(lineage.sys, "argv", arguments)
    assert "secret" not in json.dumps(lineage.command_line()) and "key:***@bucket" in lineage.command_line()


def test_processes_of_a_launcher_are_refused(gcnrec, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = gcnrec("train", "job.toml", "--data", DATA, "--out", "memory://bucket/several")
    assert code == 2 and "cannot share an address; name folders of a shared disk" in err


def test_half_an_upload_is_no_run(run, gcnrec, memory):
    memory.pipe_file("/bucket/half/gcnrec-upload.json", b'{"format": 1, "complete": false}')
    code, _, err = gcnrec("recommend", "memory://bucket/half", "--out", "recs.parquet")
    assert code == 3 and "holds half an upload; repeat the command that writes it" in err


def test_inputs_that_arrow_does_not_open(workplace):
    """`local` is fsspec's other name of `file`."""
    (workplace / "in").mkdir()
    table = pq.read_table(workplace / "events.parquet")
    for number in range(2):
        pq.write_table(table.slice(number * 240, 240), workplace / "in" / f"part-{number}.parquet")
    for text in (f"local://{workplace}/in", f"local://{workplace}/in/*.parquet"):
        source = open_files(text)
        columns = {name: source.expression(name) for name in ("user", "item")}
        found = pa.Table.from_batches(source.batches(columns, list(columns), 100))
        assert found.equals(table)
    with pytest.raises(DataError, match=r"cannot be opened .*has a protocol that fsspec does not know"):
        open_files("nosuch://a/b.parquet")
    with pytest.raises(DataError, match=r"without a password, got s3://key:\*\*\*@bucket/x.parquet, as datasets and jobs keep"):
        open_files("s3://key:secret@bucket/x.parquet")
    with pytest.raises(DataError, match="no such file or folder"):
        open_files(f"local://{workplace}/absent.parquet")


def test_a_card_reaches_no_further_than_arrow(tmp_path):
    card = '[card]\nname = "x"\ntitle = "t"\nlicence = "l"\norigin = "o"\n[data]\nuser = "u"\nitem = "i"\n'
    (tmp_path / "card.toml").write_text(f'{card}train = "sftp://host/x.parquet"\n')
    with pytest.raises(UsageError, match=r"data.train of a card must have a protocol among file, s3, gs, .*, got .*sftp://host"):
        load_card(tmp_path / "card.toml")
