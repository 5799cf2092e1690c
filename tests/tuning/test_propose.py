"""Proposals lie in the space, are equal for equal trials, and Optuna's learn from them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gcnrec.config.tuning import Range, Search, Space, Tune
from gcnrec.errors import UsageError
from gcnrec.tuning.propose import proposed, require_sampler, total
from gcnrec.tuning.study import Record

SPACE = Space(
    {
        "optimizer.learning_rate": Range(low=1e-4, high=1e-1, log=True),
        "loss.temperature": Range(low=0.1, high=0.5),
        "model.layers": Range(low=1, high=3),
        "sampler.fanouts": [[4, 4], [2, 2]],
    }
)


def search(sampler, tmp_path, space=SPACE):
    return Search(tmp_path / "job.toml", {}, (), Tune(sampler=sampler, seed=5, trials=40), space)


def check_within(params):
    """Raise unless the params are of `SPACE`."""
    assert list(params) == list(SPACE.dimensions)
    assert 1e-4 <= params["optimizer.learning_rate"] <= 0.1 and 0.1 <= params["loss.temperature"] <= 0.5
    assert type(params["model.layers"]) is int and 1 <= params["model.layers"] <= 3
    assert params["sampler.fanouts"] in ([4, 4], [2, 2])


def test_draws_are_uniform_on_their_scale(tmp_path):
    drawn = proposed(search("random", tmp_path), [], 0, 900)
    for params in drawn:
        check_within(params)
    logs = np.log10([params["optimizer.learning_rate"] for params in drawn])
    assert abs(np.mean(logs) + 2.5) < 0.1 and abs(np.std(logs) - 3 / np.sqrt(12)) < 0.05
    counts = np.bincount([params["model.layers"] for params in drawn], minlength=4)
    assert counts[0] == 0 and (abs(counts[1:] - 300) < 60).all()  # four standard deviations
    assert drawn[10:14] == proposed(search("random", tmp_path), [], 10, 4)


def judged(number, params):
    """A trial whose metric is best at a rate of 1e-3 and two layers."""
    value = -abs(np.log10(params["optimizer.learning_rate"]) + 3) - abs(params["model.layers"] - 2)
    return Record(number=number, params=params, state="complete", curve=[(1, value - 1), (2, value)])


def test_parzen_estimators_learn_and_repeat(tmp_path):
    pytest.importorskip("optuna")
    asked, records = search("tpe", tmp_path), []
    for first in range(0, 40, 4):
        params = proposed(asked, records, first, 4)
        assert params == proposed(asked, records, first, 4)
        for number, each in enumerate(params, first):
            check_within(each)
            records.append(judged(number, each))
    early, late = ([record.best[1] for record in part] for part in (records[:12], records[-12:]))
    assert np.mean(late) > np.mean(early) + 0.3


def test_trials_that_failed_or_ended_early_count_too(tmp_path):
    pytest.importorskip("optuna")
    asked = search("tpe", tmp_path)
    params = proposed(asked, [], 0, 14)
    records = [judged(number, each) for number, each in enumerate(params)]
    of_complete = proposed(asked, records, 14, 2)
    records[3] = Record(number=3, params=params[3], state="failed", problem="no memory")
    records[4] = Record(number=4, params=params[4], state="pruned", curve=[(1, 0.1), (3, 0.2)])
    found = proposed(asked, records, 14, 2)
    assert found != of_complete and len(found) == 2
    for each in found:
        check_within(each)


def test_a_grid_has_as_many_trials_as_combinations(tmp_path):
    asked = search("grid", tmp_path, Space({"model.layers": [1, 2, 3], "train.seed": [0, 1]}))
    assert total(asked) == 6 and total(search("random", tmp_path)) == 40
    assert proposed(asked, [], 4, 4) == [{"model.layers": 3, "train.seed": 0}, {"model.layers": 3, "train.seed": 1}]


def test_a_missing_optuna_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    require_sampler("random")
    with pytest.raises(UsageError, match=r"= 'tpe' needs Optuna, .*; pip install '.\[tune\]' in .*, or --sampler random"):
        require_sampler("tpe")
