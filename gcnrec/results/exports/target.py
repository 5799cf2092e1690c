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
ENCODER, ONNX_PRODUCER, ROWS_KEY = "encoder.onnx", "gcnrec", b"gcnrec.rows"
"""The file of an encoder, what it names as its maker, and the key in the metadata of files of its rows."""
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
    if index.get("index") == "usearch" and "query" in index:
        known: dict[str, IsPart] = {INDEX_FACTS: Path.is_file, "items.usearch": _is_usearch}
        return known | {"items.parquet": partial(_lists_items, index.get("items"))}
    if index.get("index") in FAISS_INDEXES and "query" in index:
        return {
            INDEX_FACTS: Path.is_file,
            "items.faiss": partial(_begins_with, _MAGIC[index["index"]]),
            "items.parquet": partial(_lists_items, index.get("items")),
        }
    if other.get("kind") == "onnx":
        rows: dict[str, IsPart] = dict.fromkeys(("users.parquet", "items.parquet"), _is_of_rows)
        return {EXPORT_FACTS: Path.is_file, ENCODER: _is_encoder, **rows}
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


def _is_usearch(path: Path) -> bool:
    """Whether a file is an index of usearch: the vectors' rows and bytes a row, uint32 each, the vectors, and its name."""
    with path.open("rb") as file:
        begin = file.read(8)
        if len(begin) < 8:
            return False
        rows, row_bytes = (int.from_bytes(part, "little") for part in (begin[:4], begin[4:]))
        file.seek(8 + rows * row_bytes)
        return file.read(7) == b"usearch"


def _is_encoder(path: Path) -> bool:
    """Whether a file is an ONNX model of ours: field 1 is the version of the format, a byte, and field 2 the maker."""
    maker = ONNX_PRODUCER.encode()
    with path.open("rb") as file:
        begin = file.read(4 + len(maker))
    return begin[:1] == b"\x08" and begin[2:] == bytes([0x12, len(maker)]) + maker


def _is_of_rows(path: Path) -> bool:
    """Whether a file has rows that an exported encoder reads."""
    try:
        return ROWS_KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


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
