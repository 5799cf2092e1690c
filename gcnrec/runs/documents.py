"""JSON of a run folder, with what helps where a document is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gcnrec.runs.paths import evaluate_command
from gcnrec.storage.documents import read_object


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path` of a run folder. DataError when it is missing or damaged."""
    return read_object(path, remedy(path))


def remedy(path: Path) -> str:
    """What makes a document of a run anew."""
    match path.name:
        case "metrics.json":
            return f"run '{evaluate_command(path.parent, 'test')}' again"
        case "metrics.valid.json":
            return f"run '{evaluate_command(path.parent, 'valid')}' again"
        case "memory.json":
            return f"remove it and resume {path.parent}, which is then exported again"
        case "sweep.json":
            return "run the same sweep again"
    return "restore it, or train into another folder"
