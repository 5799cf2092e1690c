"""metrics.jsonl: what happened in a run, one JSON object a line, appended and fsynced as it happens.

Only a run that is resumed takes lines away: those of epochs and explorations after its checkpoint, which are done again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gcnrec.errors import DataError
from gcnrec.runs.paths import EVENTS
from gcnrec.system.files import atomic_file

Event = dict[str, Any]


def read_events(folder: Path) -> list[Event]:
    """Every whole line of `metrics.jsonl`, in order; one that a crash cut short is left out."""
    path = folder / EVENTS
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [event for event in map(_parsed, text.splitlines()) if event is not None]


def _parsed(line: str) -> Event | None:
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


def epochs_of(events: list[Event], stage: str) -> list[Event]:
    """The epochs of `stage` (`fit` or `refit`)."""
    return [event for event in events if event["event"] == "epoch" and event.get("stage", "fit") == stage]


def best_validation(folder: Path, metric: str) -> dict[str, Any]:
    """The validation metrics of the epoch with the highest `metric`, the first of equals; empty when none was measured."""
    measured = [event for event in epochs_of(read_events(folder), "fit") if metric in event.get("valid", {})]
    if not measured:
        return {}
    best = max(measured, key=lambda event: float(event["valid"][metric]))
    return {"split": "valid", "epoch": best["epoch"], **best["valid"]}


def append_event(folder: Path, event: Event) -> None:
    """Write one line at the end of `metrics.jsonl`: on disk before a checkpoint can say that it is there.

    DataError when it cannot be written, for example on a full disk.
    """
    path = folder / EVENTS
    try:
        with path.open("ab+") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")  # the line before it was cut short
            file.write(json.dumps(event).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise DataError(f"cannot write {path}: {problem.strerror or problem}; free some space, then resume") from problem


def warn_once(folder: Path, kind: str, text: str) -> bool:
    """Add a warning of `kind`, unless the run has one; whether it was added."""
    if any(event["event"] == "warning" and event["kind"] == kind for event in read_events(folder)):
        return False
    append_event(folder, {"event": "warning", "kind": kind, "text": text})
    return True


def keep_events(folder: Path, stage: str, epoch: int, step: int) -> None:
    """Drop from `metrics.jsonl` what came after `epoch` epochs and `step` steps of `stage`, and a line that was cut short."""
    path = folder / EVENTS
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    kept = "".join(f"{line}\n" for line in text.splitlines() if _until(line, stage, epoch, step))
    if kept != text:
        with atomic_file(path) as work:
            work.write_text(kept, encoding="utf-8")


def _until(line: str, stage: str, epoch: int, step: int) -> bool:
    """Whether a line is whole and was written by then; "fit" comes before "refit"."""
    event = _parsed(line)
    if event is None:
        return False
    if event["event"] == "epoch":
        return bool((event["stage"], event["epoch"]) <= (stage, epoch))
    return bool(event["event"] != "explore" or (event["stage"], event["step"]) <= (stage, step))
