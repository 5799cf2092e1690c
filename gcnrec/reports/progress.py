"""What long work shows while it runs, on stderr: a bar on a terminal, at most a line a minute elsewhere, or JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gcnrec.reports.figures import LINE_SECONDS, Remaining, figures, rate
from gcnrec.system.observer import Observer

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


class Quiet(Observer):
    """Reports warnings, and nothing else."""

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)


class Lines(Observer):
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
