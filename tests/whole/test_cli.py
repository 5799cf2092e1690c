"""The command line: its pinned surface, its exit codes, and what it writes and prints."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from gcnrec import __version__, cli, pipeline
from gcnrec.config import Data
from gcnrec.errors import DataError, DeviceError, DivergedError, UsageError

# Adding to this table is a deliberate act; renaming or removing breaks other tools.
SURFACE = {
    "init": "DATA --behaviour --item --item-features --json --out --rating --target --time --user --user-features",
    "settings": "KEY --json",
    "models": "--json",
    "run": "JOB.toml --data --data-root --force --json --log-json --out --resume --set --workers",
    "check": "JOB.toml --data --data-root --force --json --resolved --set --workers",
    "ingest": "CARD.toml --behaviour --data-root --decay-days --duplicates --feature-weights --features-text --force --item "
    "--item-features --json --k-core --keep-cold --keep-other --log-json --max-id-bytes --memory-limit --min-rating --name "
    "--negative-below --numbered --out --partition-type --rating --repeats --seed --split --target --test --test-from "
    "--test-size --test-until --text-width --time --time-unit --train --user --user-features --valid --valid-size --warm-size "
    "--weight --weight-log --where --where-test",
    "train": "JOB.toml --data --json --log-json --out --resume --set --workers",
    "evaluate": "RUN --attributes --beyond-accuracy --force --json --k --lists --log-json --memory-limit --out --per --seen "
    "--segments --split --value",
    "recommend": "RUN --attributes --candidates --diversity --exclude --fallback --for-items --force --items --json --k "
    "--log-json --max-per --memory-limit --new-items --new-users --out --seen --segment --users",
    "similar": "RUN --among --exclude --force --items --json --k --log-json --memory-limit --new-items --new-users --out --users",
    "score": "RUN --force --json --log-json --memory-limit --new-items --new-users --out --pairs --seen",
    "export": "RUN --force --format --index --json --k --out",
    "report": "RUN --json",
    "backtest": "JOB.toml --cuts --data-root --every --json --log-json --out --set",
    "compare": "BASE RUN... --force --json --out",
    "sweep": "GRID.toml --data --data-root --force --jobs --log-json --out --set",
    "tune": "JOB.toml --data --data-root --force --jobs --json --log-json --out --sampler --seed --set --trials",
    "info": "PATH --json --since",
    "bench": "WHAT --data --json --record --torchrec-python --workers",
    "doctor": "--json",
}


@pytest.fixture
def train_file(tmp_path):
    """60 users, each with 8 of the 40 items of their half."""
    rng = np.random.default_rng(0)
    pairs = [(user, 20 * (user % 2) + item) for user in range(60) for item in rng.permutation(20)[:8]]
    users, items = zip(*pairs, strict=True)
    path = tmp_path / "clicks.parquet"
    pq.write_table(pa.table({"user_id": [f"u{n}" for n in users], "item_id": pa.array(items, pa.int64())}), path)
    return path


def test_surface_is_pinned():
    group = typer.main.get_command(cli.app)
    assert list(group.commands) == list(SURFACE)
    for name, command in group.commands.items():
        arguments = [p.metavar for p in command.params if p.param_type_name == "argument"]
        options = sorted(o for p in command.params for o in p.opts if p.param_type_name == "option")
        assert [*arguments, *options] == SURFACE[name].split(), name
    assert [option for parameter in group.params for option in parameter.opts] == ["--version"]


def test_every_key_of_data_has_a_flag():
    flags = {flag.removeprefix("--").replace("-", "_") for flag in SURFACE["ingest"].split()[1:]}
    assert set(Data.model_fields) - flags == {"card", "folder", "digest"}


def test_version_and_help(gcnrec):
    assert gcnrec("--version") == (0, f"gcnrec {__version__}\n", "")
    code, out, _ = gcnrec("--help")
    assert code == 0 and all(name in out for name in SURFACE)


@pytest.mark.serial
def test_help_is_fast():
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gcnrec", "--help"], check=True, capture_output=True)
    assert time.perf_counter() - started < 2.0  # about 0.2 s; the slack is for a busy machine


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "job.toml", "--nonsense"],
        ["ingest"],
        ["ingest", "--out", "d"],
        ["evaluate", "r", "--k", "ten"],
        ["evaluate", "r", "--split", "tset"],
    ],
)
def test_usage_errors_are_2(gcnrec, arguments):
    code, out, err = gcnrec(*arguments)
    assert code == 2 and out == "" and err and "Traceback" not in err


def test_missing_job_is_one_sentence(gcnrec):
    assert gcnrec("run", "nothing.toml") == (2, "", "gcnrec: no such file: nothing.toml\n")


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (UsageError("usage"), 2, "usage"),
        (DataError("data"), 3, "data"),
        (DeviceError("device"), 4, "device"),
        (MemoryError(), 4, "memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 4, "ran out (can't allocate memory);"),
        (DivergedError("nan at step 7"), 5, "nan at step 7"),
        (OSError(errno.ENOSPC, "No space", "x"), 3, "disk is full (x)"),
        (KeyboardInterrupt(), 130, "start the same command again"),
    ],
)
def test_expected_errors_have_their_code(gcnrec, monkeypatch, problem, code, words):
    def fail(path):
        raise problem

    monkeypatch.setattr(pipeline, "describe", fail)
    came, out, err = gcnrec("info", "x")
    assert came == code and out == "" and words in err and err.startswith("gcnrec: ") and err.count("\n") == 1


def test_errors_as_json(gcnrec):
    code, out, err = gcnrec("evaluate", "nowhere", "--log-json")
    said = json.loads(err)
    assert (code, out) == (3, "") and (said["level"], said["event"], said["exit_code"]) == ("error", "error", 3)
    assert "nowhere is not a run folder" in said["text"]
    assert not gcnrec("evaluate", "nowhere")[2].startswith("{")


def test_all_of_a_run_as_json(gcnrec, train_file):
    flags = ["--train", train_file, "--user", "user_id", "--item", "item_id", "--out", "ds", "--log-json"]
    code, out, err = gcnrec("ingest", *flags)
    assert code == 0 and {json.loads(line)["event"] for line in err.splitlines()} >= {"note", "work"} and "num_users" in out
    Path("job.toml").write_text("[model]\nwidth = 4\n[train]\nepochs = 2\n[evaluate]\nbootstrap = 0\nbaselines = []\n")
    code, out, err = gcnrec("run", "job.toml", "--data", "ds", "--out", "r", "--json", "--log-json")
    lines = [json.loads(line) for line in err.splitlines()]
    assert code == 0 and json.loads(out)["run"] == "r"
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [1, 2]
    code, _, err = gcnrec("recommend", "r", "--out", "recs.parquet", "--log-json")
    assert code == 0 and json.loads(err.splitlines()[0])["what"] == "ranking"


@pytest.mark.parametrize("problem", [ValueError("bug"), OSError(errno.EACCES, "no")])
def test_a_bug_keeps_its_traceback(monkeypatch, problem):
    def fail(path):
        raise problem

    monkeypatch.setattr(pipeline, "describe", fail)
    with pytest.raises(type(problem)):
        cli.app(["info", "x"])


WAITS = """
import sys, time
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background would ignore
from gcnrec import cli, pipeline
def wait(path):
    print("ready", flush=True)
    time.sleep(60)
pipeline.describe = wait
sys.argv = ["gcnrec", "info", "x"]
cli.main()
"""


@pytest.mark.serial
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number, code):
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code and "the same command again" in err and "--resume" not in err and err.count("\n") == 1


def test_ingest_and_info(gcnrec, train_file):
    flags = ["--train", train_file, "--user", "user_id", "--item", "item_id", "--seed", 3]
    code, out, err = gcnrec("ingest", *flags, "--out", "ds")
    assert code == 0 and "num_users" in out and err
    code, out, err = gcnrec("info", "ds", "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "") and facts["num_users"] == 60 and facts["name"] == "clicks" and facts["data"]["seed"] == 3
    assert facts["num_train"] + facts["num_valid"] + facts["num_test"] == 480
    before = Path("ds/dataset.json").read_bytes()
    code, _, err = gcnrec("ingest", *flags, "--out", "ds")
    assert code == 3 and "ds exists" in err and Path("ds/dataset.json").read_bytes() == before
    assert gcnrec("ingest", *flags, "--out", "ds", "--force", "--json")[0] == 0


def test_ingest_names_the_nearest_column(gcnrec, train_file):
    code, _, err = gcnrec("ingest", "--train", train_file, "--user", "user", "--item", "item_id", "--out", "ds")
    assert code == 3 and "user_id" in err and not Path("ds").exists()


def test_info_of_neither(gcnrec):
    code, _, err = gcnrec("info", "nowhere")
    assert code == 2 and "dataset.json" in err and "lineage.json" in err


def test_doctor(gcnrec):
    code, out, _ = gcnrec("doctor", "--json")
    facts = json.loads(out)
    assert code == 0 and {"machine", "devices", "threads", "memory"} <= facts.keys()
    assert facts["threads"]["torch"] >= 1 and "lockable_gib" in facts["memory"] and facts["workers"]["gloo"]


def test_unknown_bench_names_the_nearest(gcnrec):
    code, _, err = gcnrec("bench", "propagat")
    assert code == 2 and "did you mean 'propagate'?" in err


def test_bench_refuses_data_that_it_would_not_use(gcnrec):
    code, _, err = gcnrec("bench", "ingest", "--data", "x")
    assert code == 2 and "leave --data out" in err


def test_every_bench_has_a_module_with_run():
    from importlib import import_module

    from gcnrec.bench.catalogue import BENCHES

    for name in BENCHES:
        assert callable(import_module(f"gcnrec.bench.{name.replace('-', '_')}").run)


def test_bench_prints_rows_and_code_4_when_a_peer_is_absent(gcnrec, monkeypatch):
    from gcnrec.bench import catalogue

    row = {"bench": "b", "variant": "gcnrec", "seconds": 1.0, "runs": 1, "units": 1, "rate": 1.0, "peak_bytes": 1}
    last = {"bench": "b", "summary": True, "ours": "gcnrec", "best_peer": None, "speedup": None, "absent": ["dgl"]}
    monkeypatch.setattr(catalogue, "rows_of", lambda what, data, workers: iter([row, last]))
    code, out, err = gcnrec("bench", "b", "--json")
    assert code == 4 and [json.loads(line) for line in out.splitlines()] == [row, last] and "dgl" in err
    monkeypatch.setattr(catalogue, "rows_of", lambda what, data, workers: iter([row, {**last, "speedup": 2.0, "absent": []}]))
    assert gcnrec("bench", "b", "--record", "r.json")[0] == 0
    document = json.loads(Path("r.json").read_text())
    assert document["rows"][0] == row and document["command"].startswith("gcnrec")
