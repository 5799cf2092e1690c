"""metrics.jsonl: what happened in a run, one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
