"""Figures of progress as text: speeds, durations, what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_STALL = 0.02
"""Least share of an epoch spent waiting for data that a line reports."""


LINE_SECONDS = 60.0


class Remaining:
    """How long work will still take, at its pace since this process took it up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._what, self._begun, self._first, self._done = "", 0.0, 0, 0

    def after(self, what: str, done: int, total: int) -> str:
        """ "  about 3 min left" when `done` of `total` are done; nothing as long as there is no pace."""
        now = self._clock()
        if what != self._what or done < self._done:
            self._what, self._begun, self._first = what, now, done
        self._done = done
        seconds = (now - self._begun) * (total - done) / max(done - self._first, 1)
        return f"  about {duration(seconds)} left" if done > self._first and now > self._begun else ""


def figures(record: dict[str, Any], metric: str) -> str:
    """The figures of one epoch's record: loss, the validation metric if it was measured, rows per second, what a GPU read from
    host memory, waits for data that are worth a word, seconds."""
    parts = [f"loss {record['loss']:.4f}"]
    valid = record.get("valid") or {}
    if metric in valid:
        parts.append(f"{metric} {valid[metric]:.4f}")
    if record.get("rows_per_second"):
        parts.append(rate(record["rows_per_second"]))
    if record.get("gigabytes_per_second"):
        parts.append(f"{record['gigabytes_per_second']:.1f} GB/s read, {record['cache_hits']:.0%} cached")
    if record.get("stalled_share", 0.0) >= _STALL:
        parts.append(f"waits {record['stalled_share']:.0%}")
    parts.append(f"{record['seconds']:.0f} s")
    return "  ".join(parts)


def rate(rows_per_second: float) -> str:
    """A speed as people read it: `1.5M rows/s`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rows_per_second >= size:
            return f"{rows_per_second / size:.1f}{unit} rows/s"
    return f"{rows_per_second:.0f} rows/s"


def duration(seconds: float) -> str:
    """A stretch of time as people read it: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
