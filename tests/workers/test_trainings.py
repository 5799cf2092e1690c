"""Whole trainings by several processes: every file of the run folder is what one process leaves, to the bit."""

from __future__ import annotations

import importlib
import json
import threading

import pytest
import torch

from gcnrec.errors import UsageError
from gcnrec.steps.step import Step
from gcnrec.tables.dense import DenseTable
from gcnrec.training.train import train
from gcnrec.training.workers.share import Echo
from gcnrec.workers.launch import led
from gcnrec.workers.world import Alone
from jobs.measure.workers.cases import CASES, Case
from jobs.measure.workers.data import made
from jobs.measure.workers.equal import FOLLOWER, trained

train_module = importlib.import_module("gcnrec.training.train")
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


@pytest.mark.parametrize("name", BY_TWO)
@pytest.mark.parametrize("world", [2], indirect=True, scope="module")
def test_two_workers_leave_the_files_of_one(world, name, by_one, datasets, tmp_path):
    check(world, name, by_one, datasets[CASES[name].data], tmp_path / "run")


@pytest.mark.parametrize("name", BY_FOUR)
@pytest.mark.parametrize("world", [4], indirect=True, scope="module")
def test_four_workers_leave_the_files_of_one(world, name, by_one, datasets, tmp_path):
    check(world, name, by_one, datasets[CASES[name].data], tmp_path / "run")


def events(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_worker_with_whole_batches_trains_as_ever(datasets, tmp_path, monkeypatch):
    """No part, no dealt table, no process group and no thread of workers."""
    steps, names, fit = [], set(), train_module._fit

    def watched(work, step, *others):
        steps.append(step)
        progress = fit(work, step, *others)
        names.update(each.name for each in threading.enumerate())
        assert not torch.distributed.is_initialized()
        return progress

    for name in ("shared_step", "beginning"):
        monkeypatch.setattr(train_module, name, None)
    monkeypatch.setattr(train_module, "_fit", watched)
    for number, workers in enumerate((None, 1)):
        with led(workers) as world:
            train(CASES["none dense adam in_batch"].job(1), datasets["plain"], tmp_path / f"{number}", world=world)
    assert [(type(step), type(step.table)) for step in steps] == [(Step, DenseTable)] * 2
    assert not [name for name in names if name.startswith("gcnrec heart") or name == "gcnrec followers"]


def test_a_run_that_was_begun_with_whole_batches_is_resumed_by_one_worker(datasets, tmp_path):
    """Its numbers are of one part, whoever asks."""
    job, folder = CASES["none dense adam in_batch"].job(1), tmp_path / "run"
    open_job = job.model_copy(update={"train": job.train.model_copy(update={"parts": None})})
    train(open_job, datasets["plain"], folder)
    with pytest.raises(UsageError, match="begun with whole batches, which 2 workers cannot share; resume it with one"):
        train(open_job, datasets["plain"], folder, resume=True, world=Echo(2))
    train(open_job, datasets["plain"], folder, resume=True)


def test_a_batch_of_one_pair_for_each_part_trains_and_a_smaller_one_is_refused(datasets, tmp_path):
    settings = ['optimizer.rule="adam"', "train.epochs=1", "sampler.fraction=0.1"]
    least, smaller = (Case("small", "plain", (*settings, f"train.batch_size={size}")).job(8) for size in (8, 7))
    train(least, datasets["plain"], tmp_path / "run")
    with pytest.raises(UsageError, match=r"batch_size must be at least train.parts = 8, got 7; set it to 8 or more"):
        train(smaller, datasets["plain"], tmp_path / "other")
    assert not (tmp_path / "other").exists()
