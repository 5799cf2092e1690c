"""Ids become numbers in bounded memory, however many there are.

Stretches of rows are coded one by one: each leaves its distinct ids, sorted, in scratch, and codes of its own. One merge of all
stretches then numbers the ids by their order, and gives the number of each code.
Letters: E sorted ids of all stretches, K stretches, N distinct ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec import interactions
from gcnrec.errors import DataError
from gcnrec.ids.id_types import family
from gcnrec.system.scratch import Scratch, Spool

_SIGN = np.uint64(1 << 63)
_SUM = pa.decimal256(40, 0)
"""Holds any id that is a decimal, and its distance from the least one."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Distinct ids of type `kind` in the order of their numbers; they lie in scratch.

    Id n is entry `entries_N[n]` of `prefixes_E` (integers and dates, shifted to be unsigned), or of `texts_E` (all others, as
    bytes that sort like the ids). Without `entries_N`, id n is entry n.
    """

    kind: pa.DataType
    prefixes_E: NDArray[np.uint64]
    texts_E: pa.Array | None
    entries_N: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.prefixes_E if self.entries_N is None else self.entries_N)

    def _entries(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers if self.entries_N is None else self.entries_N[numbers]

    def take(self, numbers: NDArray[np.int64]) -> pa.Array:
        """The ids of `numbers`, in their type."""
        entries = self._entries(numbers)
        if self.texts_E is not None:
            return _from_bytes(self.texts_E.take(pa.array(entries)), self.kind)
        keys = self.prefixes_E[entries]
        integers = pa.array(keys if _unsigned(self.kind) else (keys ^ _SIGN).view(np.int64))
        return integers.cast(pa.int32()).cast(self.kind) if pa.types.is_date(self.kind) else integers.cast(self.kind)

    def cut(self, numbers: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
        """`numbers` in parts whose ids take at most `most` bytes; a longer id is a part of its own."""
        if self.texts_E is None or len(numbers) < 2:
            yield numbers
            return
        offsets_E = np.frombuffer(self.texts_E.buffers()[1], np.int64)
        entries = self._entries(numbers)
        if (offsets_E[entries + 1] - offsets_E[entries]).sum() <= most:
            yield numbers
            return
        for half in np.array_split(numbers, 2):
            yield from self.cut(half, most)


class Numbering:
    """Gathers ids of type `kind`, stretch by stretch, until `numbered` gives their numbers."""

    def __init__(self, kind: pa.DataType, scratch: Scratch) -> None:
        self._kind, self._scratch = kind, scratch
        self._prefixes, self._order = Spool(scratch.folder, np.uint64), Spool(scratch.folder, np.int32)
        self._bytes, self._offsets = Spool(scratch.folder, np.uint8), Spool(scratch.folder, np.int64)
        self._offsets.append(np.zeros(1, np.int64))

    def codes(self, ids: pa.Array) -> NDArray[np.int32]:
        """The codes of the next stretch's rows, from 0; `ids` holds no null."""
        coded = _keys(ids, self._kind).dictionary_encode()
        if is_number(self._kind):
            keys = _above_zero(coded.dictionary, self._kind)
            order = np.argsort(keys)
            self._prefixes.append(keys[order])
        else:
            if family(self._kind) in ("text", "bytes"):
                coded.dictionary.cast(self._kind)  # refuses bytes that are no text
            order = pc.sort_indices(coded.dictionary).to_numpy()
            self._append_texts(coded.dictionary.take(pa.array(order)))
        self._order.append(order.astype(np.int32))
        codes: NDArray[np.int32] = coded.indices.to_numpy()
        return codes

    def numbered(self, bounds_K: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int32]]:
        """All ids, and the number of every code of every stretch: stretch k begins at `bounds_K[k]` (K + 1 of them)."""
        prefixes_E, offsets, data = self._prefixes.array(), self._offsets.array(), self._bytes.array()
        numbers_E = self._scratch.empty(len(prefixes_E), np.int32)
        entries_E = self._scratch.empty(len(prefixes_E), np.int64)
        count = _merge(prefixes_E, offsets, data, bounds_K, self._order.array(), numbers_E, entries_E)
        texts_E = None
        if not is_number(self._kind):
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
            texts_E = pa.Array.from_buffers(pa.large_binary(), len(prefixes_E), buffers)
        return Ids(self._kind, prefixes_E, texts_E, entries_E[:count]), numbers_E

    def __len__(self) -> int:
        """Sorted ids gathered so far, E."""
        return len(self._prefixes)

    def _append_texts(self, texts: pa.Array) -> None:
        _, offsets_buffer, data_buffer = texts.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int64, len(texts) + 1, 8 * texts.offset)
        data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.zeros(0, np.uint8)
        data = data[offsets[0] : offsets[-1]]
        ends = offsets - offsets[0]
        prefixes = np.empty(len(texts), np.uint64)
        _first_bytes(data, ends, prefixes)
        self._prefixes.append(prefixes)
        self._offsets.append(ends[1:] + len(self._bytes))
        self._bytes.append(data)


def refuse_too_many(count: int, side: str) -> None:
    """DataError where int32 cannot number the ids of a side, `users` or `items`."""
    if count > interactions.MAX_NODES:
        raise DataError(f"{count:,} distinct {side} are more than the {interactions.MAX_NODES:,} that int32 can number")


def is_number(kind: pa.DataType) -> bool:
    """Whether ids of `kind` are numbers of at most 64 bits."""
    return bool(pa.types.is_integer(kind) or pa.types.is_date(kind))


def number_keys(ids: pa.Array, kind: pa.DataType) -> NDArray[np.uint64]:
    """Ids of a `kind` that `is_number`, as `Ids.prefixes_E` has them: uint64 that sort like the ids. `ids` holds no null."""
    return _above_zero(_keys(ids, kind), kind)


def _above_zero(keys: pa.Array, kind: pa.DataType) -> NDArray[np.uint64]:
    """Integers of 64 bits, shifted to be unsigned."""
    numbers: NDArray[np.uint64] = keys.to_numpy(zero_copy_only=False)
    return numbers if _unsigned(kind) else numbers.view(np.uint64) ^ _SIGN


def _keys(ids: pa.Array, kind: pa.DataType) -> pa.Array:
    """Ids as 64-bit integers, or as bytes that sort like them. `ids` are of `kind` or in its plain type."""
    if pa.types.is_date(kind):
        return ids.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    if pa.types.is_decimal(kind):
        # Above zero and of one length, digits sort like the numbers.
        above = pc.add(ids.cast(_SUM), pa.scalar(10**kind.precision, _SUM))
        return pc.utf8_lpad(above.cast(pa.string()), kind.precision + 1, "0").cast(pa.large_binary())
    if is_number(kind):
        return ids.cast(pa.uint64() if _unsigned(kind) else pa.int64())
    return ids.cast(pa.large_binary())


def _from_bytes(keys: pa.Array, kind: pa.DataType) -> pa.Array:
    """What `_keys` made bytes of."""
    if not pa.types.is_decimal(kind):
        return keys.cast(kind)
    return pc.subtract(keys.cast(pa.string()).cast(_SUM), pa.scalar(10**kind.precision, _SUM)).cast(kind)


def _unsigned(kind: pa.DataType) -> bool:
    return bool(pa.types.is_unsigned_integer(kind))


@numba.njit(cache=True)
def _first_bytes(data, ends, prefixes):  # type: ignore[no-untyped-def]
    """The first eight bytes of every text as a number that sorts like them; short texts end in zeros."""
    for text in range(len(prefixes)):
        key = np.uint64(0)
        for place in range(8):
            at = ends[text] + place
            byte = np.uint64(data[at]) if at < ends[text + 1] else np.uint64(0)
            key = (key << np.uint64(8)) | byte
        prefixes[text] = key


@numba.njit(inline="always")
def _compared(a, b, prefixes, offsets, data):  # type: ignore[no-untyped-def]
    """Below, equal to or above 0 as entry a sorts before, with or after entry b; integers have no `data`."""
    if prefixes[a] != prefixes[b]:
        return -1 if prefixes[a] < prefixes[b] else 1
    if len(data) == 0:
        return 0
    length_a, length_b = offsets[a + 1] - offsets[a], offsets[b + 1] - offsets[b]
    for place in range(min(length_a, length_b)):
        x, y = data[offsets[a] + place], data[offsets[b] + place]
        if x != y:
            return -1 if x < y else 1
    return 0 if length_a == length_b else (-1 if length_a < length_b else 1)


@numba.njit(cache=True, nogil=True)
def _merge(prefixes, offsets, data, bounds, order, numbers, entries):  # type: ignore[no-untyped-def]
    """Number all entries by a heap of the stretches' next ones; returns how many ids are distinct.

    `numbers` gets the number of every code, `entries` the first entry of every number.
    """
    heads = bounds[:-1].copy()
    heap = np.empty(len(heads), np.int64)
    size = 0
    for run in range(len(heads)):
        if bounds[run] < bounds[run + 1]:
            heap[size] = run
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sift(heap, size, place, heads, prefixes, offsets, data)
    count = 0
    while size:
        run = heap[0]
        entry = heads[run]
        if count == 0 or _compared(entries[count - 1], entry, prefixes, offsets, data) != 0:
            entries[count] = entry
            count += 1
        numbers[bounds[run] + order[entry]] = count - 1
        heads[run] += 1
        if heads[run] == bounds[run + 1]:
            size -= 1
            heap[0] = heap[size]
        _sift(heap, size, 0, heads, prefixes, offsets, data)
    return count


@numba.njit(cache=True)
def _sift(heap, size, place, heads, prefixes, offsets, data):  # type: ignore[no-untyped-def]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _compared(heads[heap[child + 1]], heads[heap[child]], prefixes, offsets, data) < 0:
            child += 1
        if _compared(heads[heap[child]], heads[heap[place]], prefixes, offsets, data) >= 0:
            return
        heap[place], heap[child] = heap[child], heap[place]
        place = child
