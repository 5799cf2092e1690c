"""Cores near a PCI device, by what Linux says of it, and a block in which all threads of this process run on some cores.

Elsewhere, and where the system says nothing, threads stay where they are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")
_THREADS = Path("/proc/self/task")


def cores_near(address: str, devices: Path = DEVICES) -> frozenset[int]:
    """The cores of the memory node of the PCI device at `address` ("0000:3b:00.0"); none where the system names no node."""
    try:
        node = int((devices / address / "numa_node").read_text(encoding="ascii"))
        return _cores((devices / address / "local_cpulist").read_text(encoding="ascii")) if node >= 0 else frozenset()
    except (OSError, ValueError):
        return frozenset()


def _cores(text: str) -> frozenset[int]:
    """The numbers of a list like "0-3,8". ValueError for other text."""
    ends = (piece.partition("-") for piece in text.strip().split(","))
    return frozenset(core for first, _, last in ends for core in range(int(first), int(last or first) + 1))


@contextmanager
def bound(cores: frozenset[int]) -> Iterator[None]:
    """All threads of this process run on `cores`, as far as it may use them; afterwards each where it ran before.

    A thread that starts within the block goes where the calling thread goes. Without such a core nothing changes.
    """
    before = _allowed() if cores else {}
    own = before.get(threading.get_native_id(), frozenset())
    wanted = own & cores
    if not wanted:
        yield
        return
    _bind(dict.fromkeys(before, wanted))
    try:
        yield
    finally:
        _bind({thread: before.get(thread, own) for thread in _allowed()})


def _allowed() -> dict[int, frozenset[int]]:
    """The cores of each thread of this process, by the thread's number; nothing on systems that do not say."""
    found: dict[int, frozenset[int]] = {}
    with suppress(OSError):
        for thread in _THREADS.iterdir():
            with suppress(OSError):  # it has ended
                found[int(thread.name)] = frozenset(os.sched_getaffinity(int(thread.name)))
    return found


def _bind(cores: dict[int, frozenset[int]]) -> None:
    for thread, own in cores.items():
        with suppress(OSError):  # it has ended, or a control group forbids all of them
            os.sched_setaffinity(thread, own)
