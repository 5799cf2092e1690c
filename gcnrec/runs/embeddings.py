"""Exported embeddings for ranking a few users: in scratch on disk, where only pages that are touched take RAM.

Letters: R rows, F width of the embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gcnrec.errors import DataError
from gcnrec.ids.id_types import plain
from gcnrec.interactions import Vocabulary
from gcnrec.system.pages import let_go, scratch_rows

EXPORT_KEY = b"gcnrec"
"""Of the files' metadata: what the export is, as JSON."""
_BUFFER = 2**18
_BATCH_BYTES = 2**20
"""Of embeddings that are read at a time."""


def map_embeddings(path: Path, ids: Vocabulary, folder: Path) -> torch.Tensor:
    """Float32 (len(ids), F) in the order of `ids` from `embeddings/users.parquet` or `items.parquet`, in scratch of `folder`.

    DataError when the file holds other ids, cannot be read, or `folder` has no room.
    """
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            width = file.schema_arrow.field("embedding").type.list_size
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
                flat = batch.column("embedding").flatten().to_numpy()
                rows_RF.numpy()[done:last] = flat.reshape(len(batch), width)  # copy: out of a compressed file
                let_go(rows_RF)
                done = last
    except (OSError, KeyError, pa.ArrowInvalid) as problem:
        raise DataError(f"{path} cannot be read ({problem}); train again") from None
    return rows_RF


def read_column(path: Path, name: str) -> torch.Tensor | None:
    """Float32 (R): a column of numbers by name; None where the file has none. DataError when it cannot be read."""
    try:
        if name not in pq.read_schema(path).names:
            return None
        return torch.from_numpy(pq.read_table(path, columns=[name]).column(0).to_numpy().astype(np.float32))
    except (OSError, pa.ArrowException) as problem:
        raise DataError(f"{path} cannot be read ({problem}); train again") from None


def read_export(path: Path) -> dict[str, Any]:
    """`kind`, `factor` and `popularity_factor` of the export; runs of before there was a choice export the inner product."""
    known: dict[str, Any] = {"kind": "inner", "factor": 1.0, "popularity_factor": 0.0}
    try:
        known |= json.loads((pq.read_schema(path).metadata or {}).get(EXPORT_KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowException) as problem:
        raise DataError(f"{path} cannot be read ({problem}); train again") from None
    return known


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
