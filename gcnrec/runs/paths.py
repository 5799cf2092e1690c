"""Where the files of a run folder lie, and how its JSON documents are read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gcnrec.errors import DataError
from gcnrec.system.files import atomic_file

JOB, LINEAGE, EVENTS, MEMORY = "job.toml", "lineage.json", "metrics.jsonl", "memory.json"
MODEL, TABLE, REPORT, LOCK = "model.safetensors", "table.safetensors", "report.html", "run.lock"


def metrics_path(folder: Path, split: str) -> Path:
    """Where the metrics of `split` ("valid" or "test") lie."""
    return folder / ("metrics.json" if split == "test" else f"metrics.{split}.json")


def per_user_path(folder: Path, split: str) -> Path:
    """Where the metrics of every user lie: of "test", of "valid", or of "fit", the best epoch on validation."""
    return folder / ("per_user.parquet" if split == "test" else f"per_user.{split}.parquet")


def embeddings_paths(folder: Path) -> tuple[Path, Path]:
    """Where the exported embeddings of users and of items lie; the items' file is the last that training writes."""
    return folder / "embeddings" / "users.parquet", folder / "embeddings" / "items.parquet"


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document` to `path` as indented JSON. DataError when it cannot be written."""
    with atomic_file(path) as work:
        work.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`. DataError when it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as problem:
        raise DataError(f"{path} cannot be read as a JSON object ({problem}); it is damaged, train again") from None
