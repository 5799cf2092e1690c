"""Distinct ids that are numbers, and the number of any id: its place in their order.

Letters: E ids of a stretch, N distinct ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.loaders.ingest.numbering import number_keys
from gcnrec.system.scratch import Scratch

_SAMPLED = 64
"""Ids of a stretch that are kept, to know how rows lie over the ids."""
_IDS_PER_CELL = 4
"""On average: a cell is a stretch of keys between which an id is searched."""


class Distinct:
    """Gathers ids of type `kind`, stretch by stretch: sorted runs, of which any two of like length become one."""

    def __init__(self, kind: pa.DataType, scratch: Scratch) -> None:
        self._kind, self._scratch = kind, scratch
        self._runs: list[NDArray[np.uint64]] = []
        self._sampled: list[NDArray[np.uint64]] = []

    def add(self, ids: pa.Array) -> None:
        """Take the ids of the next stretch, which hold no null."""
        keys_E = np.sort(number_keys(ids, self._kind))
        self._sampled.append(keys_E[np.arange(_SAMPLED) * len(keys_E) // _SAMPLED])
        self._runs.append(keys_E[: _once(keys_E)].copy())
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._join()

    def keys(self) -> NDArray[np.uint64]:
        """All ids once, sorted, as `Ids.prefixes_E` has them, uint64 (N)."""
        while len(self._runs) > 1:
            self._join()
        return self._runs[0] if self._runs else np.zeros(0, np.uint64)

    def sample(self) -> NDArray[np.uint64]:
        """Ids as often as they come, `_SAMPLED` of each stretch, sorted."""
        return np.sort(np.concatenate([np.zeros(0, np.uint64), *self._sampled]))

    def _join(self) -> None:
        right, left = self._runs.pop(), self._runs.pop()
        keys = self._scratch.empty(len(left) + len(right), np.uint64)
        self._runs.append(keys[: _union(left, right, keys)])


@dataclass(frozen=True, slots=True)
class Places:
    """Finds ids among `keys_N`, sorted and distinct: keys with `key - keys_N[0] >> shift` = c begin at `firsts_C[c]`."""

    keys_N: NDArray[np.uint64]
    firsts_C: NDArray[np.int32]
    shift: np.uint64

    @classmethod
    def of(cls, keys_N: NDArray[np.uint64], scratch: Scratch) -> Places:
        """Cells of equal width."""
        span = int(keys_N[-1] - keys_N[0])
        cells = max(len(keys_N) // _IDS_PER_CELL, 1)
        shift = np.uint64(max(span.bit_length() - (cells - 1).bit_length(), 0))
        firsts_C = scratch.empty((span >> int(shift)) + 2, np.int32)
        _mark_cells(keys_N, shift, firsts_C)
        return cls(keys_N, firsts_C, shift)


@numba.njit(cache=True, nogil=True)
def _once(keys):  # type: ignore[no-untyped-def]
    """Move distinct sorted keys to the front, in place; returns how many there are."""
    count = 0
    for at in range(len(keys)):
        if count == 0 or keys[at] != keys[count - 1]:
            keys[count] = keys[at]
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _union(left, right, out):  # type: ignore[no-untyped-def]
    """The keys of two sorted runs without repetition, once each; returns how many there are."""
    a, b, count = 0, 0, 0
    while a < len(left) and b < len(right):
        x, y = left[a], right[b]
        out[count] = min(x, y)
        a += x <= y
        b += y <= x
        count += 1
    for at in range(a, len(left)):
        out[count] = left[at]
        count += 1
    for at in range(b, len(right)):
        out[count] = right[at]
        count += 1
    return count


@numba.njit(cache=True)
def _mark_cells(keys, shift, firsts):  # type: ignore[no-untyped-def]
    at = 0
    for cell in range(len(firsts)):
        while at < len(keys) and np.int64((keys[at] - keys[0]) >> shift) < cell:
            at += 1
        firsts[cell] = at


@numba.njit(inline="always")
def place_of(key, keys, firsts, shift):  # type: ignore[no-untyped-def]
    """The place of `key` among `keys`; -1 where it is none of them."""
    if key < keys[0] or key > keys[-1]:
        return -1
    cell = np.int64((key - keys[0]) >> shift)
    low, high = np.int64(firsts[cell]), np.int64(firsts[cell + 1])
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(keys) and keys[low] == key else -1
