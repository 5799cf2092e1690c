"""Where an export goes, and whether what lies there may be replaced: an earlier export alone, as its content says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.errors import DataError, UsageError
from gcnrec.results.bundle import is_bundle
from gcnrec.results.outputs import owner_of
from gcnrec.runs.embeddings import EXPORT_KEY, read_export
from gcnrec.storage.documents import read_object

FORMAT = 1
INDEX_FACTS, EXPORT_FACTS = "index.json", "export.json"
"""What describes an exported index, and another exported folder."""
FAISS_INDEXES = ("flat", "hnsw")
_MAGIC = {"flat": b"IxFI", "hnsw": b"IHNf"}
"""The first bytes of FAISS's files of each index."""
IsPart = Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """Where an export goes; `force` replaces what lies there, if that is an export and nothing else."""

    path: Path
    force: bool

    def refuse_taken(self, kind: str) -> None:
        """UsageError where something lies there that is not to be replaced, such as a file of a run or of a shop."""
        out = self.path
        if not out.exists():
            return
        if (owner := owner_of(out)) is not None:
            raise UsageError(f"{out} exists and belongs to {owner}, which is never overwritten; choose another --out")
        foreign: str | None
        if kind == "bundle" and out.is_file():
            foreign = None if is_bundle(out) else "it is no bundle, or a damaged one"
        elif kind != "bundle" and out.is_dir():
            name = _foreign(out)
            foreign = name and f"it holds {name}, which is no part of an export, or is damaged"
        else:
            foreign = "it is a folder" if out.is_dir() else "it is no folder"
        if foreign:
            raise UsageError(f"{out} exists and is never overwritten, as {foreign}; choose another --out")
        if not self.force:
            raise UsageError(f"{out} exists and is never overwritten; choose another --out, or add --force")


def _foreign(folder: Path) -> str | None:
    """The name of a file that is no part of an export, None where there is none: as the files' content says, not their names."""
    inside = {path.name: path for path in sorted(folder.iterdir())}
    parts = _parts(inside)
    for name, path in inside.items():
        if not (name in parts and path.is_file() and parts[name](path)):
            return name
    return None


def _parts(inside: dict[str, Path]) -> dict[str, IsPart]:
    """Names of the files that the export in a folder may have, and what recognises each."""
    index, other = _facts(inside.get(INDEX_FACTS)), _facts(inside.get(EXPORT_FACTS))
    if index.get("index") in FAISS_INDEXES and "query" in index:
        return {
            INDEX_FACTS: Path.is_file,
            "items.faiss": partial(_begins_with, _MAGIC[index["index"]]),
            "items.parquet": partial(_lists_items, index.get("items")),
        }
    embeddings: dict[str, IsPart] = dict.fromkeys(("users.parquet", "items.parquet"), _is_of_embeddings)
    return embeddings | ({EXPORT_FACTS: Path.is_file} if other.get("kind") == "int8" else {})


def _facts(path: Path | None) -> dict[str, Any]:
    """What the description of an exported folder says; nothing of another file."""
    try:
        facts = {} if path is None or not path.is_file() else read_object(path, "export it again")
    except DataError:
        return {}
    # A kind, or an index, is text: other values would have no hash.
    known = facts.get("format") == FORMAT and all(isinstance(facts.get(key, ""), str) for key in ("index", "kind"))
    return facts if known else {}


def _begins_with(magic: bytes, path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _lists_items(count: Any, path: Path) -> bool:
    """Whether a file has the number and the id of so many items."""
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow.names == ["number", "id"] and file.metadata.num_rows == count
    except (pa.ArrowException, OSError):
        return False


def _is_of_embeddings(path: Path) -> bool:
    """Whether a file is one of a run's embeddings, as its metadata says."""
    try:
        return EXPORT_KEY in (pq.read_schema(path).metadata or {}) and bool(read_export(path))
    except (pa.ArrowException, OSError, DataError):
        return False
