"""How workers start, how they are lost, and how they end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch

from gcnrec.errors import PeerLostError, UsageError
from gcnrec.system.machine import available_cores
from gcnrec.workers import world as world_module
from gcnrec.workers.board import Board
from gcnrec.workers.heart import LATE_SECONDS, Heart
from gcnrec.workers.launch import led, threads_of_a_worker
from gcnrec.workers.world import Meeting, from_environment, given_size, joined

OBEYING = "worker_programs.obeying"
HELPERS = Path(__file__).parents[1] / "helpers"


def test_one_worker_makes_no_process_group_and_no_thread():
    before = threading.enumerate()
    for workers in (1, None):
        with led(workers) as alone:
            assert threading.enumerate() == before and not torch.distributed.is_initialized() and not from_environment()
            sent = torch.arange(3)
            assert alone.exchange(sent, [3], [3]) is sent and alone.counts([5]) == [5]
            alone.publish({"do": "keep"})
            assert (alone.rank, alone.size, alone.local_size) == (0, 1, 1)


def followers():
    return [each for each in psutil.Process().children() if OBEYING in each.cmdline()]


@pytest.mark.serial
def test_a_stopped_worker_is_named_after_the_timeout_and_killed():
    with pytest.raises(PeerLostError, match=r"worker 1 was lost \(it has not answered for \d+ s\)"):
        with led(2, 0.05, OBEYING) as world:
            (follower,) = followers()
            assert follower.cmdline()[-5:] == ["-P", "-m", "gcnrec.workers.started", str(os.getpid()), OBEYING]
            follower.send_signal(signal.SIGINT)  # both ignored
            follower.send_signal(signal.SIGTERM)
            world.publish({"do": "say"})
            assert world.counts([0, 0])[1] == follower.pid
            follower.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            world.counts([0, 0])
    assert time.monotonic() - began < 60
    assert followers() == [] and not torch.distributed.is_initialized()


def test_a_follower_that_cannot_start_is_named_at_once(capfd):
    with pytest.raises(PeerLostError, match=r"worker 1 was lost \(its process ended with exit code 1\)"):
        with led(2, 1.0, "worker_programs.no_such_program"):
            pass
    assert "No module named" in capfd.readouterr().err
    assert [each for each in threading.enumerate() if each.name.startswith("gcnrec")] == []


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def start(rank, ports, end):
    environment = {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": ports[0],
        "OTHER_PORT": ports[1],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return subprocess.Popen(
        [sys.executable, HELPERS / "worker_programs" / "from_outside.py", end],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("SIGKILL", "its process has ended, or its machine cannot be reached"),
        pytest.param("SIGSTOP", r"it has not answered for \d+ s", marks=[pytest.mark.serial, pytest.mark.slow]),
    ],
)
def test_workers_of_torchrun_and_of_a_process_group_meet_and_outlive_no_leader(end, why):
    """Both ways of `from_outside.py`; then its leader is killed or stopped while the other waits for a command."""
    ports = free_port(), free_port()
    leader, follower = (start(rank, ports, end) for rank in range(2))
    try:
        said = follower.communicate(timeout=60)
    finally:
        leader.kill()
        follower.kill()
    assert leader.communicate()[0].split("\n")[:2] == ["torchrun [10, 11] 2", "adopted [10, 11] 2"]
    assert follower.returncode == 6 and said[0] == ""
    remedy = "so that all workers stop; start the same command again, a training with --resume\n"
    assert re.fullmatch(rf"worker 0, which leads, was lost \({why}\), {remedy}", said[1]), said


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be at least 1"),
        ({"WORLD_SIZE": "2"}, "RANK must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "²"}, "RANK must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK must be below WORLD_SIZE = 2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR must be the machine of worker 0"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "here"}, "MASTER_PORT must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "65536"}, "must be a port, 1 to 65535, where"),
    ],
)
def test_an_environment_without_numbers_is_refused(environment, words, monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        with joined(1.0) if from_environment() else led(2):
            pass


@pytest.mark.parametrize(
    ("rank", "problem", "words"),
    [
        (0, UsageError, r"MASTER_PORT must be free where worker 0 runs, 127.0.0.1:\d+ is taken"),
        (1, PeerLostError, r"could not connect \(no store of workers has answered at 127.0.0.1:\d+\)"),
    ],
)
def test_a_port_of_another_program_is_no_place_to_meet(rank, problem, words, monkeypatch, capfd):
    """The program takes the connection and says nothing; torch's thread ends with it."""
    monkeypatch.setattr("gcnrec.workers.world._LATER", timedelta(seconds=0.1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
        for name, value in {"WORLD_SIZE": "2", "RANK": str(rank), **place}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(problem, match=words), led(None, 0.01):
            pass
    for thread in [each for each in threading.enumerate() if each.name == "gcnrec rendezvous"]:
        thread.join(20)
        assert not thread.is_alive()


def test_a_store_that_is_gone_is_a_lost_worker(monkeypatch):
    """Its host may end between any two connections of a worker; a machine without a loopback interface has none."""
    monkeypatch.setattr(world_module, "TCPStore", Mock(side_effect=RuntimeError("[c10d] Network is unreachable.\nframe #0")))
    for made in (lambda: Meeting(2, 1.0), lambda: world_module._client("127.0.0.1:1", timedelta(seconds=1))):
        with pytest.raises(PeerLostError) as caught:
            made()
        words = "the workers could not connect (Network is unreachable); start all of them again, a training with --resume"
        assert str(caught.value) == words


def test_worlds_that_cannot_be_are_refused(monkeypatch):
    with pytest.raises(UsageError, match="--workers must be at least 1, got 0"):
        with led(0):
            pass
    for minutes in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="timeout of workers must be above 0"):
            Meeting(2, minutes)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert given_size() == 4
    with pytest.raises(UsageError, match="--workers is 2, but this process is one of 4 workers"):
        with led(2):
            pass


@pytest.mark.parametrize("local_size", [1, 2, 10**6])
def test_workers_share_the_cores(local_size):
    threads = threads_of_a_worker(local_size)
    assert threads >= 1 and (threads == 1 or threads * local_size <= available_cores() < (threads + 1) * local_size)


def test_the_first_loss_is_the_cause_and_a_command_is_read_once_by_each():
    meeting = Meeting(3, 1.0)
    first, second = meeting.board(), meeting.board()
    first.arrive(0)
    second.arrive(2)
    assert first.missing() == [1] and first.loss() is None and not first.has_departed(2)
    second.lose(2, "by itself")
    first.lose(0, "as a consequence")
    assert first.loss() == second.loss() == (2, "by itself")
    first.publish(0, {"do": "keep"})
    first.publish(1, {"do": "end"})
    assert [second.take(number, 1)["do"] for number in (0, 1)] == ["keep", "end"]
    assert second.take(0, 2) == {"do": "keep"}
    second.depart(2)
    assert first.has_departed(2) and not first.has_departed(1)


class Beats:
    """A board of two workers; its store answers while `answers` holds, and worker 1 beats while `beats` does."""

    def __init__(self):
        self.size, self.number, self.asked = 2, 0, threading.Event()

    def beat(self, rank, number):
        self.number = number

    def beats(self):
        self.asked.set()
        return [str(self.number).encode(), b"0"]


def test_a_heart_knows_whose_beat_is_old(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gcnrec.workers.heart.time.monotonic", lambda: now[0])
    board = Beats()
    with Heart(board, 0) as heart:
        assert board.asked.wait(10)
        now[0] += LATE_SECONDS + 1
        rank, age = heart.silent()
        assert rank == 1 and age == LATE_SECONDS + 1
    with Heart(Beats(), 1) as heart:
        now[0] += LATE_SECONDS + 2
        assert heart.silent()[0] == 0  # its store is silent, too


def test_a_heart_ends_with_its_store():
    class Closed(Board):
        def beat(self, rank, number):
            raise RuntimeError("Broken pipe")

    heart = Heart(Closed(None, 2), 1)
    with heart:
        heart._thread.join(10)
        assert not heart._thread.is_alive()
