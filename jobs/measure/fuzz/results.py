"""What a command gives, without times: lists, metrics, digests. Equal results of sound and damaged input are no difference."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import safe_open

from jobs.measure.kill.digests import digest_of

_OF_RUNS = ("embeddings/*", "mixture*/*", "model.safetensors", "table.safetensors", "per_user.fit.parquet", "metrics.jsonl")
"""Files of a run folder that hold results."""
_TIMES = (
    "seconds",
    "created",
    "folder",
    "run",
    "out",
    "peak_rss_bytes",
    "rows_per_second",
    "stalled_share",
    "major_faults",
    "arrays",
)
_OF_TIME = re.compile("second|minute|hour|rss|bytes|folder|speed|per_s|stalled")


def results_of(arguments: list[str], here: Path, out: str) -> Any:
    """The results of a command that ended with exit code 0; `out` is what it printed."""
    match arguments[0]:
        case "recommend" | "similar" | "score":
            return digest_of(here / "out.parquet")
        case "evaluate":
            per_user = "per_user.valid.parquet" if "valid" in arguments else "per_user.parquet"
            return [without_times(json.loads(out)), digests_of(here / arguments[1], (per_user,))]
        case "compare":
            return without_times(json.loads(out))
        case "export" if "bundle" in arguments:
            return bundle_of(here / "out")
        case "export":
            place = here / "out"
            files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
            return {path.name: digest_of(path) for path in files}
        case "train" | "run":
            folder = here / arguments[arguments.index("--out") + 1]
            return digests_of(folder, _OF_RUNS)
        case "sweep":
            table = pq.read_table(here / "sweep" / "sweep.parquet")
            return [{key: str(row[key]) for key in row if not _OF_TIME.search(key)} for row in table.to_pylist()]
        case "ingest":
            return json.loads((here / "out" / "dataset.json").read_text())["digest"]
    return None


def same(found: Any, expected: Any) -> bool:
    """Equal; a bundle may lack the metrics of a run without metrics.json, and a folder may hold more files than the twin's."""
    if isinstance(found, dict) and isinstance(expected, dict):
        wanted = {**expected, "metrics": "{}"} if found.get("metrics") == "{}" else expected
        return {name: found.get(name) for name in wanted} == wanted
    return bool(found == expected)


def bundle_of(path: Path) -> dict[str, str]:
    """The metadata of a bundle, and a digest of its tensors."""
    with safe_open(path, framework="np") as file:
        digest = hashlib.sha256()
        for name in sorted(file.keys()):
            digest.update(name.encode() + file.get_tensor(name).tobytes())
        return {**(file.metadata() or {}), "tensors": digest.hexdigest()}


def digests_of(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    return {str(path.relative_to(folder)): digest_or_damage(path) for path in files}


def digest_or_damage(path: Path) -> str:
    """The digest of a file; that of a damaged one is unlike any other."""
    try:
        return digest_of(path)
    except Exception as problem:
        return f"damaged: {type(problem).__name__}"


def without_times(document: Any) -> Any:
    """The document without what differs between equal runs; NaN as text, which is equal to itself."""
    if isinstance(document, dict):
        return {key: without_times(value) for key, value in document.items() if key not in _TIMES}
    if isinstance(document, list):
        return [without_times(each) for each in document]
    return str(document) if isinstance(document, float) else document
