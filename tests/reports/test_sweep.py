"""Whole sweeps in processes of their own: a run that fails, what a second call does, being stopped, shares of the cores."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gcnrec.config import Job
from gcnrec.config.grid import load_grid
from gcnrec.errors import UsageError
from gcnrec.reports.trials import read_sweep
from gcnrec.runs.documents import read_json
from gcnrec.testing import checkerboard, write_dataset

sweeping = importlib.import_module("gcnrec.sweep")
ROOT = Path(__file__).parents[2]
GRID = """
[optimizer]
learning_rate = 0.02
[train]
epochs = 3
batch_size = 64
[evaluate]
metric = "recall@3"
k = [3]
patience = 0
bootstrap = 0
[grid]
train.seed = [0]
[variants.thin]
model.width = 2
[variants.wide]
model.width = 4
[variants.bad]
model.width = 4
optimizer.learning_rate = 1e38
"""
NAMES = ["thin-seed=0", "wide-seed=0", "bad-seed=0"]


def sweep(grid, data, out, report=lambda *ended: None, **options):
    return sweeping.sweep(grid, data, out, report=report, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_dataset(checkerboard(24), folder / "data")
    (folder / "grid.toml").write_text(GRID)
    return folder


@pytest.fixture(scope="module")
def swept(place):
    """A sweep of three runs, of which the last cannot learn, and how each ended."""
    told = []
    ended = sweep(
        load_grid(place / "grid.toml"), place / "data", place / "out", jobs=2, report=lambda *told_now: told.append(told_now)
    )
    return place / "out", ended, told


def test_a_run_that_fails_does_not_stop_the_others(swept):
    out, ended, told = swept
    assert [(one.name, one.code) for one in ended] == list(zip(NAMES, (0, 0, 5), strict=True))
    assert "not finite at step" in ended[2].failure and not ended[0].failure
    assert [count for _, count, _ in told] == [1, 2, 3] and {total for *_, total in told} == {3}
    for name in NAMES[:2]:
        assert read_json(out / "runs" / name / "metrics.json")["split"] == "test"
        assert (out / "runs" / name / "report.html").is_file()
    table = pq.read_table(out / "sweep.parquet").to_pydict()
    assert (table["run"], table["status"]) == (NAMES, ["done", "done", "failed"])
    assert table["failure"] == [None, None, ended[2].failure] and "not finite" in (out / "sweep.html").read_text()


def test_the_tables_repeat_the_run_folders(swept):
    out, _, _ = swept
    rows = pq.read_table(out / "sweep.parquet").to_pylist()
    lines = pq.read_table(out / "curves.parquet").to_pylist()
    for row in rows[:2]:
        folder = out / "runs" / row["run"]
        events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        events = [event for event in events if event["event"] == "epoch"]
        assert row["epochs"] == 3 and row["fit_seconds"] == events[-1]["seconds"] and row["refit_seconds"] is None
        assert row["epoch_seconds"] == pytest.approx(row["fit_seconds"] / 3)
        assert row["step_seconds"] == pytest.approx(row["fit_seconds"] / events[-1]["step"])
        assert row["valid.recall@3"] == max(event["valid"]["recall@3"] for event in events)
        assert row["test.recall@3"] == read_json(folder / "metrics.json")["recall@3"]
        assert row["values"] == read_json(folder / "memory.json")["values"] == 48 * row["model.width"]
        mine = [(line["epoch"], line["loss"], line["valid.recall@3"]) for line in lines if line["run"] == row["run"]]
        assert mine == [(event["epoch"], event["loss"], event["valid"]["recall@3"]) for event in events]
    assert [row["model.width"] for row in rows] == [2, 4, 4] and rows[2]["test.recall@3"] is None


def test_a_second_call_skips_what_is_finished_and_resumes_the_rest(swept, place, monkeypatch):
    """One run finished, one stopped after its last epoch, one that is no longer in the grid."""
    first, _, _ = swept
    out = place / "again"
    shutil.copytree(first, out)
    for name in ("metrics.json", "report.html", "embeddings/users.parquet"):
        (out / "runs" / NAMES[1] / name).unlink()
    (place / "two.toml").write_text(GRID[: GRID.index("[variants.bad]")])
    events = {name: (out / "runs" / name / "metrics.jsonl").read_bytes() for name in NAMES[:2]}
    ended = sweep(load_grid(place / "two.toml"), place / "data", out)
    assert [(one.code, bool(one.seconds)) for one in ended] == [(0, False), (0, True)]
    assert {name: (out / "runs" / name / "metrics.jsonl").read_bytes() for name in NAMES[:2]} == events  # nothing was trained
    metrics = [read_json(folder / "runs" / NAMES[1] / "metrics.json") for folder in (first, out)]
    assert metrics[0] == metrics[1] and [trial.status for trial in read_sweep(out).trials] == ["done", "done"]

    monkeypatch.setattr(subprocess, "Popen", None)  # all finished: no process is started
    assert [one.seconds for one in sweep(load_grid(place / "two.toml"), place / "data", out)] == [0.0, 0.0]


def test_other_settings_or_data_or_a_sweep_that_runs_are_refused(swept, place, tmp_path):
    out, _, _ = swept
    grid = load_grid(place / "grid.toml", ["train.epochs=4"])
    with pytest.raises(UsageError, match=r"thin-seed=0 was made with train.epochs = 3, the grid now has 4; choose another"):
        sweep(grid, place / "data", out)
    other = write_dataset(checkerboard(20), tmp_path / "other")
    with pytest.raises(UsageError, match=r"thin-seed=0 was made on other data \(.*data\) than .*other; choose another --out"):
        sweep(load_grid(place / "grid.toml"), other.folder, out)
    with (out / "sweep.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is being swept by another process"):
            sweep(load_grid(place / "grid.toml"), place / "data", out)


@pytest.mark.serial
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_being_stopped_ends_the_runs_and_leaves_them_resumable(place, tmp_path, number, code):
    """The command line itself: it gets the signal while a run trains, and no process stays behind."""
    (tmp_path / "long.toml").write_text(GRID[: GRID.index("[variants.wide]")].replace("epochs = 3", "epochs = 1000000"))
    command = [sys.executable, "-m", "gcnrec", "sweep", tmp_path / "long.toml", "--data", place / "data", "--out", tmp_path / "o"]
    # Programs that a shell started in the background ignore Ctrl-C, and so would what these tests start.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=heard
    )  # fmt: skip
    with process:
        last = tmp_path / "o" / "runs" / NAMES[0] / "checkpoints" / "last.safetensors"
        deadline = time.monotonic() + 60
        while not last.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in err
    with (tmp_path / "o" / "sweep.lock").open("ab") as file:
        # Held by every process of the sweep: all have ended, or do so when their parent was killed.
        fcntl.flock(file, fcntl.LOCK_EX | (0 if number == signal.SIGKILL else fcntl.LOCK_NB))
    assert "SIGTERM" in (tmp_path / "o" / "logs" / f"{NAMES[0]}.txt").read_text()
    assert last.is_file()


def test_the_command_line_tells_and_ends_with_the_worst_code(place, monkeypatch, capsys):
    from gcnrec import cli

    def ends(grid, data, out, *, jobs, report):
        codes = zip(grid.runs, (0, 5, 2), strict=True)
        made = [sweeping.Ended(run.name, code, 1.0, "it [broke]" if code else "") for run, code in codes]
        for count, one in enumerate(made, 1):
            report(one, count, 3)
        return made

    monkeypatch.setattr(sweeping, "sweep", ends)
    with pytest.raises(SystemExit) as caught:
        cli.app(["sweep", str(place / "grid.toml"), "--data", str(place / "data"), "--out", "o", "--jobs", "3"])
    shown = capsys.readouterr()
    assert caught.value.code == 5 and "1 of 3 runs finished" in shown.out
    last = shown.err.splitlines()[-1]
    assert last == "gcnrec: 2 of 3 runs failed, their logs lie in o/logs; start the same command again to try them anew"
    assert "1/3  thin-seed=0  1 s" in shown.err and "2/3  wide-seed=0  it [broke]" in shown.err


def test_a_run_sees_its_share_of_the_cores(swept):
    out, _, _ = swept
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert read_json(out / "runs" / NAMES[0] / "lineage.json")["machine"]["cores"] == share
    assert Job.load(out / "runs" / NAMES[0] / "job.toml").train.threads is None  # so another --jobs may resume it
