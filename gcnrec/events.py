"""metrics.jsonl: what happened in a run, one JSON object a line, appended as it happens.

Only a run that is resumed takes lines away: those of epochs after its checkpoint, which are done again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gcnrec.loaders.atomic import atomic_file

Event = dict[str, Any]


def read_events(folder: Path) -> list[Event]:
    """Every whole line of `metrics.jsonl`, in order; a last line that a crash cut short is left out."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


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
    """Write one line at the end of `metrics.jsonl`."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def warn_once(folder: Path, kind: str, text: str) -> bool:
    """Add a warning of `kind`, unless the run has one; whether it was added."""
    if any(event["event"] == "warning" and event["kind"] == kind for event in read_events(folder)):
        return False
    append_event(folder, {"event": "warning", "kind": kind, "text": text})
    return True


def keep_events(folder: Path, stage: str, epoch: int) -> None:
    """Drop from `metrics.jsonl` the epochs after `epoch` of `stage`, to be done again, and a line that was cut short."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _until(line, stage, epoch)]
    with atomic_file(path) as work:
        work.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _until(line: str, stage: str, epoch: int) -> bool:
    """Whether a line is whole and of no epoch, of `epoch` of `stage` or of an earlier one; "fit" comes before "refit"."""
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return bool(event["event"] not in ("epoch", "explore") or (event["stage"], event["epoch"]) <= (stage, epoch))
