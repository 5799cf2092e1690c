"""The metric of docs/extending.md passes its check, and is measured wherever ours are; wrong ones are found."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Job
from gcnrec.config.job import _METRICS, _OTHER_METRICS
from gcnrec.errors import UsageError
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import METRICS
from gcnrec.ranking.beyond_accuracy import BeyondAccuracy
from gcnrec.ranking.metrics import PER_USER, Judged, per_user_with
from gcnrec.ranking.pairs.tilt import NAMES
from gcnrec.results.evaluate import evaluate_run
from gcnrec.runs.contents import RunContents
from gcnrec.testing import check_own_metric, checkerboard, write_dataset
from gcnrec.training.train import train

WRONG = """
import numpy as np

class Base:
    def __init__(self, settings):
        if settings: raise ValueError("none is known")

class Writes(Base):
    def values(self, judged, k):
        judged.hits_BK[:, k:] = False
        return judged.hits_BK.mean(1)

class Centred(Base):
    def values(self, judged, k):
        found = judged.hits_BK[:, :k].sum(1)
        return found - found.mean()

class Whole(Base):
    def values(self, judged, k): return judged.hits_BK.sum(1) / k

class Counts(Base):
    def values(self, judged, k): return judged.hits_BK[:, :k].sum(1)

class Undefined(Base):
    def values(self, judged, k): return judged.hits_BK[:, :k].sum(1) / (judged.items_BK[:, :k] >= 0).sum(1)

class Fails(Base):
    def values(self, judged, k): return judged.hits_BK[:, k].astype(float)

class Recall(Base):
    def values(self, judged, k): return judged.hits_BK[:, :k].sum(1) / judged.num_held_out_B
"""


def own(name, **settings) -> Own:
    return Own("evaluate.own_metrics.x", METRICS, name, settings)


def job(**evaluate) -> Job:
    sections = {
        "model": {"width": 4},
        "train": {"epochs": 3, "batch_size": 64, "threads": 1},
        "evaluate": {"baselines": ["popularity"], "k": [3, 10], "bootstrap": 20, **evaluate},
    }
    return Job.parse(sections, [], "job.toml")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("world") / "data")


def test_the_example_passes_the_check(extras):
    check_own_metric("rbp")
    check_own_metric("rbp:RankBiased", {"persistence": 0.5})


def test_the_example_is_its_formula(extras):
    hits_BK = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]], bool)
    judged = Judged(np.tile(np.arange(4, dtype=np.int32), (3, 1)), hits_BK, np.full(3, 3))
    expected = [0.5 * sum(0.5**rank for rank in range(3) if row[rank]) for row in hits_BK]
    assert per_user_with([own("rbp:RankBiased", persistence=0.5)])["x"](judged, 3).tolist() == expected


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Writes", "assignment destination is read-only"),
        ("Centred", "a value must follow from the user's own list alone"),
        ("Whole", "items behind the first k must not count"),
    ],
)
def test_the_check_finds_what_is_wrong(module, name, says):
    module(WRONG)
    with pytest.raises((AssertionError, UsageError), match=says):
        check_own_metric(f"written:{name}")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Counts", r"must give finite float64 \(40,\), a value for each user, got int64 \(40,\)"),
        ("Undefined", r"got float64 \(40,\) with values that are not finite"),
        (
            "Fails",
            r"values for lists of 40 users at k = 1 fails \(IndexError: .*, written\.py line \d+\); see docs/extending\.md",
        ),
    ],
)
def test_what_is_no_value_for_each_user_is_one_sentence(module, name, says):
    module(WRONG)
    with pytest.raises(UsageError, match=says):
        check_own_metric(f"written:{name}")


def test_a_run_has_the_metric_wherever_it_has_ours(extras, module, dataset, tmp_path):
    module(WRONG)
    measured = {"mine": "written:Recall", "rbp": "rbp"}
    run = train(job(metric="mine@3", own_metrics=measured, own_settings={"rbp": {"persistence": 0.9}}), dataset, tmp_path / "run")
    document = evaluate_run(run)
    assert document["mine@10"] == document["recall@10"] and document["intervals"]["mine@10"] == document["intervals"]["recall@10"]
    assert 0.0 < document["rbp@10"] < 1.0
    table = pq.read_table(run.folder / "per_user.parquet")
    assert table.column("mine@3").equals(table.column("recall@3")) and "rbp@3" in table.column_names
    for epoch in RunContents(run.folder).epochs("fit"):
        assert epoch.valid["mine@3"] == epoch.valid["recall@3"]
    again = train(job(metric="recall@3"), dataset, tmp_path / "by_recall")
    names = ("embeddings/users.parquet", "embeddings/items.parquet")
    assert all(pq.read_table(run.folder / name).equals(pq.read_table(again.folder / name)) for name in names)
    judged = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    assert judged["rbp@3"] == document["rbp@3"]


def test_to_evaluate_without_the_package_is_one_sentence(extras, dataset, tmp_path, monkeypatch):
    run = train(job(own_metrics={"rbp": "rbp"}), dataset, tmp_path / "run")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(extras)])
    del sys.modules["rbp"]
    with pytest.raises(UsageError, match=r"evaluate\.own_metrics\.rbp = 'rbp:RankBiased' needs the package 'rbp'"):
        evaluate_run(run)
    assert not (run.folder / "metrics.json").exists()


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        ({"own_metrics": {"recall": "rbp"}}, "own_metrics must not name 'recall', which gcnrec measures itself"),
        ({"own_metrics": {"coverage": "rbp"}}, "own_metrics must not name 'coverage'"),
        (
            {"own_metrics": {"r": "rbp"}, "own_settings": {"s": {}}},
            r"own_settings must be by names of own_metrics \(r\), got 's'",
        ),
        ({"metric": "rbp@20"}, "metric must be one of recall, .*, map, with a length such as @20, got 'rbp@20'"),
        ({"own_metrics": {"RBP": "rbp"}}, "string should match pattern"),
        ({"own_metrics": {"r": "rbq"}}, r"a metric of your own as package.module:Class .* gcnrec.metrics \(installed: rbp\)"),
    ],
)
def test_names_are_clear(extras, evaluate, says):
    with pytest.raises(UsageError, match=says):
        job(**evaluate)


def test_reserved_names_are_those_of_metrics():
    beyond = BeyondAccuracy(np.zeros((1, 1), np.float32), np.zeros(1, np.int64), ())
    assert tuple(PER_USER) == _METRICS
    assert {*_OTHER_METRICS} == {*NAMES, *beyond.names, "novelty", "coverage", "gini", "long_tail", "serendipity"}
