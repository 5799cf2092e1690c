"""What long work shows while it runs, on stderr: a bar on a terminal, at most a line a minute elsewhere, or JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gcnrec.system.observer import Observer

_STALL = 0.02
"""Share of an epoch spent waiting for data from which on it is told."""
LINE_SECONDS = 60.0
_FIRST_LINE_SECONDS = 2.0


@contextmanager
def observed(metric: str = "", as_json: bool = False, log_json: bool = False) -> Iterator[Observer]:
    """The observer of a command: JSON lines if asked for; only warnings where results are `as_json`; a bar when stderr is a
    terminal, otherwise lines. `metric` is the validation figure to show."""
    if log_json:
        from gcnrec.reports.json_lines import JsonLines

        yield JsonLines()
    elif as_json:
        yield Quiet()
    elif sys.stderr.isatty():
        from gcnrec.reports.progress_bar import Bar

        bar = Bar(metric)
        with bar.progress:
            yield bar
    else:
        yield Lines(metric)


class Quiet:
    """Tells warnings, and nothing else."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...

    def work(self, what: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)


class Lines:
    """Progress as at most one line a minute, the first soon; the last epoch of a stage, notes and warnings in any case."""

    def __init__(self, metric: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._metric = metric
        self._clock = clock
        self._due = clock() + _FIRST_LINE_SECONDS
        self._left = Remaining(clock)
        self._epochs = 0

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        self._epochs = epochs
        left = self._left.after("training", (epoch - 1) * steps + step, epochs * steps)
        self._progress(f"epoch {epoch}/{epochs}  step {step}/{steps}  loss {loss:.4f}  {rate(rows_per_second)}{left}")

    def epoch(self, record: dict[str, Any]) -> None:
        of = f"/{self._epochs}" if self._epochs else ""
        line = f"{record.get('stage', 'fit')} epoch {record['epoch']}{of}  {figures(record, self._metric)}"
        if record["epoch"] == self._epochs:
            self.note(line)
        else:
            self._progress(line)

    def work(self, what: str, done: int, total: int) -> None:
        self._progress(f"{what}  {done:,} of {total:,}{self._left.after(what, done, total)}" if total else what)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.note(f"warning: {text}")

    def _progress(self, text: str) -> None:
        if self._clock() >= self._due:
            self._due = self._clock() + LINE_SECONDS
            self.note(text)


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
