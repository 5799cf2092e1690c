"""Slot tables as files of their own: `table.safetensors` holds what a table stores, without optimizer state.

    counts (N) uint8, columns (X) uint8, values (X) float32 or bfloat16; rows are nodes, users first, in the order of their ids

The header says `format` "gcnrec-slots", `version`, `num_rows`, `width`, `budget_values`, `dtype` and `order`, a digest of the
original ids in that order.
Letters: N rows, X stored values.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
            texts = plain.cast(pa.string()) if pa.types.is_integer(plain.type) else plain
            digest.update(_framed(texts.cast(pa.large_binary())).data)
    return digest.hexdigest()


def _framed(texts: pa.LargeBinaryArray) -> NDArray[np.uint8]:
    """The bytes of all texts, each after its length as an int64, little end first."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    lengths, size = np.diff(ends), int(ends[-1] - ends[0])
    framed, is_text = np.empty(size + 8 * len(texts), np.uint8), np.ones(size + 8 * len(texts), np.bool_)
    heads = (ends[:-1] - ends[0] + 8 * np.arange(len(texts)))[:, None] + np.arange(8)
    framed[heads], is_text[heads] = lengths.astype("<i8").view(np.uint8).reshape(-1, 8), False
    if size:
        framed[is_text] = np.frombuffer(content, np.uint8)[ends[0] : ends[-1]]
    return framed


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
