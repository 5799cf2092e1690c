"""Scratch arrays that may be larger than memory, and the sort that keeps within a memory limit.

A pair is an edge packed into one uint64: `user << 32 | item`, so that the order of pairs is the order of a CSR.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from gcnrec.errors import UsageError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `2GB` or `512MiB`; raises UsageError when it is none."""
    digits = text.strip().lower().rstrip("bikmgt ")
    unit = text.strip().lower()[len(digits) :].strip() or "b"
    try:
        size = int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError):
        raise UsageError(f"memory_limit expects a size such as 2GB or 512MB, got {text!r}") from None
    if size < 64 * 10**6:
        raise UsageError(f"memory_limit must be at least 64MB, got {text!r}")
    return size


@dataclass(frozen=True, slots=True)
class Scratch:
    """Room for working arrays: in RAM while small against `limit` bytes, else in unlinked files of `folder`."""

    folder: Path
    limit: int

    def empty(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised vector; a file behind it vanishes with the array. Raises OSError when the disk is full."""
        dtype = np.dtype(dtype)
        if size * dtype.itemsize <= self.limit // 16:
            return np.empty(size, dtype)
        descriptor, path = tempfile.mkstemp(dir=self.folder)
        try:
            reserve(descriptor, size * dtype.itemsize)
            return np.memmap(path, dtype, "r+", shape=(size,)).view(np.ndarray)
        finally:
            os.close(descriptor)
            Path(path).unlink()

    @property
    def sort_rows(self) -> int:
        """Rows that may be sorted at once."""
        return max(self.limit // 64, 1)


def reserve(descriptor: int, size: int) -> None:
    """Claim `size` bytes on disk now: a full disk is an OSError here, and would be a SIGBUS at a later write to the map."""
    if size:
        os.posix_fallocate(descriptor, 0, size)


def new_npy(path: Path, size: int, dtype: DTypeLike) -> NDArray[Any]:
    """A writable memory map of a new one-dimensional `.npy` file whose bytes are already reserved."""
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (size,)) if size else np.empty(0, dtype)
    if not size:
        np.save(path, array)
        return array
    with path.open("r+b") as file:
        reserve(file.fileno(), path.stat().st_size)
    return array.view(np.ndarray)


@dataclass(frozen=True, slots=True)
class Rows:
    """Interactions as pairs uint64 with optional `times_E` int64 (ticks of the input) and `weights_E` float32."""

    pairs_E: NDArray[np.uint64]
    times_E: NDArray[np.int64] | None
    weights_E: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.pairs_E)

    @classmethod
    def empty(cls, size: int, like: Rows, scratch: Scratch) -> Rows:
        """Uninitialised rows with the columns of `like`."""
        return cls(
            scratch.empty(size, np.uint64),
            None if like.times_E is None else scratch.empty(size, np.int64),
            None if like.weights_E is None else scratch.empty(size, np.float32),
        )

    def keep(self, mask_E: NDArray[np.bool_], scratch: Scratch) -> Rows:
        """The rows where `mask_E`, in order."""
        count = int(np.count_nonzero(mask_E))
        if count == len(self):
            return self
        out = Rows.empty(count, self, scratch)
        for source, target in zip(self.columns(), out.columns(), strict=True):
            _compress(source, mask_E, target)
        return out

    def columns(self) -> list[NDArray[Any]]:
        return [column for column in (self.pairs_E, self.times_E, self.weights_E) if column is not None]

    def slice(self, first: int, last: int) -> Rows:
        """A view of rows `first .. last - 1`."""
        times, weights = self.times_E, self.weights_E
        return Rows(
            self.pairs_E[first:last],
            None if times is None else times[first:last],
            None if weights is None else weights[first:last],
        )


def sort_rows(rows: Rows, num_high: int, scratch: Scratch) -> Rows:
    """The rows by (pair, time, weight), whatever order they came in; `rows` is used up.

    At most `scratch.sort_rows` rows are sorted at once (one node's rows always together): more are first dealt
    into ranges of the high number, which are then sorted one by one.
    """
    cap = scratch.sort_rows
    if len(rows) <= cap:
        _sort_range(rows)
        return rows
    counts = count_high(rows.pairs_E, num_high)
    bounds = _ranges(counts, cap)
    starts = np.concatenate([[0], np.cumsum(counts)])[bounds]
    bucket_of = np.repeat(np.arange(len(bounds) - 1, dtype=np.int32), np.diff(bounds))
    out = Rows.empty(len(rows), rows, scratch)
    for source, target in zip(rows.columns(), out.columns(), strict=True):
        _deal(rows.pairs_E, bucket_of, starts[:-1].copy(), source, target)
    for first, last in pairwise(starts):
        _sort_range(out.slice(first, last))
    return out


def _sort_range(rows: Rows) -> None:
    if rows.times_E is None and rows.weights_E is None:
        rows.pairs_E.sort()
        return
    order = np.argsort(rows.pairs_E)
    times = np.zeros(0, np.int64) if rows.times_E is None else rows.times_E
    weights = np.zeros(0, np.float32) if rows.weights_E is None else rows.weights_E
    _settle_ties(rows.pairs_E, times, weights, order)
    for column in rows.columns():
        column[:] = column[order]


def _ranges(counts: NDArray[np.int64], cap: int) -> NDArray[np.int64]:
    """Bounds of consecutive runs whose counts sum to at most `cap` each (a single larger count stands alone)."""
    ends = np.cumsum(counts)
    bounds = [0]
    while bounds[-1] < len(counts):
        before = ends[bounds[-1] - 1] if bounds[-1] else 0
        bounds.append(max(int(np.searchsorted(ends, before + cap, side="right")), bounds[-1] + 1))
    return np.array(bounds, np.int64)


@numba.njit(cache=True)
def _settle_ties(pairs, times, weights, order):  # type: ignore[no-untyped-def]
    """Insertion sort by (time, weight, position) inside runs of equal pairs."""
    for at in range(1, len(order)):
        row = order[at]
        back = at
        while back > 0 and pairs[order[back - 1]] == pairs[row] and _later(order[back - 1], row, times, weights):
            order[back] = order[back - 1]
            back -= 1
        order[back] = row


@numba.njit(cache=True)
def _later(a, b, times, weights):  # type: ignore[no-untyped-def]
    if len(times) and times[a] != times[b]:
        return times[a] > times[b]
    if len(weights) and weights[a] != weights[b]:
        return weights[a] > weights[b]
    return False


@numba.njit(cache=True)
def _deal(pairs, bucket_of, cursor, source, target):  # type: ignore[no-untyped-def]
    for row in range(len(pairs)):
        bucket = bucket_of[np.int64(pairs[row] >> np.uint64(32))]
        target[cursor[bucket]] = source[row]
        cursor[bucket] += 1


@numba.njit(cache=True)
def _compress(source, mask, target):  # type: ignore[no-untyped-def]
    at = 0
    for row in range(len(source)):
        if mask[row]:
            target[at] = source[row]
            at += 1


@numba.njit(cache=True)
def count_high(pairs, size):  # type: ignore[no-untyped-def]
    """Rows per high number (the user of a pair), int64 (size)."""
    counts = np.zeros(size, np.int64)
    for row in range(len(pairs)):
        counts[np.int64(pairs[row] >> np.uint64(32))] += 1
    return counts


@numba.njit(cache=True)
def count_low(pairs, size):  # type: ignore[no-untyped-def]
    """Rows per low number (the item of a pair), int64 (size)."""
    counts = np.zeros(size, np.int64)
    for row in range(len(pairs)):
        counts[np.int64(pairs[row] & np.uint64(0xFFFFFFFF))] += 1
    return counts
