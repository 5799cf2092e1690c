"""Numbers as text: speeds, durations, sizes, plain figures, and the time that is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_STALL = 0.02
"""Least share of an epoch spent waiting for data that a line reports."""
_LONG = 20
"""Values of a list that are written out."""
LINE_SECONDS = 60.0


class Remaining:
    """The time that work still takes, at its pace since this process took it up."""

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
    """The figures of one epoch's record, as far as they were measured."""
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
    """A speed: `1.5M rows/s`."""
    return _scaled(rows_per_second, {"G rows/s": 1e9, "M rows/s": 1e6, "k rows/s": 1e3}, " rows/s")


def size(number_of_bytes: float) -> str:
    """A number of bytes: `17.3 MiB`."""
    return _scaled(number_of_bytes, {" GiB": 2**30, " MiB": 2**20, " KiB": 2**10}, " B")


def duration(seconds: float, decimals: int = 0) -> str:
    """A duration: `45 s`, `12 min`, `3.5 h`; minutes with `decimals`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.{decimals}f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plain(value: Any, absent: str = "-", precise: float = 1e6) -> str:
    """Any value of JSON; numbers below `precise` with four decimals, long lists as their length."""
    if value is None:
        return absent
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < precise else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} entries" if len(value) > _LONG else ", ".join(map(plain, value)) or "none"
    return str(value)


def _scaled(value: float, units: dict[str, float], unit: str) -> str:
    """`value` in the first of the falling units that it reaches, else in `unit`."""
    for name, one in units.items():
        if value >= one:
            return f"{value / one:.1f}{name}"
    return f"{value:.0f}{unit}"
