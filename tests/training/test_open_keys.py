"""What a job leaves open is decided by its data, and stays as it was where a run goes on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gcnrec.config import Job
from gcnrec.config.toml import to_toml
from gcnrec.graph import BipartiteGraph
from gcnrec.training.open_keys import begun_job, commented, continued, notes, settled, swept

GRAPH = BipartiteGraph.from_edges(np.arange(20, dtype=np.int32) % 10, np.arange(20, dtype=np.int32), 10, 20)
"""A tenth of all pairs, two thirds of an interaction a node: (1 + 2 / (2 / 3)) / (1 + log 10) is above the most, 0.5."""


def data(split, valid=3, keeps_repeats=False):
    given = {"valid": [0] * valid, "graph": GRAPH, "others": (), "negatives": None, "keeps_repeats": keeps_repeats}
    return SimpleNamespace(info={"split": split}, **given)


@pytest.mark.parametrize(
    ("split", "refit"),
    [("temporal", "train+valid"), ("leave_last", "train+valid"), ("random", False), ("given", False), ("cold_items", False)],
)
def test_splits_by_time_are_refitted_by_default(split, refit):
    job = settled(Job(), data(split))
    assert job.train.refit == refit
    assert any(line.startswith("train.refit=train+valid") for line in notes(Job(), data(split))) == bool(refit)
    assert Job.parse({}, [], "x").train.refit is None


def test_a_job_that_names_it_has_it():
    for named in (False, "train+valid"):
        sections = {"train": {"refit": named}, "loss": {"temperature": 0.2}, "model": {"start_scale": 0.1}}
        job = Job.parse({**sections, "evaluate": {"seen": "all"}}, [], "x")
        assert settled(job, data("temporal")) == job and notes(job, data("temporal")) == []


def test_lists_leave_nothing_out_where_ingestion_kept_repeats():
    assert settled(Job(), data("random")).evaluate.seen == "all"
    assert settled(Job(), data("random", keeps_repeats=True)).evaluate.seen == "none"
    named = Job.parse({"evaluate": {"seen": "all"}}, [], "x")
    assert settled(named, data("random", keeps_repeats=True)).evaluate.seen == "all"
    assert settled(Job(), data("random", keeps_repeats=True), named).evaluate.seen == "all"  # as the run began
    assert settled(Job(), data("random"), Job()).evaluate.seen is None  # a run of an earlier version


def test_without_validation_pairs_there_is_nothing_to_refit_on():
    assert settled(Job(), data("temporal", valid=0)).train.refit is False


def test_a_resumed_run_keeps_what_it_began_with(tmp_path):
    sections = {"train": {"refit": False}, "evaluate": {"baselines": []}, "loss": {"temperature": 0.12}}
    sections["model"] = {"start_scale": 0.1}
    begun = Job.parse(sections, [], "an earlier version's")
    assert begun_job(tmp_path) is None
    (tmp_path / "job.toml").write_text(to_toml(begun))
    assert begun_job(tmp_path) == begun
    job = settled(Job(), data("temporal"), begun_job(tmp_path))
    assert job.train.refit is False and job.evaluate.baselines == ()
    assert (job.loss.temperature, job.model.start_scale) == (0.12, 0.1)
    sections = {"train": {"refit": "train+valid"}, "evaluate": {"baselines": ["ease"]}, "loss": {"temperature": 0.2}}
    sections["model"] = {"start_scale": 0.1}
    named = Job.parse(sections, [], "x")
    assert continued(named, begun) == named


def test_runs_of_a_sweep_repeat_no_baselines_unless_named():
    assert swept(Job(), data("random")).evaluate.baselines == ()
    sections = {"evaluate": {"baselines": ["ease"]}, "loss": {"temperature": 0.2}, "model": {"start_scale": 0.1}}
    named = Job.parse(sections, [], "x")
    assert swept(named, data("random")) == named


def test_the_decision_is_written_down():
    job = settled(Job(), data("temporal"))
    assert 'refit = "train+valid"' in to_toml(job) and 'baselines = "auto"' in to_toml(job)
    sections = {"train": {"refit": "train+valid"}, "loss": {"temperature": 0.5}, "model": {"start_scale": 0.02}}
    assert Job.parse({**sections, "evaluate": {"seen": "all"}}, [], "x") == job


def dense():
    """60 users with 30 of 60 items each: 15 interactions a node."""
    users, items = np.divmod(np.arange(60 * 30, dtype=np.int32), 30)
    return BipartiteGraph.from_edges(users.astype(np.int32), (2 * items + users % 2).astype(np.int32), 60, 60)


def sparse():
    """100 users with 3 of 1,000 items each: 3/11 interactions a node."""
    users, items = np.divmod(np.arange(300, dtype=np.int32), 3)
    return BipartiteGraph.from_edges(users.astype(np.int32), (items * 300 + users).astype(np.int32), 100, 1000)


def large():
    """200 users with 40 of 4,000 items each: 8,000 / 4,200 interactions a node."""
    users, items = np.divmod(np.arange(8000, dtype=np.int32), 40)
    return BipartiteGraph.from_edges(users.astype(np.int32), (items * 100 + users % 100).astype(np.int32), 200, 4000)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [(dense, (1 + 2 / 15) / (1 + np.log(2))), (sparse, 0.5), (large, (1 + 2 / (8000 / 4200)) / (1 + np.log(100)))],
)
def test_the_temperature_reaches_what_the_data_can_tell_within_bounds(graph, expected):
    made = graph()
    given = SimpleNamespace(info={"split": "random"}, valid=[], graph=made, others=(), negatives=None, keeps_repeats=False)
    job = settled(Job(), given)
    assert job.loss.temperature == pytest.approx(min(expected, 0.5), abs=0.005)
    assert swept(Job(), given).loss.temperature == job.loss.temperature


def test_lines_say_why():
    first, second = notes(Job(), data("random"))
    assert first == "loss.temperature=0.5: users have 0.1 of the items each, nodes 0.7 interactions"
    assert second.startswith("model.start_scale=0.02: ")


def test_the_resolved_job_names_every_key_and_says_why(tmp_path):
    text = commented(Job(), data("temporal"))
    path = tmp_path / "resolved.toml"
    path.write_text(text)
    assert Job.load(path) == settled(Job(), data("temporal"))
    lines = [line for line in text.splitlines() if "#" in line]
    assert [line.partition("  # ")[0] for line in lines] == ["start_scale = 0.02", "temperature = 0.5", 'refit = "train+valid"']
    assert "temperature = 0.5  # users have 0.1 of the items each, nodes 0.7 interactions" in lines


@pytest.mark.parametrize(
    ("sections", "scale"),
    [({}, 0.02), ({"model": {"start_scale": 0.3}}, 0.3), ({"model": {"name": "mf"}}, 0.1), ({"table": {"budget": 0.5}}, 0.1)],
)
def test_rows_of_cosines_start_short(sections, scale):
    assert settled(Job.parse(sections, [], "x"), data("random")).model.start_scale == scale


@pytest.mark.parametrize(
    "sections",
    [{"loss": {"temperature": 0.12}}, {"loss": {"name": "bpr"}}, {"loss": {"score": "inner"}}, {"model": {"name": "itemknn"}}],
)
def test_a_temperature_that_is_named_or_is_none_of_a_cosine_stays(sections):
    job = Job.parse(sections, [], "x")
    assert settled(job, data("random")).loss.temperature == 0.12
    assert not any(line.startswith("loss.temperature") for line in notes(job, data("random")))
