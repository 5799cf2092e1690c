"""Jobs that workers share behind devices: whole runs leave the files of one process and of workers on CPUs; what is refused."""

from __future__ import annotations

import json

import numba
import pytest
import torch
from fake_world import run_workers

from gcnrec.config import Job
from gcnrec.errors import DeviceError, PeerLostError
from gcnrec.system.observer import SILENT, Observer
from gcnrec.tables import placement
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.check import check
from gcnrec.training.train import train
from gcnrec.training.workers.follower import follow
from gcnrec.training.workers.share import Echo
from gcnrec.training.workers.shared import beginning
from gcnrec.workers.world import Alone
from jobs.measure.kill.digests import digests
from jobs.measure.workers.cases import CASES
from jobs.measure.workers.data import made

JOBS = {
    "dense in the device, refit": {"table": {"placement": "device"}, "train": {"refit": "train+valid", "epochs": 1}},
    "slots in host memory, explored": {
        "table": {"budget": 0.5, "dtype": "bfloat16", "placement": "host"},
        "sparsity": {"policy": "dynamic", "batches": 2},
    },
}  # fmt: skip


def job_of(**sections):
    defaults = {
        "model": {"propagation": "sampled", "width": 8, "layers": 2, "start": "normal"},
        "optimizer": {"rule": "adam"},
        "sampler": {"fanouts": [3, 2]},
        "train": {"epochs": 2, "batch_size": 64, "threads": 1, "parts": 2, "device": "cpu"},
        "evaluate": {"baselines": [], "metric": "recall@3", "k": [3], "bootstrap": 0},
    }
    return Job.parse({name: {**defaults.get(name, {}), **sections.get(name, {})} for name in {*defaults, *sections}}, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(24), tmp_path_factory.mktemp("shared") / "data")


@pytest.fixture(autouse=True)
def one_thread():
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


def led(world, job, dataset, folder, **options):
    if world.rank:
        follow(world)
        return
    train(job, dataset, folder, world=world, **options)
    world.close()


@pytest.mark.parametrize("name", JOBS)
def test_whole_runs_leave_the_files_of_workers_on_cpus(name, dataset, tmp_path, monkeypatch, fake_device):
    """By two workers on CPUs; behind devices by one, by two, and by two until the leader is killed and then by one."""

    class Held(fake_device.FakeDevice):
        is_open = True

        def close(self):
            self.is_open = False

    class Noted(placement.PipelinedTable):
        def __init__(self, table, queues, hot):
            super().__init__(table, queues, hot)
            kept.append(0 if hot is None else len(hot))

    kept: list[int] = []
    job = job_of(**JOBS[name])
    run_workers(2, lambda world: led(world, job, dataset, tmp_path / "cpu"))
    expected = digests(tmp_path / "cpu")
    assert {"checkpoints/last.safetensors", "embeddings/users.parquet"} <= expected.keys()
    made = fake_device.stand_for_gpus(monkeypatch, Held)
    monkeypatch.setattr(placement, "PipelinedTable", Noted)
    train(job, dataset, tmp_path / "one", world=Alone())
    run_workers(2, lambda world: led(world, job, dataset, tmp_path / "two"))
    assert digests(tmp_path / "one") == expected and digests(tmp_path / "two") == expected
    assert len(made) >= 4 and not any(device.is_open for device in made)
    assert len(kept) == len(made) and all((rows > 0) == (job.table.placement == "device") for rows in kept)
    explored = [event["event"] == "explore" for event in events(tmp_path / "two")]
    assert any(explored) == job.is_sparse
    with pytest.raises(Killed):
        run_workers(2, lambda world: led(world, job, dataset, tmp_path / "resumed", observer=Killer()))
    train(job, dataset, tmp_path / "resumed", world=Alone(), resume=True)
    assert digests(tmp_path / "resumed") == expected


def events(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Killed(BaseException):
    """Nothing that training handles."""


class Killer(Observer):
    def epoch(self, record):
        raise Killed


def test_a_worker_without_a_device_ends_the_run_in_its_own_words(dataset, tmp_path, monkeypatch, fake_device):
    """The leader decides for all."""
    assert [beginning({"train": {"device": "auto"}}, dataset, "fit", each)["job"]["train"] for each in (True, False)] == [
        {"device": "cuda"}, {"device": "cpu"},
    ]  # fmt: skip
    said, real = [], placement.take_gpu
    fake_device.stand_for_gpus(monkeypatch)
    monkeypatch.setattr(placement, "take_gpu", lambda place, workers: real(place, workers) if place else None)

    def work(world):
        with pytest.raises(DeviceError if world.rank else PeerLostError) as caught:
            led(world, job_of(), dataset, tmp_path / "run")
        said.append(str(caught.value))

    run_workers(2, work)
    assert any("train.device = 'cuda' needs an NVIDIA GPU" in sentence for sentence in said), said
    assert any("worker 1 was lost" in sentence for sentence in said), said


def test_too_few_gpus_are_refused_before_there_is_a_folder(dataset, tmp_path, monkeypatch, fake_device):
    def too_few(place, workers):
        raise DeviceError(f"{workers} workers, one GPU")

    fake_device.stand_for_gpus(monkeypatch)
    monkeypatch.setattr(placement, "take_gpu", too_few)
    with pytest.raises(DeviceError, match="2 workers, one GPU"):
        train(job_of(), dataset, tmp_path / "run", world=Echo(2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_layers_and_features_have_the_same_bits_for_each_number_of_workers(tmp_path, monkeypatch, fake_device):
    """As on CPUs but for rounding: Adam of layers is another kernel on a device."""
    job, dataset = CASES["graphsage int8"].job(2), made("shop", tmp_path / "shop")
    job = job.model_copy(update={"train": job.train.model_copy(update={"epochs": 1, "batch_size": 1024})})
    train(job, dataset, tmp_path / "cpu", world=Alone())
    fake_device.stand_for_gpus(monkeypatch, fake_device.LazyDevice)
    train(job, dataset, tmp_path / "one", world=Alone())
    run_workers(2, lambda world: led(world, job, dataset, tmp_path / "two"))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    losses = [[event["loss"] for event in events(tmp_path / name) if "loss" in event] for name in ("cpu", "one")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("workers", [1, 2])
def test_check_predicts_a_share_behind_a_device(workers, dataset, monkeypatch, fake_device):
    """A worker's rows alone are pinned; a device that keeps all rows of its worker needs room for them."""
    on_cpu = check(job_of(), dataset, SILENT, workers)
    fake_device.stand_for_gpus(monkeypatch)
    found = check(job_of(table={"placement": "host"}), dataset, SILENT, workers)
    kept = check(job_of(table={"placement": "device"}), dataset, SILENT, workers)
    same = ("workers", "parts", "rows_asked_per_step", "network_bytes_per_step", "bytes_per_worker", "ram_bytes")
    assert {key: found[key] for key in same} == {key: on_cpu[key] for key in same}
    assert (on_cpu["pinned_bytes"], on_cpu["gpu_bytes"]) == (0, 0)
    assert found["pinned_bytes"] == found["bytes_per_worker"] == -(-found["table_bytes"] // workers)
    assert kept["gpu_bytes"] - found["gpu_bytes"] == found["table_bytes"] // workers
