"""How many bytes of resident memory a call needs at its peak.

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
from gcnrec.system.pages import trim_heap

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_SAMPLE_SECONDS = 0.002


@dataclass(frozen=True)
class Measured:
    """What a call returned, its wall seconds, and the rise of resident memory from its start to its peak."""

    result: Any
    seconds: float
    peak_bytes: int


def measured(call: Callable[..., Any], *arguments: Any) -> Measured:
    """Run `call` here, under the memory meter. The meter costs well under a millisecond, before the clock starts."""
    gc.collect()
    trim_heap()
    before = psutil.Process().memory_info().rss
    peak = _reset_peak() or _Sampler(before)
    started = time.perf_counter()
    result = call(*arguments)
    seconds = time.perf_counter() - started
    return Measured(result, seconds, max(peak() - before, 0))


def in_subprocess(call: Callable[..., Any], *arguments: Any) -> Measured:
    """Run `call` in a fresh interpreter: its peak holds nothing of ours, and the seconds leave start-up out.

    `call`, its arguments and its result must be picklable (a module-level function). An exception in the child is
    raised here.
    """
    with Worker() as worker:
        outcome: Measured = worker(measured, call, *arguments)
        return outcome


def _reset_peak() -> Callable[[], int] | None:
    try:
        _CLEAR.write_text("5", encoding="ascii")
        return high_water if high_water() > 0 else None
    except OSError:
        return None


def high_water() -> int:
    """The most bytes of resident memory that this process has had, or had since the mark was reset; 0 where unknown."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class _Sampler:
    """The largest resident size seen by a thread, for systems without a high-water mark that can be reset."""

    def __init__(self, before: int) -> None:
        self._largest = before
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __call__(self) -> int:
        self._done.set()
        self._thread.join()
        return self._largest

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(_SAMPLE_SECONDS):
            self._largest = max(self._largest, process.memory_info().rss)
