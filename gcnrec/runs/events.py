"""metrics.jsonl: what happened in a run, one JSON object a line, appended and fsynced as it happens.

Only a resumed run removes lines: epochs and explorations after its checkpoint, which are done again. A line ends with the key
`crc32`, the checksum of its other keys as JSON, so that a changed line is noticed; earlier versions wrote none. A last line
without an end was cut short by a crash: it is left out, and the next event takes its place.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BeforeValidator, Field

from gcnrec.errors import DataError, os_remedy
from gcnrec.runs.paths import EVENTS
from gcnrec.storage.documents import Document, checked, open_regular, parsed
from gcnrec.storage.files import atomic_file
from gcnrec.system.observer import Observer, kept

Line = dict[str, Any]
"""An event as it is written."""
Figures = Annotated[dict[str, float], BeforeValidator(lambda found: {} if found is None else found)]
"""Values by name, such as `recall@20`; empty for null."""
Count = Annotated[int, Field(ge=0, le=2**53)]
_CHECK = "crc32"
_MOST_LINE = 1 << 20
_MOST_BYTES = 1 << 27
"""Of a line and of all: an epoch or an exploration takes about 500 bytes."""
_REMEDY = "restore the file, or remove that line (reports and the choice of the export then lack it)"


class Event(Document):
    """A line of metrics.jsonl; `event` names its kind."""

    event: str


class Placed(Event):
    """An event of training, after `epoch` epochs (a running one counts) and `step` steps of a stage."""

    stage: Literal["fit", "refit"] = "fit"
    epoch: Count = 0
    step: Count = 0


class Gain(Document):
    """The `value` of an export rule on validation, its mean paired `gain` on the first rule, and the gain's standard `error`."""

    value: float = 0.0
    gain: float
    error: float


class Epoch(Placed):
    """The end of an epoch; `seconds` count from the start of the stage. `seen`: what lists of `valid` leave out."""

    epoch: Annotated[int, Field(ge=1, le=2**53)]
    seconds: float
    loss: float
    rows_per_second: float | None = None
    learning_rate: float | None = None
    stalled_share: float | None = None
    major_faults: float | None = None
    gigabytes_per_second: float | None = None
    cache_hits: float | None = None
    values: Count | None = None
    seen: str = ""
    valid: Figures = Field(default_factory=dict)
    exports: dict[str, Gain] = Field(default_factory=dict)


class Explore(Placed):
    """An exploration of a sparse table."""

    pruned: Count
    grown: Count
    regrown: Count
    values: Count
    ever_active: float
    slots_per_row_by_decile: list[float] = Field(min_length=10, max_length=10)


class Resume(Placed):
    """A run was resumed from a checkpoint, by a process of so many `threads` with these `versions`."""

    time: str
    threads: int | None = None
    device: str | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)


class Warned(Event):
    """Figures of the run may not mean what they seem to."""

    kind: str
    text: str = Field(min_length=1)


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
    """Every whole line of `metrics.jsonl`, in order; a last line that a crash cut short is left out. Raises as `read_events`."""
    return [content for _, _, content in _lines(folder / EVENTS)]


def read_events(folder: Path) -> list[Event]:
    """The same as objects. DataError, naming file and line, for what is no event, lacks a value or is not what was written."""
    return [checked(KINDS.get(content["event"], Event), content, where, _REMEDY) for where, _, content in _lines(folder / EVENTS)]


def append_event(folder: Path, event: Line) -> None:
    """Write one line at the end of `metrics.jsonl`: on disk before a checkpoint can say that it is there.

    DataError when it cannot be written, for example on a full disk.
    """
    path = folder / EVENTS
    text = json.dumps({**event, _CHECK: zlib.crc32(json.dumps(event).encode())})
    try:
        with path.open("ab+") as file:
            _end_line(file)
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        remedy = os_remedy(problem, "copy the run to another disk")
        raise DataError(f"cannot write {path}: {problem.strerror or problem}; {remedy}, then resume") from problem


def _end_line(file: BinaryIO) -> None:
    """Remove a last line that was cut short; end a line that only lacks its end."""
    size = file.seek(0, os.SEEK_END)
    first = max(0, size - _MOST_LINE)
    file.seek(first)
    tail = file.read()
    begin = first + tail.rfind(b"\n") + 1
    if begin == size:
        return
    try:
        parsed(tail[begin - first :])
        file.write(b"\n")
    except ValueError:
        file.truncate(begin)


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
    if not path.exists():
        return
    kept = b"".join(
        line + b"\n"
        for where, line, content in _lines(path)
        if _until(checked(Placed, content, where, _REMEDY), stage, epoch, step)
    )
    if kept != path.read_bytes():
        with atomic_file(path) as work:
            work.write_bytes(kept)


def lost_epochs(folder: Path, stage: str, epochs: int) -> int:
    """Of the first `epochs` of a stage, how many have no line in `metrics.jsonl`: what reports lack of a resumed run."""
    there = {event.epoch for event in read_events(folder) if isinstance(event, Epoch) and event.stage == stage}
    return len(set(range(1, epochs + 1)) - there)


def _until(event: Placed, stage: str, epoch: int, step: int) -> bool:
    """Whether an event was written by then; "fit" comes before "refit"."""
    if event.event == "epoch":
        return (event.stage, event.epoch) <= (stage, epoch)
    return event.event != "explore" or (event.stage, event.step) <= (stage, step)


def _lines(path: Path) -> Iterator[tuple[str, bytes, Line]]:
    """Where each whole line stands, as a message names it; the line; its content."""
    for number, line, ended in _raw(path):
        where = f"line {number} of {path}"
        try:
            content = parsed(line)
        except ValueError as problem:
            if not ended:
                continue  # a crash cut it short
            raise DataError(f"{where} is damaged ({problem}); {_REMEDY}") from None
        checked(Event, content, where, _REMEDY)
        check = content.pop(_CHECK, None)
        if check not in (None, zlib.crc32(json.dumps(content).encode())):
            raise DataError(f"{where} is damaged (its content is not what was written); {_REMEDY}")
        yield where, line, content


def _raw(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Number and bytes of each line, and whether it has an end."""
    try:
        with open_regular(path) as file:
            read = 0
            for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE + 1), b""), 1):
                read += len(line)
                if len(line) > _MOST_LINE or read > _MOST_BYTES:
                    most = f"lines of at most {_MOST_LINE:,} bytes, {_MOST_BYTES:,} in all"
                    raise DataError(f"line {number} of {path} is too long, where {most} are read; {_REMEDY}")
                if not line.isspace():
                    yield number, line.removesuffix(b"\n"), line.endswith(b"\n")
    except FileNotFoundError:
        return
    except OSError as problem:
        raise DataError(
            f"{path} cannot be read ({problem.strerror or problem}); restore it, or remove it (reports then lack it)"
        ) from None
