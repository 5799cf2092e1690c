"""What long work shows while it runs, on stderr: a bar on a terminal, at most a line a minute elsewhere, or JSON.

With `--log-json`, for machines that watch jobs, every line is a JSON object. It has `time` (ISO, UTC), `level` ("info",
"warning", "error") and `event`; the other fields belong to the event: "step", "work", "epoch" (as in metrics.jsonl), "note",
"warning" (`text`), "run" (of a sweep), "error" (`text`, `exit_code`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from gcnrec.errors import UsageError
from gcnrec.reports.figures import LINE_SECONDS, Remaining, figures, rate
from gcnrec.storage.streams import lost
from gcnrec.system.observer import SILENT, Kept, Observer

if TYPE_CHECKING:
    from gcnrec.reports.trials import Ended, ReportEnded

_FIRST_LINE_SECONDS = 2.0
_REDRAWN_SECONDS = 0.2
_BAR, _COLUMNS = 12, 79
"""Characters of a bar, and of the line around it."""


@contextmanager
def observed(metric: str = "", as_json: bool = False, log_json: bool = False) -> Iterator[Observer]:
    """The observer of a command: JSON lines if asked for; only warnings where results are `as_json`; a bar when stderr is a
    terminal, otherwise lines. `metric` is the validation figure to show. A stderr that is lost drops it."""
    no_reader = partial(lost, 2)
    if log_json:
        yield Kept(JsonLines(), no_reader)
    elif as_json:
        yield Kept(Quiet(), no_reader)
    elif sys.stderr.isatty():
        from gcnrec.reports.progress_bar import Bar

        bar = Bar(metric)
        with bar.progress:
            yield Kept(bar, no_reader)
    else:
        yield Kept(Lines(metric), no_reader)


def runs_reported(total: int, log_json: bool) -> AbstractContextManager[ReportEnded]:
    """Reports every run of a sweep that ended: as JSON if asked for, else by `runs_bar`."""
    from gcnrec.reports.progress_bar import runs_bar

    return nullcontext(JsonLines().ended) if log_json else runs_bar(total)


@contextmanager
def trials_reported(total: int, log_json: bool) -> Iterator[Callable[[dict[str, Any], str, int], None]]:
    """Reports every trial of a search that ended: its name and fields as JSON if asked for, else a line of text by `runs_bar`.

    The last argument is the number of trials that have ended.
    """
    from gcnrec.reports.progress_bar import runs_bar
    from gcnrec.reports.trials import Ended

    if log_json:
        yield lambda fields, _, done: log("info", "trial", {**fields, "done": done, "of": total})
        return
    with runs_bar(total) as report:
        yield lambda fields, text, done: report(Ended(fields["name"], 0, 0.0, text), done, total)


@contextmanager
def watched(progress: bool, observer: Observer, metric: str = "") -> Iterator[Observer]:
    """The observer of a call from Python: `observer`, or with `progress` a line on stderr.

    The line is redrawn in a notebook and on a terminal. Elsewhere, as in a log file, a line follows at most once a minute.
    UsageError where both are given, and for a `progress` that is no bool.
    """
    if not isinstance(progress, bool):
        raise UsageError(
            f"progress must be True or False, got {type(progress).__name__}; give an object that listens as observer"
        )
    if not progress:
        yield observer
        return
    if observer is not SILENT:
        raise UsageError("progress = True shows progress on stderr, and an observer was given as well; leave one of them out")
    if not (sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")):
        yield Lines(metric)
        return
    line = Redrawn(metric)
    try:
        yield line
    finally:
        line.clear()


class Quiet(Observer):
    """Reports warnings, and nothing else."""

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)


class _Paced(Observer):
    """Writes progress, the first after `wait` seconds, at most once a minute."""

    def __init__(self, clock: Callable[[], float], wait: float) -> None:
        self._clock, self._due = clock, clock() + wait

    def _is_due(self) -> bool:
        """Whether a line is due; it then counts as written."""
        due = self._clock() >= self._due
        if due:
            self._due = self._clock() + LINE_SECONDS
        return due


class Lines(_Paced):
    """Progress as text; the last epoch of a stage, notes and warnings in any case."""

    def __init__(self, metric: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock, _FIRST_LINE_SECONDS)
        self._metric, self._left, self._epochs = metric, Remaining(clock), 0

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
        if self._is_due():
            self.note(text)


class Redrawn(Observer):
    """Progress as one line that a carriage return draws again, which notebooks do as terminals; epochs, notes, warnings stay."""

    def __init__(self, metric: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._metric, self._clock = metric, clock
        self._left, self._due, self._drawn = Remaining(clock), clock(), 0

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        left = self._left.after("training", (epoch - 1) * steps + step, epochs * steps)
        about = f"{step}/{steps}{left}  loss {loss:.4f}  {rate(rows_per_second)}"
        self._draw(f"epoch {epoch}/{epochs} {_bar(step, steps)} {about}")

    def epoch(self, record: dict[str, Any]) -> None:
        self.note(f"{record.get('stage', 'fit')} epoch {record['epoch']}  {figures(record, self._metric)}")

    def work(self, what: str, done: int, total: int) -> None:
        left = self._left.after(what, done, total) if total else ""
        self._draw(f"{what} {_bar(done, total)} {done:,}/{total:,}{left}" if total else what)

    def note(self, text: str) -> None:
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.note(f"warning: {text}")

    def clear(self) -> None:
        """Take the line away, if there is one."""
        if self._drawn:
            print(f"\r{'':{self._drawn}}\r", end="", file=sys.stderr, flush=True)
        self._drawn, self._due = 0, self._clock()

    def _draw(self, text: str) -> None:
        if self._clock() < self._due:
            return
        # Blanks cover what a longer line has left.
        print(f"\r{text[:_COLUMNS]:{self._drawn}}", end="", file=sys.stderr, flush=True)
        self._drawn, self._due = len(text[:_COLUMNS]), self._clock() + _REDRAWN_SECONDS


def _bar(done: int, total: int) -> str:
    """`done` of `total` as a bar of `_BAR` characters."""
    full = _BAR * min(done, total) // max(total, 1)
    return "\u2588" * full + "\u2591" * (_BAR - full)


class JsonLines(_Paced):
    """Progress as JSON lines; every epoch, note and warning."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock, 0.0)

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        place = {"epoch": epoch, "epochs": epochs, "step": step, "steps": steps}
        self._progress("step", {**place, "loss": loss, "rows_per_second": rows_per_second})

    def epoch(self, record: dict[str, Any]) -> None:
        log("info", "epoch", {key: value for key, value in record.items() if key != "event"})

    def work(self, what: str, done: int, total: int) -> None:
        self._progress("work", {"what": what, "done": done, "total": total})

    def note(self, text: str) -> None:
        log("info", "note", {"text": text})

    def warn(self, text: str) -> None:
        log("warning", "warning", {"text": text})

    def ended(self, run: Ended, done: int, of: int) -> None:
        """A run of a sweep ended, `done` of `of` have."""
        log("error" if run.code else "info", "run", {**asdict(run), "done": done, "of": of})

    def _progress(self, event: str, fields: dict[str, Any]) -> None:
        if self._is_due():
            log("info", event, fields)


def log(level: str, event: str, fields: dict[str, Any]) -> None:
    """Write one line."""
    print(line_of(level, event, fields), file=sys.stderr, flush=True)


def line_of(level: str, event: str, fields: dict[str, Any]) -> str:
    """A line without its end. NaN becomes null, which is JSON where NaN is not."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "event": event, **_finite(fields)}, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0.0 else value
