"""Exported embeddings for ranking a few users: in scratch on disk, where only pages that are touched take RAM.

Letters: R rows, F width of the embeddings.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gcnrec.errors import DataError
from gcnrec.interactions import Vocabulary
from gcnrec.memory import scratch_rows
from gcnrec.ops.pages import let_go

_BATCH_ROWS = 1 << 16


def map_embeddings(path: Path, ids: Vocabulary, folder: Path) -> torch.Tensor:
    """Float32 (len(ids), F) in the order of `ids` from `embeddings/users.parquet` or `items.parquet`, in scratch of `folder`.

    DataError when the file holds other ids, cannot be read, or `folder` has no room.
    """
    try:
        with pq.ParquetFile(path) as file:
            width = file.schema_arrow.field("embedding").type.list_size
            if file.metadata.num_rows != len(ids):
                raise _other_ids(path)
            rows_RF, done = scratch_rows(folder, len(ids), width), 0
            for batch in file.iter_batches(_BATCH_ROWS):
                last = done + len(batch)
                if not _plain(batch.column("id")).equals(_plain(ids.ids.slice(done, len(batch)))):
                    raise _other_ids(path)
                flat = batch.column("embedding").flatten().to_numpy()
                rows_RF.numpy()[done:last] = flat.reshape(len(batch), width)  # copy: out of a compressed file
                let_go(rows_RF)
                done = last
    except (OSError, KeyError, pa.ArrowInvalid) as problem:
        raise DataError(f"{path} cannot be read ({problem}); train again") from None
    return rows_RF


def _plain(ids: pa.Array) -> pa.Array:
    """Without a dictionary, which each batch has its own of."""
    return ids.cast(ids.type.value_type) if pa.types.is_dictionary(ids.type) else ids


def _other_ids(path: Path) -> DataError:
    return DataError(f"{path} must hold the ids of the dataset in their order; it was changed, train again")
