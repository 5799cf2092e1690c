"""What a job leaves open is decided by its data, and stays as it was where a run goes on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gcnrec.config import Job
from gcnrec.open_keys import begun_job, continued, refit_note, settled, swept
from gcnrec.toml import to_toml


def data(split, valid=3):
    return SimpleNamespace(info={"split": split}, valid=[0] * valid)


@pytest.mark.parametrize(
    ("split", "refit"),
    [("temporal", "train+valid"), ("leave_last", "train+valid"), ("random", False), ("given", False), ("cold_items", False)],
)
def test_splits_by_time_are_refitted_by_default(split, refit):
    job = settled(Job(), data(split))
    assert job.train.refit == refit
    assert (refit_note(Job(), data(split)) is not None) == bool(refit)
    assert Job.parse({}, [], "x").train.refit is None


def test_a_job_that_names_it_has_it():
    for named in (False, "train+valid"):
        job = Job.parse({"train": {"refit": named}}, [], "x")
        assert settled(job, data("temporal")) == job and refit_note(job, data("temporal")) is None


def test_without_validation_pairs_there_is_nothing_to_refit_on():
    assert settled(Job(), data("temporal", valid=0)).train.refit is False


def test_a_resumed_run_keeps_what_it_began_with(tmp_path):
    begun = Job.parse({"train": {"refit": False}, "evaluate": {"baselines": []}}, [], "an earlier version's")
    assert begun_job(tmp_path) is None
    (tmp_path / "job.toml").write_text(to_toml(begun))
    assert begun_job(tmp_path) == begun
    job = settled(Job(), data("temporal"), begun_job(tmp_path))
    assert job.train.refit is False and job.evaluate.baselines == ()
    named = Job.parse({"train": {"refit": "train+valid"}, "evaluate": {"baselines": ["ease"]}}, [], "x")
    assert continued(named, begun) == named


def test_runs_of_a_sweep_repeat_no_baselines_unless_named():
    assert swept(Job()).evaluate.baselines == ()
    named = Job.parse({"evaluate": {"baselines": ["ease"]}}, [], "x")
    assert swept(named) == named


def test_the_decision_is_written_down():
    job = settled(Job(), data("temporal"))
    assert 'refit = "train+valid"' in to_toml(job) and 'baselines = "auto"' in to_toml(job)
    assert Job.parse({"train": {"refit": "train+valid"}}, [], "x") == job
