"""Workers of devices, in processes: rows travel by a group of their own, runs leave the files of one, who is lost is named."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import fake_device
import psutil
import pytest
import torch
import torch.distributed as dist
from worker_programs.behind_fakes import stand_for_nccl

from gcnrec.config import Job
from gcnrec.errors import PeerLostError
from gcnrec.system.observer import Observer
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train
from gcnrec.workers import world as world_module
from gcnrec.workers.launch import led
from gcnrec.workers.world import Alone
from jobs.measure.kill.digests import digests

BEHIND_FAKES = "worker_programs.behind_fakes"
JOB = {
    "model": {"propagation": "none", "width": 8, "start": "normal"},
    "optimizer": {"rule": "adam"},
    "train": {"epochs": 2, "batch_size": 64, "threads": 1, "parts": 2},
    "evaluate": {"baselines": [], "metric": "recall@3", "k": [3], "bootstrap": 0},
}


class Killer(Observer):
    """Kills another process after the first epoch."""

    def __init__(self, number):
        self.number = number

    def epoch(self, record):
        os.kill(self.number, signal.SIGKILL)


def test_processes_of_devices_leave_the_files_of_one_and_name_who_is_lost(tmp_path, monkeypatch):
    """Gloo moves rows in the place of NCCL: without a wait in torch, by a group that is made once for all runs."""
    fake_device.stand_for_gpus(monkeypatch)
    dataset, job = write_dataset(checkerboard(24), tmp_path / "data"), Job.parse(JOB, [], "test")
    train(job, dataset, tmp_path / "one", world=Alone())
    groups, exchanges = [], {True: 0, False: 0}
    new_group, all_to_all = dist.new_group, dist.all_to_all_single

    def noted(*given, async_op=False, **others):
        exchanges[async_op] += 1
        return all_to_all(*given, async_op=async_op, **others)

    stand_for_nccl(monkeypatch)
    monkeypatch.setattr(dist, "new_group", lambda **given: groups.append(given["backend"]) or new_group(**given))
    monkeypatch.setattr(dist, "all_to_all_single", noted)
    lost = r"worker 1 was lost \(its process was ended by SIGKILL.* start the same command again, a training with --resume"
    with pytest.raises(PeerLostError, match=lost), led(2, 2.0, BEHIND_FAKES) as world:
        assert (world.local_rank, world.local_size) == (0, 2)
        assert os.environ["NCCL_SOCKET_IFNAME"].startswith("lo") and "GLOO_SOCKET_IFNAME" not in os.environ
        train(job, dataset, tmp_path / "two", world=world)
        assert digests(tmp_path / "two") == digests(tmp_path / "one")
        assert groups == ["gloo"] and exchanges[True] > 10
        (follower,) = [each for each in psutil.Process().children() if BEHIND_FAKES in each.cmdline()]
        train(job, dataset, tmp_path / "lost", world=world, observer=Killer(follower.pid))
    assert groups == ["gloo"] and "NCCL_SOCKET_IFNAME" not in os.environ


@pytest.mark.parametrize(
    ("device", "available", "of_peer", "expected"),
    [("cuda", {"nccl"}, 1, ["nccl"]), ("cuda", set(), 1, []), ("cuda", {"nccl"}, 0, []), ("cpu", {"nccl", "gloo"}, 0, [])],
    ids=["nccl", "a torch without nccl", "a peer without nccl", "rows of the CPU"],
)
def test_rows_of_gpus_travel_by_nccl_where_all_workers_have_it(device, available, of_peer, expected, monkeypatch):
    """The choice alone, which needs no GPU; a second stage of the run makes no second group."""
    groups = []

    def answered(came, sent, *splits, group):
        came.copy_(sent)
        came[8:] = torch.tensor([of_peer]).view(torch.uint8)

    monkeypatch.setattr(dist, "all_to_all_single", answered)
    monkeypatch.setattr(dist, "is_backend_available", lambda name: name in available)
    monkeypatch.setattr(dist, "new_group", lambda **given: groups.append(given["backend"]) or object())
    world = world_module.Group(world_module._Seat(0, 2, None, timedelta(minutes=1)), None, None, None)
    for _ in range(2):
        world.connect(torch.device(device))
        assert groups == expected and world._direct_type == ("cuda" if expected else "")
