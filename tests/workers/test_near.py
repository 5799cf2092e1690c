"""The way between workers of one host: against plain copies, between threads, processes and hosts that are only named so."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_world import run_workers
from worker_programs.checks import check_exchange

from gcnrec.errors import PeerLostError
from gcnrec.workers import near
from gcnrec.workers.launch import led

OBEYING = "worker_programs.obeying"
LARGE = near.LARGE_BYTES
SIZES = [0, 1, LARGE, LARGE + 1, 0, 3 * LARGE, 7, 2 * LARGE, 0, 40 * LARGE, LARGE, 5]
"""Below, at and above the limit, rising and falling, so that memory grows and is used again."""


def message(rank, to, number):
    """What worker `rank` sends to another in exchange `number`, uint8."""
    size = SIZES[(number + 5 * rank + 3 * to) % len(SIZES)]
    return torch.from_numpy(np.random.default_rng([rank, to, number]).integers(0, 256, size, np.uint8))


def met(world, timeout=20.0):
    """The neighbours of a worker whose others are all of its host."""
    ones = [1] * world.size
    others = [worker for worker in range(world.size) if worker != world.rank]
    return near.neighbours(
        lambda rows_WC: world.exchange(rows_WC, ones, ones), world.rank, world.size, others, timedelta(seconds=timeout)
    )


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def closed(neighbours):
    for neighbour in neighbours.values():
        neighbour.close()
    return sorted(neighbours)


@pytest.mark.parametrize("workers", [2, 3])
def test_every_message_arrives_whatever_its_size_and_the_size_of_its_answer(workers):
    def work(world):
        neighbours = met(world)
        for number in range(4 * len(SIZES)):
            sent = {other: message(world.rank, other, number) for other in neighbours}
            wanted = {other: message(other, world.rank, number) for other in neighbours}
            for other, neighbour in neighbours.items():
                neighbour.send(sent[other], len(wanted[other]))
            for other, neighbour in neighbours.items():
                came = neighbour.receive(len(wanted[other]), len(sent[other]))
                assert torch.equal(came, wanted[other])
        return closed(neighbours)

    before = open_files()
    assert run_workers(workers, work) == [[other for other in range(workers) if other != rank] for rank in range(workers)]
    assert open_files() == before


def test_what_came_stays_until_the_next_message_is_sent_however_far_the_other_is():
    """The other worker has sent its next message already, which lies in its other memory."""

    def work(world):
        (neighbour,) = met(world).values()

        def send(number):
            neighbour.send(torch.full((LARGE + 1,), 10 * world.rank + number, dtype=torch.uint8), LARGE + 1)

        send(0)
        last = 5
        for number in range(last + 1):
            came = neighbour.receive(LARGE + 1, LARGE + 1)
            if world.rank and number < last:
                send(number + 1)
            world.counts([0, 0])
            assert world.rank or bool((came == 10 + number).all())
            if world.rank == 0 and number < last:
                send(number + 1)
        neighbour.close()

    run_workers(2, work)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("_is_ours", lambda line: False),
        ("_listening", lambda listener, count: [0, 0]),
        ("_address", lambda numbers: "/no/such/folder/" + str(threading.get_ident())),
    ],
)
def test_workers_that_cannot_reach_each_other_have_no_neighbours(monkeypatch, name, broken):
    monkeypatch.setattr(near, name, broken)
    before = open_files()
    assert run_workers(3, lambda world: closed(met(world))) == [[], [], []]
    assert open_files() == before


def test_a_worker_without_such_memory_has_no_neighbours_and_nobody_has_it(monkeypatch):
    made, lock, count = os.memfd_create, threading.Lock(), [0]

    def create(name):
        with lock:
            count[0] += 1
            if count[0] > 2:
                raise OSError("no more memory of the kind")
        return made(name)

    monkeypatch.setattr(os, "memfd_create", create)
    monkeypatch.setattr(near, "_MEET_SECONDS", 1.0)
    before = open_files()
    assert run_workers(2, lambda world: closed(met(world))) == [[], []]
    assert open_files() == before


def test_a_neighbour_that_ends_or_does_not_answer_is_an_error_of_an_exchange():
    one, other = socket.socketpair()
    neighbour = near.Neighbour(one, [near.Memory(os.memfd_create("mine")) for _ in range(2)], [])
    neighbour.wait_at_most(timedelta(milliseconds=20))
    with pytest.raises(RuntimeError, match="timed out"):
        neighbour.receive(3, 0)
    other.sendall(b"ab")
    other.close()
    with pytest.raises(RuntimeError, match="has ended"):
        neighbour.receive(3, 0)
    with pytest.raises(RuntimeError, match="Broken pipe"):
        neighbour.send(torch.ones(LARGE + 1, dtype=torch.uint8), 0)
    neighbour.close()


@pytest.fixture(scope="module")
def two_hosts():
    """Four workers, of which each process names the host by its rank: 0 and 1 of one, 2 and 3 of another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOSTS_OF_TESTS", "a a b b")
        patch.setattr(socket, "gethostname", lambda: "a")
        with suppress(PeerLostError), led(4, 1.0, OBEYING) as group:
            yield group


@pytest.mark.parametrize("axes", [[], [2000], [9000]])
@pytest.mark.parametrize("kind", ["uneven", "empty", "to one", "from one", "own"])
def test_workers_of_two_hosts_exchange_both_ways(two_hosts, kind, axes):
    assert two_hosts.machines == (0, 0, 2, 2) and two_hosts.local_size == 2
    check_exchange(two_hosts, "float32", kind, axes)
