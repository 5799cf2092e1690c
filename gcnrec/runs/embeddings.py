"""Exported embeddings for ranking a few users: in scratch on disk, where only pages that are touched take RAM.

Letters: R rows, F width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from gcnrec.errors import DataError, reading
from gcnrec.ids.id_types import plain
from gcnrec.interactions import Vocabulary
from gcnrec.ranking.export_rules import Kind
from gcnrec.storage.documents import Document, checked, object_of
from gcnrec.system.pages import let_go, scratch_rows

EXPORT_KEY = b"gcnrec"
"""Of the files' metadata: what the export is, as JSON."""
_BUFFER = 2**18
_BATCH_BYTES = 2**20
"""Of embeddings that are read at a time."""
_AGAIN = "train again"
_Number = Annotated[float, Field(strict=True)]


class _Export(Document):
    """What the export is; runs of before there was a choice export the inner product."""

    kind: Kind = "inner"
    factor: _Number = 1.0
    popularity_factor: _Number = 0.0


def map_embeddings(path: Path, ids: Vocabulary, folder: Path) -> torch.Tensor:
    """Float32 (len(ids), F) in the order of `ids` from `embeddings/users.parquet` or `items.parquet`, in scratch of `folder`.

    DataError when the file holds other ids, cannot be read, or `folder` has no room.
    """
    with reading(path, _AGAIN):
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            width = _width(path, file.schema_arrow)
            if file.metadata.num_rows != len(ids):
                raise _other_ids(path)
            rows_RF, done = scratch_rows(folder, len(ids), width), 0
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
                rows_RF.numpy()[done:last] = flat.to_numpy().reshape(len(batch), width)  # copy: out of a compressed file
                let_go(rows_RF)
                done = last
    return rows_RF


def _width(path: Path, schema: pa.Schema) -> int:
    """The width of the embeddings of a file. DataError where they are none."""
    kinds = {name: schema.field(name).type for name in ("id", "embedding") if name in schema.names}
    kind: Any = kinds.get("embedding", pa.null())
    if len(kinds) < 2 or not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32() or kind.list_size < 1:
        found = ", ".join(f"{name} {kind}" for name, kind in kinds.items()) or "neither"
        raise DataError(f"{path} must have columns id and embedding, a list of float32 of fixed size, has {found}; {_AGAIN}")
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
