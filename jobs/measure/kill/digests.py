"""The equal parts of two runs of one job: a sha256 for every file of the run folder, times and addresses left out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from gcnrec.integrity.digests import sha256_of
from gcnrec.runs.paths import MANIFEST

TIMES = frozenset({
    "seconds", "rows_per_second", "stalled_share", "stalled_seconds", "major_faults", "peak_rss_bytes", "arrays", "sha256",
    "crc32",
})  # fmt: skip
"""Keys that differ between any two runs, by times and by what was in memory; `sha256` and `crc32` are over what holds seconds."""
EVENTS = ("epoch", "explore", "baseline")
"""The events that a resumed run reports alike; it may report others."""
PRESENT = ("report.html", "MODEL_CARD.md", "lineage.json", "sweep.html")
"""Files of times and of the machine: only their presence counts. So it is with `.txt`, what a run of a sweep said."""
LOCKS = (".lock",)
"""Endings of the locks of a folder."""


def digests(run: Path) -> dict[str, str]:
    """File -> sha256 of what it holds, for every file below `run`: a file that should not be there is a difference too."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and not path.name.endswith(LOCKS)]
    return {str(path.relative_to(run)): digest_of(path) for path in files}


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """The files that differ or are missing on a side."""
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def digest_of(path: Path) -> str:
    """The sha256 of what a file holds; raises what its reader raises when it is damaged."""
    if path.name in PRESENT or path.suffix == ".txt":
        return "present"
    match path.suffix:
        case ".safetensors":
            parts = _tensors(path)
        case ".parquet":
            parts = _columns(path)
        case ".json" if path.name == MANIFEST:
            parts = _listed(path)
        case ".json":
            parts = [_text(json.loads(path.read_text(encoding="utf-8")))]
        case ".jsonl":
            events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            parts = [_text(event) for event in events if event["event"] in EVENTS]
        case _:
            parts = [path.read_bytes()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _listed(path: Path) -> list[bytes]:
    """The names of a run's list of files, each with whether the file is as listed: digests of runs differ by times."""
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    return [f"{name} {_is_as_listed(path.parent / name, files[name])}".encode() for name in sorted(files)]


def _is_as_listed(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and (path.stat().st_size, sha256_of(path)) == (entry["bytes"], entry["sha256"])


def _tensors(path: Path) -> list[bytes]:
    """Names, dtypes, shapes and bytes of the tensors, and the progress in the metadata."""
    with safe_open(path, framework="pt") as file:  # NumPy has no bfloat16
        header = file.metadata() or {}
        parts = []
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), raw]
    return [*parts, _text(json.loads(header.get("progress", "{}")))]


def _columns(path: Path) -> list[bytes]:
    """The schema and all values but times, however the file is laid out."""
    table = pq.read_table(path).combine_chunks()
    table = table.select([name for name in table.column_names if name not in TIMES and not name.endswith("_seconds")])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return [sink.getvalue().to_pybytes()]


def _text(document: Any) -> bytes:
    """JSON without times, keys in order; floats exactly."""
    return json.dumps(_without_times(document), sort_keys=True).encode()


def _without_times(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _without_times(value) for key, value in document.items() if key not in TIMES}
    return [_without_times(each) for each in document] if isinstance(document, list) else document
