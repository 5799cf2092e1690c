"""Slot tables as files of their own: `table.safetensors` holds what a table stores, without optimizer state.

    counts (N) uint8, columns (X) uint8, values (X) float32 or bfloat16; rows are nodes, users first, in the order of their ids

The header says `format` "gcnrec-slots", `version`, `num_rows`, `width`, `budget_values`, `dtype` and `order`, a digest of the
original ids in that order.
Letters: N rows, X stored values.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa

from gcnrec.interactions import Vocabulary
from gcnrec.storage.files import atomic_file
from gcnrec.storage.tensors import save_tensors
from gcnrec.tables.slots import SlotTable

FORMAT, VERSION = "gcnrec-slots", "1"


def order_digest(*vocabularies: Vocabulary) -> str:
    """The sha256 of the ids of vocabularies, one after the other, in their order: equal digests mean that rows mean the same."""
    digest = hashlib.sha256()
    for vocabulary in vocabularies:
        kind = vocabulary.type
        digest.update(f"{kind.value_type if pa.types.is_dictionary(kind) else kind} {len(vocabulary)}\n".encode())
        for ids in vocabulary.chunks(1 << 16):  # some of a file, which may hold more than memory should
            plain = ids.dictionary_decode() if pa.types.is_dictionary(kind) else ids
            texts = [one if isinstance(one, bytes) else str(one).encode() for one in plain.to_pylist()]
            digest.update(b"".join(len(text).to_bytes(8, "little") + text for text in texts))
    return digest.hexdigest()


def write_slots(path: Path, table: SlotTable, order: str) -> None:
    """Write the stored values of `table` to `path`; `order` is the `order_digest` of its rows' ids. DataError: a full disk."""
    saved = table.saved()
    tensors = {name: saved[name] for name in ("counts", "columns", "values")}
    header = {
        "format": FORMAT, "version": VERSION, "num_rows": str(table.num_rows), "width": str(table.width),
        "budget_values": str(table.max_values), "dtype": table.dtype, "order": order,
    }  # fmt: skip
    with atomic_file(path) as work:
        save_tensors(tensors, work, header)
