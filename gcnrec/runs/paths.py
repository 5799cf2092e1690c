"""Where the files of a run folder lie."""

from __future__ import annotations

import shlex
from pathlib import Path

from gcnrec.closed_forms import mixture_files

JOB, LINEAGE, EVENTS, MEMORY, MANIFEST = "job.toml", "lineage.json", "metrics.jsonl", "memory.json", "manifest.json"
MIXTURE = mixture_files.FILE
MODEL, TABLE, REPORT, LOCK = "model.safetensors", "table.safetensors", "report.html", "run.lock"
CARD = "MODEL_CARD.md"
FEATURES = "features.safetensors"


def taken(folder: Path) -> str:
    """A sentence on a run folder's name that exists already: what began there as a run continues."""
    begun = any((folder / name).exists() for name in (JOB, LINEAGE, LOCK))
    otherwise = "continue it with --resume" if begun else "remove it"
    return f"{folder} exists and is never overwritten; choose another --out, or {otherwise}"


def metrics_path(folder: Path, split: str) -> Path:
    """Where the metrics of `split` ("valid" or "test") lie."""
    return folder / ("metrics.json" if split == "test" else f"metrics.{split}.json")


def per_user_path(folder: Path, split: str) -> Path:
    """Where the metrics of every user lie: of "test", of "valid", or of "fit", the best epoch on validation."""
    return folder / ("per_user.parquet" if split == "test" else f"per_user.{split}.parquet")


def evaluate_command(folder: Path, split: str) -> str:
    """The command that measures a run on `split`, as a shell reads it: a path with a blank or a quote is one word."""
    return shlex.join(["gcnrec", "evaluate", str(folder), *([] if split == "test" else ["--split", split])])


def embeddings_paths(folder: Path) -> tuple[Path, Path]:
    """Where the exported embeddings of users and of items lie; the items' file is the last that training writes."""
    return folder / "embeddings" / "users.parquet", folder / "embeddings" / "items.parquet"
