"""Wherever a run is killed or asked to stop, resuming it ends as if nobody had: file by file, bit for bit."""

from __future__ import annotations

import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import Terminated
from gcnrec.loaders.on_demand import DataRequest
from gcnrec.pipeline import run_job
from gcnrec.reports.progress import Quiet
from gcnrec.runs import lineage as lineage_module
from gcnrec.runs.checkpoints import load_checkpoint
from gcnrec.runs.events import Resume, read_events
from gcnrec.runs.folder import final_table
from gcnrec.steps.step import Step
from gcnrec.system.observer import SILENT
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train
from jobs.measure.kill import digests as run_digests

train_module = importlib.import_module("gcnrec.training.train")
epochs_module = importlib.import_module("gcnrec.steps.epochs")
SLOTS = {"table": {"budget": 0.5}, "sparsity": {"policy": "dynamic", "interval": 0.5, "batches": 2}}
REFIT = {"train": {"epochs": 3, "batch_size": 64, "threads": 1, "refit": "train+valid"}}
SAMPLED = {"propagation": "sampled", "layers": 2, "width": 16}
EVERY_ROW = {"optimizer": {"rule": "adam_dense", "learning_rate": 0.02, "schedule": "cosine"}}
VARIANTS = {
    "dense none": {"sampler": {"negatives": "uniform", "num_negatives": 2}},
    "dense full, every row": {"model": {"propagation": "full", "layers": 2, "width": 8}, "optimizer": {"rule": "adam_dense"}},
    "dense sampled, rows catch up": {"model": SAMPLED, "sampler": {"fanouts": [1, 1]}, **EVERY_ROW, **REFIT},
    "dense sampled on disk": {"model": SAMPLED, "sampler": {"fanouts": [3, 2]}, "table": {"placement": "disk"}},
    "ngcf": {"model": {"name": "ngcf", "propagation": "full", "layers": 2, "width": 8}, **REFIT},
    "graphsage": {"model": {**SAMPLED, "name": "graphsage"}, "sampler": {"fanouts": [3, 2]}},
    "slots none, stopped early": {**SLOTS, "evaluate": {"patience": 1, "metric": "recall@3", "k": [3], "baselines": []}},
    "slots full": {**SLOTS, "model": {"propagation": "full", "layers": 1, "width": 16}, **REFIT},
    "slots sampled": {**SLOTS, "model": SAMPLED, "sampler": {"fanouts": [3, 2]}},
}


def job(**sections):
    """Three epochs of four steps, a checkpoint every three, on one thread."""
    defaults = {
        "model": {"width": 16, "propagation": "none"},
        "optimizer": {"rule": "adam", "learning_rate": 0.02, "schedule": "cosine"},
        "train": {"epochs": 3, "batch_size": 64, "threads": 1},
        "evaluate": {"baselines": [], "metric": "recall@3", "k": [3], "bootstrap": 0, "patience": 0},
        "run": {"checkpoint_steps": 3},
    }
    return Job.parse({**defaults, **sections}, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(24), tmp_path_factory.mktemp("world") / "data")


@pytest.fixture(scope="module")
def digests():
    return run_digests


class Killed(BaseException):
    """What a process does after it was killed: nothing."""


def killing(patch, at):
    """The process dies at call number `at` of those that change what is on disk; returns all that it made until then."""
    calls = []

    def of(name, plain):
        def call(*arguments, **options):
            calls.append(name)
            if at is not None and len(calls) >= at:
                raise Killed
            return plain(*arguments, **options)

        return call

    for name in ("fsync", "replace", "rename", "unlink", "mkdir", "posix_fallocate"):
        patch.setattr(os, name, of(name, getattr(os, name)))
    return calls


def run(settings, dataset, out):
    return run_job(settings, DataRequest(settings.data, Path("job.toml"), dataset.folder), out, out.exists(), SILENT)


STRIDE = 31
"""Every so many calls are killed at: all of them take minutes."""


@pytest.mark.usefixtures("charts_take_no_time")
def test_killed_before_writes(dataset, tmp_path, digests, monkeypatch):
    """From making the run folder to the report's name."""
    settings = job(**SLOTS, **REFIT, evaluate={"metric": "recall@3", "k": [3], "bootstrap": 0, "baselines": ["popularity"]})
    run(settings, dataset, tmp_path / "warm")  # compiled code is written only once
    with monkeypatch.context() as patch:
        calls = killing(patch, None)
        run(settings, dataset, tmp_path / "whole")
    whole = digests.digests(tmp_path / "whole")
    assert len(calls) > 100
    for at in range(1, len(calls) + 1, STRIDE):
        out = tmp_path / f"killed {at}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, at)
            run(settings, dataset, out)
        run(settings, dataset, out)
        assert digests.differences(whole, digests.digests(out)) == [], at


def behind_a_device(fake_device):
    def placed(job, graph, table, tell, *features):
        return PipelinedTable(table, fake_device.FakeDevice(1), Prefixes(graph.num_users, 3, 4))

    return placed


def without_traffic(digests, folder):
    """metrics.jsonl of a device tells of rows that were announced, and read again after a stop."""
    return {name: digest for name, digest in digests.digests(folder).items() if name != "metrics.jsonl"}


def losses(folder):
    events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(event["stage"], event["epoch"], event["loss"], event.get("valid")) for event in events if event["event"] == "epoch"]


@pytest.mark.parametrize("device", [False, True], ids=["", "behind a device"])
@pytest.mark.parametrize("name", VARIANTS)
def test_killed_at_steps(name, device, dataset, tmp_path, digests, monkeypatch, fake_device):
    """Inside two steps of a run; the second is one that was done again, or the first of a refit."""
    sections = VARIANTS[name]
    if device:
        if sections.get("model", {}).get("propagation") == "full" or "optimizer" in sections:
            pytest.skip("full propagation and rows that catch up train in place")
        monkeypatch.setattr(train_module, "placed", behind_a_device(fake_device))
    settings = job(**sections)
    whole = train(settings, dataset, tmp_path / "whole").folder
    for cuts in ((2, 9), (8, 13)):
        out, done = tmp_path / f"cut {cuts}", []
        for cut in cuts:
            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr(Step, "train", dying(Step.train, cut, done))
                train(settings, dataset, out, resume=out.exists())
                raise Killed  # it had ended before: a stop that came too late
        train(settings, dataset, out, resume=True)
        assert losses(out) == losses(whole)
        assert digests.differences(without_traffic(digests, whole), without_traffic(digests, out)) == []


def test_the_best_checkpoint_has_rows_as_they_are_exported(dataset, tmp_path):
    """Without a refit another run may start from it: rows that lag would be older than what was exported."""
    settings = job(model={**SAMPLED, "layers": 1}, sampler={"fanouts": [1]}, **EVERY_ROW, train={"epochs": 2, "batch_size": 16})
    run = train(settings, dataset, tmp_path / "run")
    saved, progress = load_checkpoint(run.folder / "checkpoints" / "best.safetensors")
    steps = progress["best_epoch"] * (-(-dataset.graph.num_edges // 16))
    assert set(saved["table.last"].tolist()) == {steps} and torch.equal(final_table(run), saved["table.weights"])


def test_a_run_resumed_elsewhere_says_so(dataset, tmp_path, monkeypatch):
    """The number of threads is another: the event of the resume has it, and a warning names both."""
    settings, out, warned = job(train={"epochs": 3, "batch_size": 64}), tmp_path / "run", []
    observer = Quiet()
    observer.warn = warned.append
    for cores, stop in ((1, 4), (1, 3), (2, None)):
        monkeypatch.setattr(lineage_module, "available_cores", lambda cores=cores: cores)
        monkeypatch.setattr(lineage_module.numba.config, "NUMBA_NUM_THREADS", 8)
        with monkeypatch.context() as patch, nullcontext() if stop is None else pytest.raises(Killed):
            patch.setattr(Step, "train", dying(Step.train, stop, []))
            train(settings, dataset, out, resume=out.exists(), observer=observer)
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first, second = (event for event in events if event["event"] == "resume")
    assert (first["threads"], second["threads"], first["device"]) == (1, 2, "cpu")
    assert first["versions"]["torch"] == torch.__version__ and first["versions"]["python"] == platform.python_version()
    (warning,) = (event["text"] for event in events if event["event"] == "warning" and event["kind"] == "circumstances")
    assert "was begun with threads 1 (now 2), so it may end in other bits" in warning and warned == [warning]
    assert [event.threads for event in read_events(out) if isinstance(event, Resume)] == [1, 2]


def dying(plain, at, done):
    """A step that ends the process instead of being the `at`-th of all that were ever begun."""

    def step(self, uploaded, rate):
        done.append(uploaded.batch.step)
        if len(done) == at:
            raise Killed
        return plain(self, uploaded, rate)

    return step


class Signalling(Quiet):
    """Sends a signal to this process when it is told of a step; twice, if asked, the second at the next."""

    def __init__(self, number, at, times=1):
        self.number, self.left, self.times, self.steps = number, at, times, 0

    def step(self, *figures):
        self.steps += 1
        self.left -= 1
        if -self.times < self.left <= 0:
            signal.raise_signal(self.number)


STOPS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@pytest.fixture
def handlers():
    """Both signals as a program has them at its start, whoever started pytest."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOPS}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is signal.default_int_handler, "given back"
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("at", [2, 4, 14])
def test_a_signal_saves_the_step_it_came_in(number, at, dataset, tmp_path, digests, monkeypatch, handlers):
    monkeypatch.setattr(epochs_module, "REPORT_SECONDS", 0.0)
    settings, out = job(**SLOTS, **REFIT), tmp_path / "run"
    whole = train(settings, dataset, tmp_path / "whole").folder
    with pytest.raises(STOPS[number], match=r"run with --resume \(from Python: resume=True\)"):
        train(settings, dataset, out, observer=Signalling(number, at))
    _, progress = load_checkpoint(out / "checkpoints" / "last.safetensors")
    steps = 4 if progress["stage"] == "fit" else 5
    # The signal comes after step `at` was reported: the next one is finished, unless the epoch is at its end.
    done = progress["epoch"] * steps + progress["step"] + (12 if progress["stage"] == "refit" else 0)
    assert done in (at, at + 1)
    rest = Signalling(number, 10**9)
    train(settings, dataset, out, resume=True, observer=rest)
    assert done + rest.steps == 12 + 5 * json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["epoch"]
    assert losses(out) == losses(whole)
    for file in ("table.safetensors", "memory.json", "embeddings/users.parquet", "checkpoints/last.safetensors"):
        assert digests.digest_of(out / file) == digests.digest_of(whole / file)


@pytest.mark.parametrize("number", STOPS)
def test_a_second_signal_leaves_at_once(number, dataset, tmp_path, monkeypatch, handlers):
    plain, count = Step.train, []

    def twice(self, uploaded, rate):
        count.append(uploaded.batch.step)
        if len(count) == 6:
            signal.raise_signal(number)
            signal.raise_signal(number)
        return plain(self, uploaded, rate)

    monkeypatch.setattr(Step, "train", twice)
    with pytest.raises(STOPS[number]):
        train(job(), dataset, tmp_path / "run")
    _, progress = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert len(count) == 6 and (progress["epoch"], progress["step"]) == (1, 0)


LONG = """
[model]
width = 8
propagation = "none"
[optimizer]
rule = "adam"
[train]
epochs = 1000000
threads = 1
[evaluate]
patience = 0
every = 1000000
"""


@pytest.mark.serial
def test_a_command_that_is_stopped_says_how_it_continues(dataset, tmp_path):
    """Its exit code is 128 and the signal's number; the step is saved, whenever it came."""
    (tmp_path / "job.toml").write_text(LONG)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    command = [sys.executable, "-m", "gcnrec", "train", "job.toml", "--data", dataset.folder, "--out", tmp_path / "run"]
    for number, resume in ((signal.SIGTERM, []), (signal.SIGINT, ["--resume"])):
        before = last.stat().st_mtime_ns if last.exists() else 0
        # A shell that was started in the background makes its children ignore Ctrl-C.
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen([*command, *resume], stderr=subprocess.PIPE, text=True, preexec_fn=heard, cwd=tmp_path)
        with process:
            deadline = time.monotonic() + 60
            while (not last.exists() or last.stat().st_mtime_ns == before) and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert err.splitlines()[-1].endswith(f"continue {tmp_path / 'run'} with --resume (from Python: resume=True)")
        assert "Traceback" not in err and not (tmp_path / "run" / "run.lock").exists()
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in steps].count("resume") == 1


def test_a_signal_while_validating_saves_all_steps_of_the_epoch(dataset, tmp_path, digests, monkeypatch, handlers):
    settings, out = job(run={"checkpoint_every": 3}), tmp_path / "run"
    whole = train(settings, dataset, tmp_path / "whole").folder
    with monkeypatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(train_module, "validate", lambda *_: signal.raise_signal(signal.SIGTERM))
        train(settings, dataset, out)
    _, progress = load_checkpoint(out / "checkpoints" / "last.safetensors")
    assert (progress["epoch"], progress["step"]) == (0, 4)
    with monkeypatch.context() as patch:
        steps = []
        patch.setattr(Step, "train", dying(Step.train, None, steps))
        train(settings, dataset, out, resume=True)
    assert steps == list(range(5, 13)) and losses(out) == losses(whole)


def test_a_signal_while_exporting_leaves_what_is_saved(dataset, tmp_path, monkeypatch, handlers):
    settings, out = job(), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "finish", lambda *_: signal.raise_signal(signal.SIGINT))
        train(settings, dataset, out)
    with monkeypatch.context() as patch:
        steps = []
        patch.setattr(Step, "train", dying(Step.train, None, steps))
        train(settings, dataset, out, resume=True)
    assert steps == [] and (out / "memory.json").is_file()


def test_other_threads_leave_the_handlers_alone(dataset, tmp_path, monkeypatch, handlers):
    seen = []
    plain = Step.train

    def looking(self, uploaded, rate):
        seen.append(signal.getsignal(signal.SIGTERM))
        return plain(self, uploaded, rate)

    monkeypatch.setattr(Step, "train", looking)
    thread = threading.Thread(target=train, args=(job(), dataset, tmp_path / "run"))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "memory.json").is_file() and set(seen) == {signal.default_int_handler}


def test_what_was_ignored_stays_ignored(dataset, tmp_path, handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train(job(), dataset, tmp_path / "run", observer=Signalling(signal.SIGINT, 3))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_finished_run_is_not_trained_again(dataset, tmp_path, digests, monkeypatch):
    out = tmp_path / "run"
    run(job(**REFIT), dataset, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "memory.json", *(out / "checkpoints").iterdir())}
    content = digests.digests(out)
    monkeypatch.setattr(Step, "train", dying(Step.train, 1, []))
    run(job(**REFIT), dataset, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before and digests.digests(out) == content


def test_best_is_that_of_the_checkpoint_that_is_resumed(dataset, tmp_path, digests, monkeypatch):
    """The best epoch is replaced, the last checkpoint is lost, and the one before it knows an earlier best one."""
    turns = {1: 0.1, 2: 0.3, 3: 0.2}

    def list_of(folder):
        return losses(folder) if (folder / "metrics.jsonl").exists() else []

    def validate(work, step):
        return {"valid": {"recall@3": turns[len(list_of(work.folder)) + 1]}}

    monkeypatch.setattr(train_module, "validate", validate)

    settings, out = job(run={"checkpoint_steps": 1}), tmp_path / "run"
    whole = train(settings, dataset, tmp_path / "whole").folder
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Step, "train", dying(Step.train, 9, []))
        train(settings, dataset, out)
    assert load_checkpoint(out / "checkpoints" / "best.safetensors")[1]["best_epoch"] == 2
    last = out / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    train(settings, dataset, out, resume=True)
    assert digests.differences(without_traffic(digests, whole), without_traffic(digests, out)) == []


def test_minutes_without_a_checkpoint_bring_one(dataset, tmp_path, monkeypatch):
    plain, kept = epochs_module.Checkpoints.save, []

    def save(self, tensors, progress):
        kept.append((progress["epoch"], progress["step"]))
        plain(self, tensors, progress)

    monkeypatch.setattr(epochs_module.Checkpoints, "save", save)
    train(job(run={"checkpoint_minutes": 1e-9, "checkpoint_every": 9}), dataset, tmp_path / "run")
    assert kept == [(epoch, step) for epoch in range(3) for step in range(1, 5)] + [(3, 0)]
