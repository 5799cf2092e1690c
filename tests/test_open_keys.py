"""What a job leaves open is decided by its data, and stays as it was where a run goes on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gcnrec.config import Job
from gcnrec.graph import BipartiteGraph
from gcnrec.open_keys import begun_job, continued, notes, settled, swept
from gcnrec.toml import to_toml

GRAPH = BipartiteGraph.from_edges(np.arange(20, dtype=np.int32) % 10, np.arange(20, dtype=np.int32), 10, 20)
"""A tenth of all pairs: 1 / (1 + log 10) is 0.30."""


def data(split, valid=3):
    return SimpleNamespace(info={"split": split}, valid=[0] * valid, graph=GRAPH)


@pytest.mark.parametrize(
    ("split", "refit"),
    [("temporal", "train+valid"), ("leave_last", "train+valid"), ("random", False), ("given", False), ("cold_items", False)],
)
def test_splits_by_time_are_refitted_by_default(split, refit):
    job = settled(Job(), data(split))
    assert job.train.refit == refit
    assert any(line.startswith("refit") for line in notes(Job(), data(split))) == bool(refit)
    assert Job.parse({}, [], "x").train.refit is None


def test_a_job_that_names_it_has_it():
    for named in (False, "train+valid"):
        job = Job.parse({"train": {"refit": named}, "loss": {"temperature": 0.2}}, [], "x")
        assert settled(job, data("temporal")) == job and notes(job, data("temporal")) == []


def test_without_validation_pairs_there_is_nothing_to_refit_on():
    assert settled(Job(), data("temporal", valid=0)).train.refit is False


def test_a_resumed_run_keeps_what_it_began_with(tmp_path):
    sections = {"train": {"refit": False}, "evaluate": {"baselines": []}, "loss": {"temperature": 0.12}}
    begun = Job.parse(sections, [], "an earlier version's")
    assert begun_job(tmp_path) is None
    (tmp_path / "job.toml").write_text(to_toml(begun))
    assert begun_job(tmp_path) == begun
    job = settled(Job(), data("temporal"), begun_job(tmp_path))
    assert job.train.refit is False and job.evaluate.baselines == () and job.loss.temperature == 0.12
    sections = {"train": {"refit": "train+valid"}, "evaluate": {"baselines": ["ease"]}, "loss": {"temperature": 0.2}}
    named = Job.parse(sections, [], "x")
    assert continued(named, begun) == named


def test_runs_of_a_sweep_repeat_no_baselines_unless_named():
    assert swept(Job(), GRAPH).evaluate.baselines == ()
    named = Job.parse({"evaluate": {"baselines": ["ease"]}, "loss": {"temperature": 0.2}}, [], "x")
    assert swept(named, GRAPH) == named


def test_the_decision_is_written_down():
    job = settled(Job(), data("temporal"))
    assert 'refit = "train+valid"' in to_toml(job) and 'baselines = "auto"' in to_toml(job)
    assert Job.parse({"train": {"refit": "train+valid"}, "loss": {"temperature": 0.3}}, [], "x") == job


def test_the_temperature_follows_the_share_of_items_that_a_user_has():
    job = settled(Job(), data("random"))
    assert job.loss.temperature == pytest.approx(1 / (1 + np.log(10)), abs=0.005)
    (line,) = notes(Job(), data("random"))
    assert line == "loss.temperature = 0.3: a user has a share of 0.1 of the items, 1 / (1 + log(1 / share))"
    assert swept(Job(), GRAPH).loss.temperature == job.loss.temperature


@pytest.mark.parametrize(
    "sections",
    [{"loss": {"temperature": 0.12}}, {"loss": {"name": "bpr"}}, {"loss": {"score": "inner"}}, {"model": {"name": "itemknn"}}],
)
def test_a_temperature_that_is_named_or_is_none_of_a_cosine_stays(sections):
    job = Job.parse(sections, [], "x")
    assert settled(job, data("random")).loss.temperature == 0.12 and notes(job, data("random")) == []
