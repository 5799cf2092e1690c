"""JSON of a run folder, with what helps where a document is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gcnrec.system.documents import read_object


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path` of a run folder. DataError when it is missing or damaged."""
    return read_object(path, _remedy(path))


def _remedy(path: Path) -> str:
    if not path.name.startswith("metrics"):
        return "train again"
    return f"run 'gcnrec evaluate {path.parent}{' --split valid' if 'valid' in path.name else ''}' again"
