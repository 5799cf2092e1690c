"""Exported embeddings: written in stretches of rows; read for ranking a few users into scratch, of which touched pages take RAM.

Letters: R rows, F width of the embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import Field

from gcnrec.errors import DataError, UsageError, reading
from gcnrec.ids.id_types import plain
from gcnrec.interactions import Vocabulary
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.export_rules import Kind, Stretches
from gcnrec.runs.paths import embeddings_paths
from gcnrec.storage.blocks import Report, unreported
from gcnrec.storage.documents import Document, checked, object_of
from gcnrec.storage.files import atomic_file
from gcnrec.system.pages import let_go, map_rows, scratch_errors, scratch_rows

EXPORT_KEY = b"gcnrec"
"""Of the files' metadata: what the export is, as JSON."""
_BUFFER = 2**18
_BATCH_BYTES = 2**20
"""Of embeddings that are read at a time."""
_AGAIN = "train again"
_WRITTEN_BYTES = 2**24
"""Of float32 embeddings that are written at a time, as a row group."""
_Number = Annotated[float, Field(strict=True)]
FloatName = Literal["float32", "float16"]
VALUES: dict[FloatName, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}
"""How the files of a run may have embeddings."""
_LARGEST_HALF = 65504.0
_Taken = tuple[torch.Tensor, dict[str, torch.Tensor]]


class _Export(Document):
    """What the export is; runs of before there was a choice export the inner product."""

    kind: Kind = "inner"
    factor: _Number = 1.0
    popularity_factor: _Number = 0.0


def write_embeddings(
    folder: Path, dataset: Dataset, final: Stretches, dtype: FloatName = "float32", report: Report = unreported
) -> None:
    """`embeddings/users.parquet` and `items.parquet`: `id` in its own type, `embedding` fixed_size_list<`dtype`>[F].

    Items have `popularity` (log q) where the export has a column, and `length`, what a row of length 1 had before. The metadata
    of both files, key `gcnrec`, names the export as JSON: `kind`, `factor` and `popularity_factor`. The score is the inner
    product of embeddings + popularity_factor * popularity. UsageError where a number passes the largest of `dtype`.
    """
    facts = {"kind": final.rule.kind, "factor": final.rule.factor, "popularity_factor": final.factor}
    users, items = embeddings_paths(folder)
    num_users, total = len(dataset.user_ids), len(dataset.user_ids) + len(dataset.item_ids)

    def user_rows(first: int, last: int) -> _Taken:
        report(first, total)
        return final.user_rows(first, last), {}

    def item_rows(first: int, last: int) -> _Taken:
        report(num_users + first, total)
        return final.item_rows(first, last)

    for target, ids, take, names in (
        (users, dataset.user_ids, user_rows, ()),
        (items, dataset.item_ids, item_rows, final.item_columns),
    ):
        fields = [
            ("id", ids.type),
            ("embedding", pa.list_(VALUES[dtype], final.width)),
            *((name, pa.float32()) for name in names),
        ]
        schema = pa.schema(fields, metadata={EXPORT_KEY: json.dumps(facts)})
        with atomic_file(target) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _tables(ids, take, schema, target):
                writer.write_table(table)
    report(total, total)


def _tables(ids: Vocabulary, take: Callable[[int, int], _Taken], schema: pa.Schema, target: Path) -> Iterator[pa.Table]:
    """The rows of a file, a row group at a time."""
    kind, first = schema.field("embedding").type, 0
    for part in ids.chunks(max(1, _WRITTEN_BYTES // (4 * kind.list_size))):
        rows_RF, columns = take(first, first + len(part))
        flat = pa.array(_rounded(rows_RF, kind.value_type, target).contiguous().view(-1).numpy())
        more = [pa.array(columns[name].numpy()) for name in schema.names[2:]]
        yield pa.table([part, pa.FixedSizeListArray.from_arrays(flat, kind.list_size), *more], schema=schema)
        first += len(part)


def _rounded(rows_RF: torch.Tensor, kind: pa.DataType, target: Path) -> torch.Tensor:
    if kind == pa.float32():
        return rows_RF
    largest = float(rows_RF.abs().max()) if rows_RF.numel() else 0.0
    if largest > _LARGEST_HALF:
        raise UsageError(
            f"{target} must hold numbers up to {_LARGEST_HALF:,.0f}, the largest of float16, and has {largest:,.0f}; "
            "continue with --resume and export.dtype = 'float32'"
        )
    return rows_RF.half()


def map_embeddings(path: Path, ids: Vocabulary, folder: Path, only: NDArray[np.integer] | None = None) -> torch.Tensor:
    """Float32 (len(ids), F) in the order of `ids` from `embeddings/users.parquet` or `items.parquet`, in scratch of `folder`.

    `only`: the rising rows that will be read; others are zeros and take no disk. None: all. Numbers of float16 files are the same
    in float32.
    DataError when the file holds other ids, cannot be read, or `folder` has no room.
    """
    with reading(path, _AGAIN):
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            width = _width(path, file.schema_arrow)
            if file.metadata.num_rows != len(ids):
                raise _other_ids(path)
            scratch: _Scratch = _Whole(folder, len(ids), width) if only is None else _Chosen(folder, len(ids), width, only)
            done = 0
            size = max(1, _BATCH_BYTES // (4 * width))
            known = _Ids(ids.chunks(size))
            for batch in file.iter_batches(size, columns=["id", "embedding"], use_threads=False):
                last = done + len(batch)
                ids = batch.column("id")
                if not ids.cast(plain(ids.type)).equals(known.next(len(batch))):
                    raise _other_ids(path)
                flat = batch.column("embedding").flatten()
                if flat.null_count or len(flat) != len(batch) * width:
                    raise DataError(f"{path} must hold {width} numbers a row, some are null; {_AGAIN}")
                scratch.put(done, flat.to_numpy().reshape(len(batch), width).astype(np.float32, copy=False))
                done = last
            return scratch.rows()


class _Scratch(Protocol):
    """Where rows that are read go, in their order."""

    def put(self, first: int, rows_BF: NDArray[np.float32]) -> None:
        """Take rows `first ..` of the file."""
        ...

    def rows(self) -> torch.Tensor:
        """All of them, float32 (R, F), mapped."""
        ...


class _Whole:
    """All rows, in reserved scratch."""

    def __init__(self, folder: Path, rows: int, width: int) -> None:
        self._rows_RF = scratch_rows(folder, rows, width)

    def put(self, first: int, rows_BF: NDArray[np.float32]) -> None:
        self._rows_RF.numpy()[first : first + len(rows_BF)] = rows_BF  # copy: out of a compressed file
        let_go(self._rows_RF)

    def rows(self) -> torch.Tensor:
        return self._rows_RF


class _Chosen:
    """The rows `only`, rising, in a nameless file with holes. Writing, not the map, meets a full disk: DataError."""

    def __init__(self, folder: Path, rows: int, width: int, only: NDArray[np.integer]) -> None:
        self._shape, self._only = (rows, width), only
        self._room = partial(scratch_errors, folder, 4 * len(only) * width)
        with self._room():
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115 (`rows` closes it)
            self._file.truncate(max(4, 4 * rows * width))

    def put(self, first: int, rows_BF: NDArray[np.float32]) -> None:
        here = self._only[slice(*np.searchsorted(self._only, (first, first + len(rows_BF))))]
        with self._room():
            for run in np.split(here, np.flatnonzero(np.diff(here) != 1) + 1) if len(here) else ():
                self._file.seek(4 * self._shape[1] * int(run[0]))
                self._file.write(rows_BF[run[0] - first : run[-1] - first + 1].tobytes())

    def rows(self) -> torch.Tensor:
        with self._room(), self._file as file:
            file.flush()
            return map_rows(file, *self._shape)


def _width(path: Path, schema: pa.Schema) -> int:
    """The width of the embeddings of a file. DataError where they are none."""
    kinds = {name: schema.field(name).type for name in ("id", "embedding") if name in schema.names}
    kind: Any = kinds.get("embedding", pa.null())
    is_list = pa.types.is_fixed_size_list(kind) and kind.value_type in VALUES.values() and kind.list_size > 0
    if len(kinds) < 2 or not is_list:
        found = ", ".join(f"{name} {kind}" for name, kind in kinds.items()) or "neither"
        raise DataError(
            f"{path} must have columns id and embedding, a list of float32 or float16 of fixed size, has {found}; {_AGAIN}"
        )
    return int(kind.list_size)


def read_column(path: Path, name: str) -> torch.Tensor | None:
    """Float32 (R): a column of numbers by name; None where the file has none. DataError when it cannot be read."""
    with reading(path, _AGAIN):
        if name not in pq.read_schema(path).names:
            return None
        column = pq.read_table(path, columns=[name]).column(0)
    if column.null_count or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise DataError(f"{path} must hold a number in each row of {name!r}, holds {column.type} or nulls; {_AGAIN}")
    return torch.from_numpy(column.to_numpy().astype(np.float32))


def read_export(path: Path) -> dict[str, Any]:
    """`kind`, `factor` and `popularity_factor` of the export; runs of before there was a choice export the inner product."""
    with reading(path, _AGAIN):
        said = (pq.read_schema(path).metadata or {}).get(EXPORT_KEY, b"{}")
    where = f"{EXPORT_KEY.decode()} in the metadata of {path}"
    return checked(_Export, object_of(said, where, _AGAIN), where, _AGAIN).model_dump()


class _Ids:
    """The ids of a vocabulary in pieces of any length."""

    def __init__(self, chunks: Iterator[pa.Array]) -> None:
        self._chunks, self._left = chunks, pa.nulls(0)

    def next(self, count: int) -> pa.Array:
        """The next `count` ids, in their plain type."""
        parts = []
        while count:
            if not len(self._left):
                chunk = next(self._chunks)
                self._left = chunk.cast(plain(chunk.type))  # of dictionaries, each batch has its own
            parts.append(self._left.slice(0, count))
            self._left = self._left.slice(len(parts[-1]))
            count -= len(parts[-1])
        return pa.concat_arrays(parts)


def _other_ids(path: Path) -> DataError:
    return DataError(f"{path} must hold the ids of the dataset in their order; it was changed, train again")
