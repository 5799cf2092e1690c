"""metrics.jsonl: what happened in a run, one JSON object a line, appended and fsynced as it happens.

Only a resumed run removes lines: epochs and explorations after its checkpoint, which are done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from gcnrec.errors import DataError, os_remedy
from gcnrec.runs.paths import EVENTS
from gcnrec.system.documents import Document, checked
from gcnrec.system.files import atomic_file
from gcnrec.system.observer import Observer, kept

Line = dict[str, Any]
"""An event as it is written."""
Figures = Annotated[dict[str, float], BeforeValidator(lambda found: found or {})]
"""Values by name, such as `recall@20`; empty for null."""


class Event(Document):
    """A line of metrics.jsonl; `event` names its kind."""

    event: str


class Placed(Event):
    """An event of training, after `epoch` epochs (a running one counts) and `step` steps of a stage."""

    stage: str = "fit"
    epoch: int = 0
    step: int = 0


class Epoch(Placed):
    """The end of an epoch; `seconds` count from the start of the stage. `seen`: what lists of `valid` leave out."""

    seconds: float
    loss: float
    rows_per_second: float | None = None
    learning_rate: float | None = None
    stalled_share: float | None = None
    gigabytes_per_second: float | None = None
    cache_hits: float | None = None
    values: int | None = None
    seen: str = ""
    valid: Figures = Field(default_factory=dict)
    exports: dict[str, Figures] = Field(default_factory=dict)


class Explore(Placed):
    """An exploration of a sparse table."""

    pruned: int
    grown: int
    regrown: int
    values: int
    ever_active: float
    slots_per_row_by_decile: list[float]


class Resume(Placed):
    """A run was resumed from a checkpoint, by a process of so many `threads` with these `versions`."""

    time: str
    threads: int | None = None
    device: str | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)


class Warned(Event):
    """Figures of the run may not mean what they seem to."""

    kind: str
    text: str


class Note(Event):
    """A decision, as a sentence."""

    text: str


class Baseline(Event):
    """The metrics of a baseline on test; `seen`: what its lists leave out, "" in runs of earlier versions."""

    name: str
    seen: str = ""
    metrics: Figures
    cold_start: dict[str, dict[str, float | None]] = Field(default_factory=dict)


class ValidBaseline(Event):
    """A baseline on validation: compared with the best epoch (`own`), or `skipped` with the reason."""

    name: str
    skipped: str = ""
    seen: str = ""
    own: float = 0.0
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    users: int = 0
    seconds: float = 0.0
    metrics: Figures = Field(default_factory=dict)


KINDS: dict[str, type[Event]] = {
    "epoch": Epoch, "explore": Explore, "resume": Resume, "warning": Warned, "note": Note, "baseline": Baseline,
    "baseline.valid": ValidBaseline,
}  # fmt: skip


def read_lines(folder: Path) -> list[Line]:
    """Every whole line of `metrics.jsonl`, in order; a line that a crash cut short is left out. Raises as `read_events`."""
    return [content for _, _, content in _lines(folder / EVENTS)]


def read_events(folder: Path) -> list[Event]:
    """The same as objects. DataError, naming file and line, for what is no event or lacks a value."""
    return [checked(KINDS.get(content["event"], Event), content, where) for where, _, content in _lines(folder / EVENTS)]


def append_event(folder: Path, event: Line) -> None:
    """Write one line at the end of `metrics.jsonl`: on disk before a checkpoint can say that it is there.

    DataError when it cannot be written, for example on a full disk.
    """
    path = folder / EVENTS
    try:
        with path.open("ab+") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")  # the previous line was cut short
            file.write(json.dumps(event).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        remedy = os_remedy(problem, "copy the run to another disk")
        raise DataError(f"cannot write {path}: {problem.strerror or problem}; {remedy}, then resume") from problem


def warn_once(folder: Path, kind: str, text: str) -> bool:
    """Append a warning of `kind`, unless the run has one. Returns whether it was appended."""
    if any(isinstance(event, Warned) and event.kind == kind for event in read_events(folder)):
        return False
    append_event(folder, {"event": "warning", "kind": kind, "text": text})
    return True


def observed_by(folder: Path, observer: Observer) -> AbstractContextManager[None]:
    """Within the block an `observer` that is dropped leaves a warning in `metrics.jsonl`, one of a kind."""
    return kept(observer).recorded(partial(warn_once, folder))


def keep_events(folder: Path, stage: str, epoch: int, step: int) -> None:
    """Drop from `metrics.jsonl` what came after `epoch` epochs and `step` steps of `stage`, and a line that was cut short."""
    path = folder / EVENTS
    if not path.is_file():
        return
    lines = [f"{line}\n" for where, line, content in _lines(path) if _until(checked(Placed, content, where), stage, epoch, step)]
    kept = "".join(lines)
    if kept != path.read_text(encoding="utf-8"):
        with atomic_file(path) as work:
            work.write_text(kept, encoding="utf-8")


def _until(event: Placed, stage: str, epoch: int, step: int) -> bool:
    """Whether an event was written by then; "fit" comes before "refit"."""
    if event.event == "epoch":
        return (event.stage, event.epoch) <= (stage, epoch)
    return event.event != "explore" or (event.stage, event.step) <= (stage, step)


def _lines(path: Path) -> Iterator[tuple[str, str, Line]]:
    """Where each whole line stands, as a message names it; the line; its content."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read ({problem}); restore it, or train again") from None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        where = f"line {number} of {path}"
        checked(Event, content, where)
        yield where, line, content
