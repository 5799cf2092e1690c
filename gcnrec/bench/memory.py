"""Bytes of resident memory that a call needs at its peak.

On Linux the kernel keeps the high-water mark of a process (`VmHWM`) and resets it on request, so no sampling can miss
a short peak; elsewhere a thread samples. Freed pages are handed back before the call: what an earlier call left in the
allocator would otherwise be reused unseen.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gcnrec.bench.worker import Worker
from gcnrec.errors import DeviceError
from gcnrec.system.scratch import trim_heap

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_SAMPLE_SECONDS = 0.002


@dataclass(frozen=True)
class Measured:
    """The result of a call, its wall seconds, and the rise of resident memory from its start to its peak."""

    result: Any
    seconds: float
    peak_bytes: int


def measured(call: Callable[..., Any], *arguments: Any) -> Measured:
    """Run `call` here, under the memory meter. The meter costs well under a millisecond, before the clock starts."""
    gc.collect()
    trim_heap()
    before = resident()["rss"]
    sampler = None if _reset_peak() else Sampler(resident)
    started = time.perf_counter()
    result = call(*arguments)
    seconds = time.perf_counter() - started
    peak = sampler()["rss"] if sampler else high_water()
    return Measured(result, seconds, max(peak - before, 0))


def in_subprocess(call: Callable[..., Any], *arguments: Any) -> Measured:
    """Run `call` in a fresh interpreter: its peak holds nothing of ours, and the seconds leave start-up out.

    `call`, its arguments and its result must be picklable (a module-level function). An exception in the child is
    raised here.
    """
    with Worker() as worker:
        outcome: Measured = worker(measured, call, *arguments)
        return outcome


def _reset_peak() -> bool:
    """Whether the high-water mark of this process could be reset."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
        return high_water() > 0
    except OSError:
        return False


def high_water() -> int:
    """The largest resident memory of this process so far, or since the mark was reset; 0 where unknown."""
    return counters().get("VmHWM", 0)


def counters() -> dict[str, int]:
    """Bytes of this process by Linux's names, such as VmHWM and RssAnon. DeviceError on other systems."""
    if not _STATUS.is_file():
        raise DeviceError(f"counters of memory are lines of {_STATUS}, which is absent; measure on Linux")
    lines = (line.split() for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines())
    return {name.rstrip(":"): int(value[0]) * 1024 for name, *value in lines if value[1:] == ["kB"]}


def resident() -> dict[str, int]:
    """Bytes of resident memory of this process, on any system."""
    return {"rss": int(psutil.Process().memory_info().rss)}


class Sampler:
    """A thread that reads counters every few milliseconds; a call ends it and returns the largest values."""

    def __init__(self, read: Callable[[], dict[str, int]]) -> None:
        self._read, self._peaks, self._done = read, read(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __call__(self) -> dict[str, int]:
        self._done.set()
        self._thread.join()
        return self._peaks

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            for name, value in self._read().items():
                self._peaks[name] = max(self._peaks[name], value)
