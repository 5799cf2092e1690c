"""The way between workers of one host: against plain copies, between threads, processes and hosts that are only named so."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_world import run_workers
from worker_programs.checks import check_exchange

from gcnrec.errors import DeviceError, PeerLostError
from gcnrec.workers import near
from gcnrec.workers.launch import led

OBEYING = "worker_programs.obeying"
LARGE = near.LARGE_BYTES
SIZES = [0, 1, LARGE, LARGE + 1, 0, 3 * LARGE, 7, 2 * LARGE, 0, 40 * LARGE, LARGE, 5]
"""Below, at and above the limit, rising and falling, so that memory grows and is used again."""


NOTHING = torch.empty(0, dtype=torch.uint8)


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
            sizes = [len(wanted[other]) if other in wanted else 0 for other in range(world.size)]
            came = near.swapped(
                neighbours,
                [near.message_of(sent.get(other, NOTHING)) for other in range(world.size)],
                sizes,
                timedelta(seconds=20),
            )
            assert came.keys() == wanted.keys() and all(torch.equal(came[other], wanted[other]) for other in wanted)
        return closed(neighbours)

    before = open_files()
    assert run_workers(workers, work) == [[other for other in range(workers) if other != rank] for rank in range(workers)]
    assert open_files() == before


def test_what_came_stays_until_the_next_message_is_sent_however_far_the_other_is():
    """The other worker has sent its next message already, which lies in its other memory."""

    def work(world):
        (neighbour,) = met(world).values()

        def send(number):
            neighbour.send(near.message_of(torch.full((LARGE + 1,), 10 * world.rank + number, dtype=torch.uint8)), LARGE + 1)

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
        ("_listening", lambda count: (None, [0, 0])),
        ("_address", lambda numbers: "/no/such/folder/" + str(threading.get_ident())),
    ],
)
def test_workers_that_cannot_reach_each_other_have_no_neighbours(monkeypatch, name, broken):
    monkeypatch.setattr(near, name, broken)
    before = open_files()
    assert run_workers(3, lambda world: closed(met(world))) == [[], [], []]
    assert open_files() == before


def scarce(make, count):
    """`make`, which fails after so many calls of all threads."""
    lock, calls = threading.Lock(), iter(range(count))

    def made(*arguments, **more):
        with lock:
            if next(calls, None) is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return make(*arguments, **more)

    return made


@pytest.mark.parametrize(
    ("module", "name", "count"),
    [
        *[(os, "memfd_create", count) for count in range(4)],
        *[(mmap, "mmap", count) for count in range(8)],
        *[(socket, "socket", count) for count in range(3)],
    ],
)
def test_a_worker_that_lacks_a_descriptor_or_memory_has_no_neighbour_and_nobody_has_it(monkeypatch, module, name, count):
    """Of two workers: what each takes when they meet is 2 pieces of memory, 4 mappings, and sockets to listen and to talk."""
    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, scarce(getattr(module, name), count))
        assert run_workers(2, lambda world: closed(met(world))) == [[], []]
    assert open_files() == before


@pytest.mark.parametrize("greeting", [None, b"", b"abc", struct.pack("=q", 1), struct.pack("=q", -1)])
def test_a_stranger_that_calls_first_is_no_worker_and_nobody_waits_for_it(monkeypatch, greeting):
    """It says nothing, hangs up, says too little, says a worker's number, or what no worker has for a key."""
    monkeypatch.setattr(near, "_MEET_SECONDS", 5.0)
    strangers, listening = [], near._listening

    def visited(count):
        listener, numbers = listening(count)
        stranger = socket.socket(socket.AF_UNIX)
        stranger.connect(near._address(numbers))
        strangers.append(stranger)
        if greeting == b"":
            stranger.close()
        elif greeting:
            stranger.sendall(greeting)
        return listener, numbers

    monkeypatch.setattr(near, "_listening", visited)
    before = open_files()
    assert run_workers(2, lambda world: closed(met(world))) == [[1], [0]]
    for stranger in strangers:
        stranger.close()
    assert open_files() == before


def test_what_was_opened_is_closed_where_workers_are_lost_as_they_meet():
    def work(world):
        calls = iter(range(2))

        def swap(rows_WC):
            if next(calls, None) is None:
                raise PeerLostError("lost")
            return world.exchange(rows_WC, [1, 1], [1, 1])

        with pytest.raises(PeerLostError):
            near.neighbours(swap, world.rank, 2, [1 - world.rank], timedelta(seconds=20))

    before = open_files()
    run_workers(2, work)
    assert open_files() == before


def paired():
    """Two neighbours with the smallest sockets that the system gives."""
    lines = socket.socketpair()
    for line in lines:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        line.settimeout(20)
    made = [None, None]

    def pair(at):
        made[at] = near._paired(lines[at])

    other = threading.Thread(target=pair, args=(1,))
    other.start()
    pair(0)
    other.join()
    return made


@pytest.mark.parametrize("length", [8, LARGE + 1])
def test_a_neighbour_that_ends_is_noticed_while_another_says_nothing(length):
    (one, busy), (two, ending) = paired(), paired()
    pieces, seconds = [near.message_of(torch.zeros(length, dtype=torch.uint8))] * 2, timedelta(seconds=20)
    ending.close()
    one.wait_at_most(timedelta(milliseconds=1))  # whoever waits for this one has timed out
    two.send = lambda *_: None  # the other ended after it was sent the message
    with pytest.raises(RuntimeError, match="has ended"):
        near.swapped({0: one, 1: two}, pieces, [length] * 2, seconds)
    for neighbour in (one, busy, two):
        neighbour.close()


def test_neighbours_that_say_nothing_in_time_are_an_error():
    one, other = paired()
    with pytest.raises(RuntimeError, match="timed out"):
        near.swapped(
            {1: one},
            [near.message_of(NOTHING), near.message_of(torch.zeros(8, dtype=torch.uint8))],
            [0, 8],
            timedelta(milliseconds=5),
        )
    one.close()
    other.close()


def test_nobody_waits_to_send_the_largest_message_of_a_socket():
    one, other = paired()
    contents = [message(0, 1, 11), message(1, 0, 9)]
    assert [len(each) for each in contents] == [LARGE, LARGE]
    for neighbour, content in zip((one, other), contents, strict=True):
        neighbour.wait_at_most(timedelta(seconds=20))
        neighbour.send(near.message_of(content), LARGE)
    assert torch.equal(one.receive(LARGE, LARGE), contents[1])
    assert torch.equal(other.receive(LARGE, LARGE), contents[0])
    one.close()
    other.close()


def test_programs_that_a_worker_starts_have_nothing_of_a_neighbour():
    one, other = paired()
    descriptors = [each.descriptor for each in (*one._mine, *one._other)] + [one._line.fileno()]
    assert len(set(descriptors)) == 5 and not any(map(os.get_inheritable, descriptors))
    one.close()
    other.close()


def test_a_year_is_waited_for_as_long_as_a_socket_can():
    """Longer times are taken modulo 2^32 ms, which may be none: 71,583 minutes are 13 s."""
    one, other = paired()
    one.wait_at_most(timedelta(days=365))
    assert timedelta(days=10).total_seconds() < one._line.gettimeout() < 2**31 / 1000
    one.close()
    other.close()


@pytest.mark.parametrize(("module", "name", "number"), [(os, "ftruncate", errno.EFBIG), (mmap, "mmap", errno.ENOMEM)])
def test_memory_that_the_system_does_not_give_is_named(monkeypatch, module, name, number):
    one, other = paired()

    def refused(*arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(module, name, refused)
        with pytest.raises(DeviceError, match=rf"share {80 * LARGE} bytes .* \({os.strerror(number)}\); raise the limits"):
            one.send(near.message_of(torch.zeros(40 * LARGE, dtype=torch.uint8)), 0)
    one.close()
    other.close()


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
        neighbour.send(near.message_of(torch.ones(LARGE + 1, dtype=torch.uint8)), 0)
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
