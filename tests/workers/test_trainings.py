"""Whole trainings by several processes: every file of the run folder is what one process leaves, to the bit."""

from __future__ import annotations

import json

import pytest

from gcnrec.workers.launch import led
from gcnrec.workers.world import Alone
from jobs.measure.workers.cases import CASES
from jobs.measure.workers.data import made
from jobs.measure.workers.equal import FOLLOWER, trained

BY_TWO = [
    "none dense adam in_batch",
    "none float32 adagrad_row popularity",
    "sampled bfloat16 adam in_batch",
    "sampled dense adagrad_row popularity",
    *(name for name in CASES if name.startswith("policy")),
    "graphsage float32",
    "graphsage int8 refit",
    "pinsage",
    "behaviours merge",
    "disliked and weights",
]
"""Every two of none and sampled, tables, rules, kinds of negatives; every policy; what reads features or other behaviours."""
SLOW = [name for name in CASES if name.startswith("policy") and not name.endswith("rigl")]
"""`make slow` has these, and `jobs.measure.workers.equal` all jobs."""
BY_FOUR = ["sampled bfloat16 adam in_batch", "graphsage int8 refit"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {kind: made(kind, folder / kind) for kind in ("plain", "shop", "rated")}


@pytest.fixture(scope="module")
def by_one(datasets, tmp_path_factory):
    """What one process leaves of a job, trained once."""
    found = {}

    def digests_of(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("one") / "run"
            found[name] = trained(CASES[name], datasets[CASES[name].data], folder, Alone())
        return found[name]

    return digests_of


@pytest.fixture(scope="module")
def world(request):
    """Workers that live through all jobs."""
    with led(request.param, 2.0, FOLLOWER) as group:
        yield group


def check(world, name, by_one, dataset, folder):
    expected = by_one(name)
    assert {"checkpoints/best.safetensors", "checkpoints/last.safetensors", "embeddings/items.parquet"} <= expected.keys()
    assert trained(CASES[name], dataset, folder, world) == expected
    losses = [event["loss"] for event in events(folder) if event["event"] == "epoch"]
    assert losses[1] < losses[0]
    explored = [event for event in events(folder) if event["event"] == "explore"]
    assert bool(explored) == any("sparsity.policy" in key and "static" not in key for key in CASES[name].settings)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in BY_TWO])
@pytest.mark.parametrize("world", [2], indirect=True, scope="module")
def test_two_workers_leave_the_files_of_one(world, name, by_one, datasets, tmp_path):
    check(world, name, by_one, datasets[CASES[name].data], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_FOUR)
@pytest.mark.parametrize("world", [4], indirect=True, scope="module")
def test_four_workers_leave_the_files_of_one(world, name, by_one, datasets, tmp_path):
    check(world, name, by_one, datasets[CASES[name].data], tmp_path / "run")


def events(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
