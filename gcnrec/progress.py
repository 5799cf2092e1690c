"""What training shows while it runs: a bar on a terminal, plain lines elsewhere. Everything goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

_STALL = 0.02
"""Share of an epoch spent waiting for data from which on it is told."""
_LINE_SECONDS = 60.0


class Observer(Protocol):
    """What training tells while it runs; `gcnrec.train` calls it and knows no implementation."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


@contextmanager
def observed(metric: str) -> Iterator[Observer]:
    """A bar when stderr is a terminal, otherwise lines; `metric` is the validation figure to show."""
    if not sys.stderr.isatty():
        yield Lines(metric)
        return
    bar = Bar(metric)
    with bar.progress:
        yield bar


class Lines:
    """One line per epoch and, within a long epoch, at most one a minute."""

    def __init__(self, metric: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._metric = metric
        self._clock = clock
        self._last = clock()
        self._epochs = 0

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        self._epochs = epochs
        if self._clock() - self._last >= _LINE_SECONDS:
            self._say(f"epoch {epoch}/{epochs}  step {step}/{steps}  loss {loss:.4f}  {rate(rows_per_second)}")

    def epoch(self, record: dict[str, Any]) -> None:
        of = f"/{self._epochs}" if self._epochs else ""
        self._say(f"{record.get('stage', 'fit')} epoch {record['epoch']}{of}  {figures(record, self._metric)}")

    def note(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        self._last = self._clock()
        print(text, file=sys.stderr, flush=True)


class Bar:
    """A rich progress bar over the steps of the current epoch; finished epochs stay above it as lines."""

    def __init__(self, metric: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._metric = metric
        self._console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[valid]}  {task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self.progress.add_task("", total=None, epoch="-", loss="-", valid="", rate="")

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        self.progress.update(
            self._task,
            completed=step,
            total=steps,
            epoch=f"{epoch}/{epochs}",
            loss=f"{loss:.4f}",
            rate=rate(rows_per_second),
        )

    def epoch(self, record: dict[str, Any]) -> None:
        valid = record.get("valid") or {}
        if self._metric in valid:
            self.progress.update(self._task, valid=f"{self._metric} {valid[self._metric]:.4f}")
        line = f"{record.get('stage', 'fit')} epoch {record['epoch']}  {figures(record, self._metric)}"
        self._console.print(line, markup=False)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)


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
