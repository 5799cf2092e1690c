"""Runs whose workers are of several machines: all of them rank users, and the files are those of one process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numba
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fake_world import run_workers

from gcnrec.api.lists import recommend
from gcnrec.config import Job
from gcnrec.errors import PeerLostError
from gcnrec.models import hops
from gcnrec.ranking.machines import leader
from gcnrec.results import memory_bounds
from gcnrec.results.evaluate import evaluate_run
from gcnrec.results.relisting import Relisting
from gcnrec.runs.folder import open_run
from gcnrec.system.observer import Observer
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training import finish, fit_validation
from gcnrec.training.train import train
from gcnrec.training.workers import export
from gcnrec.training.workers.follower import follow
from gcnrec.workers import launch
from gcnrec.workers.world import Alone
from jobs.measure.kill.digests import digests

CHUNK = 5
EVALUATE = {"metric": "recall@3", "k": [3, 5], "bootstrap": 10}
JOBS = {
    "parts": {
        "model": {"width": 16, "propagation": "sampled", "layers": 1},
        "train": {"parts": 4, "refit": "train+valid"},
        "evaluate": {"baselines": ["popularity"]},
    },
    "columns": {"model": {"width": 40, "layers": 2}, "loss": {"name": "bpr"}, "evaluate": {"baselines": []}},
}
COMMON = {"train": {"epochs": 2, "batch_size": 64, "threads": 1, "device": "cpu"}, "evaluate": EVALUATE}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks of few users and blocks of few columns, in several rounds, on one thread."""
    for module in (finish, fit_validation, memory_bounds):
        monkeypatch.setattr(module, "USERS_PER_CHUNK", CHUNK)
    monkeypatch.setattr(leader, "ROUND_BYTES", 1)
    monkeypatch.setattr(export, "LEAST_READS", 0)
    monkeypatch.setattr(hops, "block_columns", lambda *_: 5)
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(24), tmp_path_factory.mktemp("machines") / "data")


def job_of(name):
    sections = JOBS[name]
    return Job.parse({key: {**COMMON.get(key, {}), **sections.get(key, {})} for key in {*COMMON, *sections}}, [], "test")


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    """The folder that one process leaves of a job, trained once."""
    found = {}

    def folder_of(name):
        if name not in found:
            found[name] = tmp_path_factory.mktemp("alone") / "run"
            run_by(Alone(), job_of(name), dataset, found[name])
        return found[name]

    return folder_of


def led(world, work):
    """Do `work(world)` as the leader; what it published. Nothing where this worker follows."""
    if world.rank:
        follow(world)
        return None
    published, publish = [], world.publish
    world.publish = lambda command: (published.append(command), publish(command))
    work(world)
    world.close()
    return published


def run_by(world, job, dataset, folder):
    """Train and evaluate."""
    return led(world, lambda world: evaluate_run(train(job, dataset, folder, world=world), world=world))


@pytest.mark.parametrize(("name", "machines"), [("parts", (0, 1)), ("parts", (0, 1, 2, 2)), ("columns", (0, 1))])
def test_a_run_leaves_the_files_of_one_process(name, machines, dataset, alone, tmp_path):
    job, expected = job_of(name), digests(alone(name))
    found = run_workers(len(machines), lambda world: run_by(world, job, dataset, tmp_path / "shared"), machines)[0]
    assert digests(tmp_path / "shared") == expected and "metrics.json" in expected
    ranked = [command for command in found if command["do"] == "rank"]
    assert all(command["rankers"] == sorted({*machines}) for command in ranked)
    refits = name == "parts"
    assert len(ranked) == 2 + refits + 1  # two validations, that of the fit's best epoch per user, and the test
    exported = [command for command in found if command["do"] == "export"]
    assert len(exported) == (4 if name == "parts" else 0)  # two validations, and the ends of fit and refit
    assert json.loads((tmp_path / "shared" / "metrics.json").read_text())["users"] > CHUNK


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ({"k": 4}, True),
        ({"k": 99, "seen": "none", "items": [1003, 1005], "users": ["u1", "u2", "u3", "u4", "u5", "u6"]}, True),
        ({"k": 4, "exclude": [1003]}, True),
        ({"k": 4, "fallback": "popularity"}, False),
        ({"k": 4, "relisting": Relisting(diversity=0.5)}, False),
    ],
)
def test_recommendations_are_those_of_one_process(given, shared, alone, tmp_path):
    """Lists that are more than the beginning of a ranking are the leader's."""
    run = open_run(alone("parts"))
    for side in ("users", "items", "exclude"):
        if side in given:
            pq.write_table(pa.table({"user" if side == "users" else "item": given[side]}), tmp_path / f"{side}.parquet")
            given = given | {side: tmp_path / f"{side}.parquet"}
    k, options = given["k"], {name: value for name, value in given.items() if name != "k"}
    alone = recommend(run, k, tmp_path / "alone.parquet", **options)
    work = partial(recommend, run, k, tmp_path / "shared.parquet", **options)
    made = []
    found = run_workers(2, lambda world: led(world, lambda world: made.append(work(world=world))), (0, 1))[0]
    assert replace(made[0], out=alone.out) == alone
    assert pq.read_table(tmp_path / "shared.parquet").equals(pq.read_table(tmp_path / "alone.parquet"))
    assert any(command["do"] == "rank" for command in found) == shared


class Killer(Observer):
    """Kills a process when the leader has judged the first lists of a validation."""

    def __init__(self, victims):
        self.victims = victims

    def work(self, what, done, total):
        if what == "validating" and done < total and self.victims[0].poll() is None:
            self.victims[0].kill()
            self.victims[0].wait()


def test_processes_rank_and_the_loss_of_one_while_it_ranks_ends_the_run(dataset, alone, tmp_path, monkeypatch):
    """Two processes of this machine, which the leader takes for two machines."""
    job, started, start = job_of("parts"), [], launch._started
    monkeypatch.setattr(launch, "_started", lambda *given: started.append(start(*given)) or started[-1])
    with suppress(PeerLostError), launch.led(2, 1.0) as world:
        world.machines = (0, 1)
        evaluate_run(train(job, dataset, tmp_path / "shared", world=world), world=world)
        assert digests(tmp_path / "shared") == digests(alone("parts"))
        with pytest.raises(PeerLostError, match=r"worker 1 was lost \(.*\), so that all workers stop") as caught:
            train(job, dataset, tmp_path / "killed", observer=Killer(started), world=world)
        assert caught.value.exit_code == 6
        assert not (tmp_path / "killed" / "embeddings" / "users.parquet").exists()
    assert started[0].returncode == -9
    evaluate_run(train(job, dataset, tmp_path / "killed", resume=True))
    assert digests(tmp_path / "killed") == digests(alone("parts"))


@pytest.mark.slow
def test_commands_of_processes_from_outside_are_led_by_one(alone, tmp_path):
    """As torchrun starts them, here on one machine: the other process ends in peace, and prints and writes nothing."""
    run = tmp_path / "run"
    shutil.copytree(alone("parts"), run)
    (run / "metrics.json").unlink()
    for command in (["evaluate", run, "--k", "3"], ["recommend", run, "--out", tmp_path / "lists.parquet"]):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        program = [sys.executable, "-m", "gcnrec", *map(str, command)]
        both = [
            subprocess.Popen(program, env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE)
            for rank in "01"
        ]
        try:
            said = [process.communicate(timeout=60)[0] for process in both]
        finally:
            for process in both:
                process.kill()
        assert [process.returncode for process in both] == [0, 0] and said[0] and not said[1]
    assert "recall@3" in json.loads((run / "metrics.json").read_text())
    recommend(open_run(run), 20, tmp_path / "alone.parquet")
    assert pq.read_table(tmp_path / "lists.parquet").equals(pq.read_table(tmp_path / "alone.parquet"))
