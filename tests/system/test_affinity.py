"""Cores near a device as a folder says, and blocks in which all threads of a process run on some cores."""

from __future__ import annotations

import os
import threading

import pytest

from gcnrec.system import affinity
from gcnrec.system.affinity import bound, cores_near

ADDRESS = "0000:3b:00.0"


def device(folder, node, cores):
    place = folder / ADDRESS
    place.mkdir()
    (place / "numa_node").write_text(node)
    (place / "local_cpulist").write_text(cores)
    return folder


@pytest.mark.parametrize(
    ("node", "cores", "expected"),
    [
        ("0\n", "0-3,8\n", {0, 1, 2, 3, 8}),
        ("1\n", "5\n", {5}),
        ("0\n", "2-2,4-5\n", {2, 4, 5}),
        ("-1\n", "0-3\n", set()),  # one node, or a virtual machine that hides them
        ("0\n", "\n", set()),
        ("0\n", "all\n", set()),
        ("none\n", "0-3\n", set()),
    ],
)
def test_cores_are_those_that_the_system_lists(node, cores, expected, tmp_path):
    assert cores_near(ADDRESS, device(tmp_path, node, cores)) == expected


def test_a_system_that_lists_no_device_names_no_core(tmp_path):
    assert cores_near(ADDRESS, tmp_path) == frozenset()


@pytest.fixture
def helper():
    """A thread that runs until the test is over: its number."""
    over, begun, number = threading.Event(), threading.Event(), []

    def wait():
        number.append(threading.get_native_id())
        begun.set()
        over.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    yield number[0]
    over.set()
    thread.join()


needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores, and a system that binds"
)


@needs_two_cores
def test_all_threads_are_bound_within_the_block_and_as_before_behind_it(helper):
    """Also a thread that starts within the block, and a thread that was bound elsewhere before."""
    every = os.sched_getaffinity(0)
    one, other = sorted(every)[:2]
    os.sched_setaffinity(helper, {other})
    over, inner = threading.Event(), threading.Thread(target=lambda: over.wait())
    with bound(frozenset({one, 10**6})):
        assert os.sched_getaffinity(0) == os.sched_getaffinity(helper) == {one}
        inner.start()
        assert os.sched_getaffinity(inner.native_id) == {one}
    assert os.sched_getaffinity(0) == os.sched_getaffinity(inner.native_id) == every
    assert os.sched_getaffinity(helper) == {other}
    over.set()
    inner.join()


@needs_two_cores
@pytest.mark.parametrize("cores", [frozenset(), frozenset({10**6})], ids=["none", "not ours"])
def test_without_a_core_of_its_own_a_process_stays(cores, helper):
    every = os.sched_getaffinity(0)
    with bound(cores):
        assert os.sched_getaffinity(0) == os.sched_getaffinity(helper) == every


def test_a_system_without_such_threads_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(affinity, "_THREADS", tmp_path / "absent")
    with bound(frozenset({0})):
        pass
    assert affinity._allowed() == {}
