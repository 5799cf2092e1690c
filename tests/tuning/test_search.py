"""Searches: what runs at a time, what ends early, what is kept and what a second call does. Most trials here are no processes."""

from __future__ import annotations

import fcntl
import json
import tomllib
from types import SimpleNamespace

import pytest

from gcnrec.config.tuning import load_search
from gcnrec.errors import DataError, Terminated, UsageError
from gcnrec.runs.contents import RunContents
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.tuning import search as searching

JOB = """
[model]
width = 4
[train]
epochs = 6
batch_size = 64
[evaluate]
metric = "recall@3"
k = [3]
patience = 0
[tune]
trials = 14
sampler = "random"
[tune.space]
optimizer.learning_rate = { low = 0.01, high = 1.0 }
"""


@pytest.fixture
def place(tmp_path):
    write_dataset(checkerboard(24), tmp_path / "data")
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


class Pretended:
    """A trial that validates an epoch each time it is looked at: recall rises to the learning rate. It is no process."""

    def __init__(self, rate, code):
        self.rate, self.code, self.epochs, self.ended = rate, code, 0, False

    def poll(self):
        if self.ended or self.epochs >= 6:
            return self.code
        self.epochs += 1
        return None

    def curve(self):
        return [(epoch, self.rate * epoch / 6) for epoch in range(1, self.epochs + 1)]

    def terminate(self):
        self.ended = True

    def wait(self, timeout=None):
        return 0


@pytest.fixture
def pretended(monkeypatch):
    """The trials that are started, by name, and each try. Names in `failing` end with exit code 5, others as `codes` has it."""
    trials, failing, busiest, started, codes = {}, set(), [0], [], {}

    def start(bed, run, slot):
        of_try = codes.get(run.name, [])
        code = of_try.pop(0) if of_try else 5 * (run.name in failing)
        trial = Pretended(run.job.optimizer.learning_rate, code)
        started.append(run.name)
        bed.log(run.name).write_text("gcnrec: the loss is not finite\n")
        trials[run.name] = trial
        busiest[0] = max(busiest[0], sum(not (each.ended or each.epochs >= 6) for each in trials.values()))
        return trial

    monkeypatch.setattr(searching._Bed, "start", start)
    monkeypatch.setattr(searching._Bed, "curve", lambda bed, name: trials[name].curve())
    monkeypatch.setattr(searching, "_POLL_SECONDS", 0.0)
    return SimpleNamespace(trials=trials, failing=failing, busiest=busiest, started=started, codes=codes)


def tune(place, out, jobs=1, report=lambda *said: None, **changes):
    return searching.tune(load_search(place / "job.toml", [], changes), place / "data", place / out, report=report, jobs=jobs)


def test_a_study_does_not_depend_on_how_many_train_at_a_time(place, pretended):
    said = []
    study = tune(place, "one", report=lambda *each: said.append(each))
    assert all(text.endswith("ended early at epoch 3") == (fields["state"] == "pruned") for fields, text, _ in said)
    assert pretended.busiest == [1] and [count for *_, count in said] == list(range(1, 15))
    tune(place, "three", jobs=3)
    assert pretended.busiest == [3]
    assert (place / "one" / "study.json").read_bytes() == (place / "three" / "study.json").read_bytes()
    rates = [record.params["optimizer.learning_rate"] for record in study.ended]
    assert study.best.number == max(range(14), key=rates.__getitem__) and study.best.best == (6, max(rates))
    # By hand: the median of the complete trials of earlier generations, from epoch 3 on.
    complete = list(rates[:4])
    for first in (4, 8, 12):
        middle = sorted(complete)[(len(complete) - 1) // 2 : len(complete) // 2 + 1]
        median = sum(middle) / len(middle)
        for record in study.ended[first : first + 4]:
            is_poor = record.params["optimizer.learning_rate"] < median
            assert (record.state, len(record.curve)) == (("pruned", 3) if is_poor else ("complete", 6))
        complete += [record.best[1] for record in study.ended[first : first + 4] if record.state == "complete"]
    assert any(record.state == "pruned" for record in study.ended)
    best = tomllib.loads((place / "one" / "best.toml").read_text())
    assert best["optimizer"]["learning_rate"] == max(rates) and best["train"]["epochs"] == 6
    page = (place / "one" / "tune.html").read_text()
    assert f"Best: trial {study.best.number}, recall@3 {max(rates):.4f} after epoch 6" in page and "<svg" in page
    assert "A share of the variance says" in page


def test_without_pruning_all_are_complete(place, pretended):
    (place / "job.toml").write_text(JOB.replace("trials = 14", "trials = 14\nprune = false"))
    assert {record.state for record in tune(place, "out").ended} == {"complete"}


def test_a_search_goes_on_where_it_was_stopped(place, pretended):
    def stopping(fields, text, done):
        if done == 6:
            raise Terminated

    with pytest.raises(Terminated):
        tune(place, "out", jobs=2, report=stopping)
    assert all(trial.ended or trial.epochs >= 6 for trial in pretended.trials.values()), "no trial goes on"
    assert len(json.loads((place / "out" / "study.json").read_text())["trials"]) == 6
    first = set(pretended.trials)
    pretended.trials.clear()
    tune(place, "out", jobs=2)
    assert not {"trial-0000", "trial-0003"} & set(pretended.trials) and "trial-0000" in first
    whole = tune(place, "whole")
    assert (place / "out" / "study.json").read_bytes() == (place / "whole" / "study.json").read_bytes()
    pretended.trials.clear()
    assert tune(place, "out", trials=16).summary["trials"] == 16 and sorted(pretended.trials) == ["trial-0014", "trial-0015"]
    assert whole.summary["best"] == whole.best.number


def test_trials_that_fail_are_named_and_others_go_on(place, pretended):
    pretended.failing.add("trial-0002")
    study = tune(place, "out", trials=4)
    assert [record.state for record in study.ended] == ["complete", "complete", "failed", "complete"]
    assert study.records[2].problem == "the loss is not finite" and study.summary["failed"] == 1
    page = (place / "out" / "tune.html").read_text()
    assert "the loss is not finite" in page and "share of the variance" not in page
    pretended.failing.update(f"trial-{number:04d}" for number in range(4))
    with pytest.raises(UsageError, match="none of 4 trials could be trained, the first because: the loss is not finite"):
        tune(place, "again", trials=8)


def test_a_failed_trial_is_tried_once_more_after_the_others(place, pretended):
    pretended.codes |= {"trial-0000": [4, 0], "trial-0001": [-9, -9], "trial-0002": [5], "trial-0003": [1, 4]}
    study = tune(place, "out", trials=4)
    assert pretended.started == [*(f"trial-{number:04d}" for number in range(4)), "trial-0000", "trial-0001", "trial-0003"]
    assert [record.state for record in study.ended] == ["complete", "failed", "failed", "failed"]
    said = [record.problem for record in study.ended]
    assert said[1] == "ended by signal 9, perhaps memory ran out; last line: the loss is not finite (tried twice)"
    assert said[2:] == ["the loss is not finite", "the loss is not finite (tried twice)"]
    pretended.started.clear()
    tune(place, "out", trials=4)
    assert pretended.started == []


def test_settings_that_contradict_each_other_fail_without_a_process(place, pretended):
    (place / "job.toml").write_text(
        JOB + "sampler.fanouts = [[2], [2, 2]]\nmodel.propagation = ['sampled']\nmodel.layers = [2]\n"
    )
    study = tune(place, "out", trials=8)
    for record in study.ended:
        fits = len(record.params["sampler.fanouts"]) == 2
        assert (record.state != "failed") == fits and (f"trial-{record.number:04d}" in pretended.trials) == fits
        assert fits or "sampler.fanouts must name a fanout for each of model.layers = 2 hops" in record.problem


def test_another_search_damage_or_a_second_writer_is_refused(place, pretended):
    tune(place, "out", trials=4)
    with pytest.raises(
        UsageError, match=r"study.json is a search with another sampler, seed or generation than .*; choose another --out"
    ):
        tune(place, "out", trials=4, seed=9)
    with (place / "out" / "tune.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is being tuned by another process"):
            tune(place, "out", trials=4)
    (place / "job.toml").write_text(JOB.replace("width = 4", "width = 8"))
    with pytest.raises(UsageError, match=r"study.json is a search with another job than"):
        tune(place, "out", trials=4)
    (place / "out" / "study.json").write_text('{"format": 1, "asked": {}, "trials": [{"number": -1}]}')
    with pytest.raises(
        DataError, match=r"study.json is damaged \(trials.0.number: .*; choose another --out, or remove the folder"
    ):
        tune(place, "out", trials=4)


def test_real_trials_train_without_reading_test(place, gcnrec):
    command = ["tune", str(place / "job.toml"), "--data", str(place / "data"), "--out", str(place / "out"), "--trials", "2"]
    code, out, err = gcnrec(*command, "--jobs", "2", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["trials"], found["failed"]) == (2, 0)
    contents = RunContents(place / "out" / "runs" / f"trial-{found['best']:04d}")
    assert found["recall@3"] == max(epoch.valid["recall@3"] for epoch in contents.validations("recall@3"))
    assert not list((place / "out").rglob("metrics.json"))
    again = gcnrec(*command)
    assert again[0] == 0 and "2 trials, 0 ended early, 0 failed" in again[1] and "best.toml" in again[1]
