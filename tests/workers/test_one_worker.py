"""What one process does alone: whole batches as ever, and what it says of runs and batches that workers cannot share.

A file of its own: in `test_trainings.py` this process leads a world for many tests.
"""

from __future__ import annotations

import importlib
import threading

import pytest
import torch

from gcnrec.errors import UsageError
from gcnrec.steps.step import Step
from gcnrec.tables.dense import DenseTable
from gcnrec.training.train import train
from gcnrec.training.workers.share import Echo
from gcnrec.workers.launch import led
from jobs.measure.workers.cases import CASES, Case
from jobs.measure.workers.data import made

train_module = importlib.import_module("gcnrec.training.train")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return made("plain", tmp_path_factory.mktemp("data") / "plain")


def test_one_worker_with_whole_batches_trains_as_ever(dataset, tmp_path, monkeypatch):
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
            train(CASES["none dense adam in_batch"].job(1), dataset, tmp_path / f"{number}", world=world)
    assert [(type(step), type(step.table)) for step in steps] == [(Step, DenseTable)] * 2
    assert not [name for name in names if name.startswith("gcnrec heart") or name == "gcnrec followers"]


def test_a_run_that_was_begun_with_whole_batches_is_resumed_by_one_worker(dataset, tmp_path):
    """Its numbers are of one part, whoever asks."""
    job, folder = CASES["none dense adam in_batch"].job(1), tmp_path / "run"
    open_job = job.model_copy(update={"train": job.train.model_copy(update={"parts": None})})
    train(open_job, dataset, folder)
    with pytest.raises(UsageError, match="begun with whole batches, which 2 workers cannot share; resume it with one"):
        train(open_job, dataset, folder, resume=True, world=Echo(2))
    train(open_job, dataset, folder, resume=True)


def test_a_batch_of_one_pair_for_each_part_trains_and_a_smaller_one_is_refused(dataset, tmp_path):
    settings = ['optimizer.rule="adam"', "train.epochs=1", "sampler.fraction=0.1"]
    least, smaller = (Case("small", "plain", (*settings, f"train.batch_size={size}")).job(8) for size in (8, 7))
    train(least, dataset, tmp_path / "run")
    with pytest.raises(UsageError, match=r"batch_size must be at least train.parts = 8, got 7; set it to 8 or more"):
        train(smaller, dataset, tmp_path / "other")
    assert not (tmp_path / "other").exists()
