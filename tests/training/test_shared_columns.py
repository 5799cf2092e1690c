"""Jobs whose columns workers share: what is refused in one sentence, and whole runs, in threads."""

from __future__ import annotations

import numba
import pytest
import torch
from fake_world import run_workers

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.system.observer import SILENT, Observer
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.open_keys import shared
from gcnrec.training.plan import plan_of
from gcnrec.training.train import train
from gcnrec.training.workers.follower import follow
from gcnrec.training.workers.shared import Chosen, by_columns, refuse_parts
from gcnrec.workers.world import Alone
from jobs.measure.kill.digests import digests


def job_of(**sections):
    defaults = {
        "model": {"width": 40, "layers": 2},
        "train": {"epochs": 2, "batch_size": 64, "threads": 1, "device": "cpu"},
        "evaluate": {"baselines": [], "metric": "recall@3", "k": [3], "bootstrap": 0},
    }
    return Job.parse({name: {**defaults.get(name, {}), **sections.get(name, {})} for name in {*defaults, *sections}}, [], "test")


def refused(workers, **sections):
    job = job_of(**sections)
    refuse_parts(job.train.parts or 1, workers, Chosen(job.model, job.loss, job.sampler, job.train.batch_size), plan_of(job, 100))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"optimizer": {"rule": "adam"}},
        {"optimizer": {"rule": "sgd"}, "loss": {"name": "directau"}},
        {"model": {"behaviours": "cascade"}},
        {"model": {"weighted_graph": True, "layers": 0}},
        {"train": {"parts": 1}},
    ],
)
def test_jobs_whose_columns_do_not_meet_are_shared(sections):
    assert by_columns(job_of(**sections).model)
    refused(3, **sections)


@pytest.mark.parametrize(
    ("workers", "sections", "words"),
    [
        (4, {}, "4 workers cannot share 40 columns, of which each gets 16 at least; use --workers 3"),
        (2, {"model": {"width": 16}}, "2 workers cannot share 16 columns, of which each gets 16 at least; use --workers 1"),
        (2, {"optimizer": {"rule": "adam_row"}}, "optimizer.rule has one number for all columns of a row"),
        (2, {"optimizer": {"rule": "adagrad_row"}}, "optimizer.rule has one number for all columns of a row"),
        (2, {"table": {"budget": 0.5}}, "rows of a sparse table have columns of their own"),
        (2, {"model": {"behaviours": "weighted"}}, "learns from all columns how much a behaviour weighs"),
        (2, {"model": {"name": "ngcf"}}, "ngcf mixes the columns of all rows"),
        (2, {"train": {"parts": 2}}, "2 workers cannot share this job: with model.propagation = 'full' workers share columns"),
        (1, {"train": {"parts": 4}}, "train.parts = 4 cannot share this job: with model.propagation = 'full' workers share"),
    ],
)
def test_jobs_whose_columns_meet_are_refused(workers, sections, words):
    with pytest.raises(UsageError, match=words):
        refused(workers, **sections)


@pytest.mark.parametrize(("workers", "parts"), [(2, None), (1, 4)])
def test_rows_that_catch_up_are_trained_by_one_process(workers, parts):
    train = {"batch_size": 64, **({"parts": parts} if parts else {})}
    sections = {"model": {"propagation": "sampled"}, "optimizer": {"rule": "adam_dense"}, "train": train}
    with pytest.raises(UsageError, match=r"cannot share this job: optimizer.rule = 'adam_dense' catches up rows .*'adam' has"):
        refused(workers, **sections)


def test_columns_are_shared_without_parts():
    job = job_of()
    assert shared(job, 4, SILENT) is job and shared(job, 2, SILENT) is job
    rows_alone = job_of(model={"name": "mf"}, optimizer={"rule": "adam"})
    assert shared(rows_alone, 4, SILENT).train.parts == 4
    refused(2, model={"name": "mf"}, train={"parts": 4})  # whatever propagation it does not have


@pytest.fixture
def one_thread():
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


class Killed(BaseException):
    """Nothing that training handles."""


class Killer(Observer):
    def epoch(self, record):
        raise Killed


def test_whole_runs_of_workers_leave_the_files_of_one(tmp_path, one_thread):
    """A fit and a refit: by one worker, by three, and by three until they are killed and then by two."""
    dataset = write_dataset(checkerboard(24), tmp_path / "data")
    job = job_of(train={"refit": "train+valid"}, run={"checkpoint_steps": 3})
    train(job, dataset, tmp_path / "one", world=Alone())
    expected = digests(tmp_path / "one")
    assert "checkpoints/last.safetensors" in expected and "embeddings/users.parquet" in expected

    def led(world, name, **options):
        if world.rank:
            follow(world)
            return
        train(job, dataset, tmp_path / name, world=world, **options)
        world.close()

    run_workers(3, lambda world: led(world, "three"))
    assert digests(tmp_path / "three") == expected
    with pytest.raises(Killed):
        run_workers(3, lambda world: led(world, "resumed", observer=Killer()))
    assert digests(tmp_path / "resumed") != expected
    run_workers(2, lambda world: led(world, "resumed", resume=True))
    assert digests(tmp_path / "resumed") == expected
