"""Interactions while they are ingested, and the sort that keeps within a memory limit.

A pair is an edge packed into one uint64: `user << 32 | item`, so that the order of pairs is the order of a CSR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.system.scratch import Scratch

LOW = np.uint64(0xFFFFFFFF)
"""The bits of a pair's low number."""
_32 = np.uint64(32)
_DIGIT_BITS = 11


@dataclass(frozen=True, slots=True)
class Rows:
    """Interactions as pairs uint64 with optional `times_E` int64 (ticks of the input) and `weights_E` float32."""

    pairs_E: NDArray[np.uint64]
    times_E: NDArray[np.int64] | None
    weights_E: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.pairs_E)

    def columns(self) -> list[NDArray[Any]]:
        return [column for column in (self.pairs_E, self.times_E, self.weights_E) if column is not None]

    def empty(self, size: int, scratch: Scratch) -> Rows:
        """Uninitialised rows with the same columns."""
        return self._each(lambda column: scratch.empty(size, column.dtype))

    def keep(self, codes_E: NDArray[np.int8], code: int, scratch: Scratch) -> Rows:
        """The rows whose code is `code`, in order."""
        count = int(count_codes(codes_E, code))
        if count == len(self):
            return self
        out = self.empty(count, scratch)
        for source, target in zip(self.columns(), out.columns(), strict=True):
            _compress(source, codes_E, code, target)
        return out

    def slice(self, first: int, last: int) -> Rows:
        """A view of rows `first .. last - 1`."""
        return self._each(lambda column: column[first:last])

    def _each(self, made: Callable[[NDArray[Any]], NDArray[Any]]) -> Rows:
        pairs_E, times_E, weights_E = made(self.pairs_E), self.times_E, self.weights_E
        return Rows(pairs_E, None if times_E is None else made(times_E), None if weights_E is None else made(weights_E))


@numba.njit(inline="always")
def packed(high, low):  # type: ignore[no-untyped-def]
    """The pair of two numbers."""
    return (np.uint64(high) << _32) | np.uint64(low)


@numba.njit(inline="always")
def high_of(pair):  # type: ignore[no-untyped-def]
    """The high number of a pair, its user, int64."""
    return np.int64(pair >> _32)


@numba.njit(inline="always")
def low_of(pair):  # type: ignore[no-untyped-def]
    """The low number of a pair, its item, int64."""
    return np.int64(pair & LOW)


def sort_rows(rows: Rows, num_high: int, num_low: int, scratch: Scratch) -> Rows:
    """The rows by (pair, time, weight), whatever order they came in; `rows` is used up.

    Radix sort. `num_low = 0` says that the low numbers are in order already. Rows that do not fit 2/5 of the memory
    limit twice are first dealt into ranges of the high number (one node's rows always together), sorted one by one.
    """
    cap = max(scratch.limit // 5 // sum(column.itemsize for column in rows.columns()), 1)
    if len(rows) <= cap:
        return radix_sort(rows, rows.empty(len(rows), scratch), num_high, num_low)
    counts, bucket_of = count_high(rows.pairs_E, num_high, scratch), scratch.empty(num_high, np.int32)
    starts = _ranges(counts, cap, bucket_of, len(rows))
    out = rows.empty(len(rows), scratch)
    for source, target in zip(rows.columns(), out.columns(), strict=True):
        _deal(rows.pairs_E, bucket_of, starts[:-1].copy(), source, target)
    spare = rows.slice(0, int(np.diff(starts).max()))
    for first, last in pairwise(starts):
        part = out.slice(first, last)
        done = radix_sort(part, spare.slice(0, last - first), num_high, num_low)
        if done is not part:
            for source, target in zip(done.columns(), part.columns(), strict=True):
                target[:] = source
    return out


def radix_sort(rows: Rows, spare: Rows, num_high: int, num_low: int) -> Rows:
    """Radix passes between `rows` and `spare`, low number first; returns the one of the two that holds the result."""
    for shift, width in _digits(num_low, 0) + _digits(num_high, 32):
        starts = _digit_starts(rows.pairs_E, shift, width)
        if starts is None:
            continue
        for source, target in zip(rows.columns()[1:], spare.columns()[1:], strict=True):
            _pass(rows.pairs_E, starts.copy(), shift, width, source, target)
        _pass(rows.pairs_E, starts, shift, width, rows.pairs_E, spare.pairs_E)
        rows, spare = spare, rows
    if rows.times_E is not None or rows.weights_E is not None:
        times = np.zeros(0, np.int64) if rows.times_E is None else rows.times_E
        weights = np.zeros(0, np.float32) if rows.weights_E is None else rows.weights_E
        _settle_ties(rows.pairs_E, times, weights)
    return rows


def _digits(size: int, base: int) -> list[tuple[np.uint64, int]]:
    """(shift, width) of the digits of numbers below `size` that start at bit `base`."""
    bits = max(size - 1, 0).bit_length()
    count = -(-bits // _DIGIT_BITS)
    width = -(-bits // count) if count else 0
    return [(np.uint64(base + digit * width), width) for digit in range(count)]


def _digit_starts(pairs_E: NDArray[np.uint64], shift: np.uint64, width: int) -> NDArray[np.int64] | None:
    """Where every digit's rows begin; None when all rows have the same digit."""
    counts = _count_digits(pairs_E, shift, width)
    if int(counts.max(initial=0)) == len(pairs_E):
        return None
    starts: NDArray[np.int64] = np.cumsum(counts) - counts
    return starts


@numba.njit(cache=True)
def _count_digits(pairs, shift, width):  # type: ignore[no-untyped-def]
    counts = np.zeros(1 << width, np.int64)
    mask = np.uint64((1 << width) - 1)
    for row in range(len(pairs)):
        counts[np.int64((pairs[row] >> shift) & mask)] += 1
    return counts


@numba.njit(cache=True)
def _pass(pairs, cursor, shift, width, source, target):  # type: ignore[no-untyped-def]
    mask = np.uint64((1 << width) - 1)
    for row in range(len(pairs)):
        digit = np.int64((pairs[row] >> shift) & mask)
        target[cursor[digit]] = source[row]
        cursor[digit] += 1


@numba.njit(cache=True)
def _ranges(counts, cap, bucket_of, total):  # type: ignore[no-untyped-def]
    """Bounds, in rows, of consecutive runs whose counts sum to at most `cap` each (a single larger count stands alone)."""
    bounds = np.zeros(2 * (total // cap + 1) + 2, np.int64)
    bucket, held = 0, np.int64(0)
    for node in range(len(counts)):
        if held and held + counts[node] > cap:
            bucket += 1
            bounds[bucket] = bounds[bucket - 1] + held
            held = np.int64(0)
        bucket_of[node] = bucket
        held += counts[node]
    bounds[bucket + 1] = total
    return bounds[: bucket + 2]


@numba.njit(cache=True)
def _settle_ties(pairs, times, weights):  # type: ignore[no-untyped-def]
    """Sort by (time, weight) inside runs of equal pairs."""
    first = 0
    for at in range(1, len(pairs) + 1):
        if at < len(pairs) and pairs[at] == pairs[first]:
            continue
        if at - first > 1:
            _heap_sort(first, at - first, times, weights)
        first = at


@numba.njit(cache=True)
def _heap_sort(first, count, times, weights):  # type: ignore[no-untyped-def]
    """In place, and never slower than n log n: one pair may come millions of times."""
    for top in range(count // 2 - 1, -1, -1):
        _sift(first, top, count, times, weights)
    for last in range(count - 1, 0, -1):
        _exchange(first, first + last, times, weights)
        _sift(first, 0, last, times, weights)


@numba.njit(cache=True)
def _sift(first, top, count, times, weights):  # type: ignore[no-untyped-def]
    while 2 * top + 1 < count:
        child = 2 * top + 1
        if child + 1 < count and _later(first + child + 1, first + child, times, weights):
            child += 1
        if not _later(first + child, first + top, times, weights):
            return
        _exchange(first + child, first + top, times, weights)
        top = child


@numba.njit(cache=True)
def _exchange(a, b, times, weights):  # type: ignore[no-untyped-def]
    if len(times):
        times[a], times[b] = times[b], times[a]
    if len(weights):
        weights[a], weights[b] = weights[b], weights[a]


@numba.njit(cache=True)
def _later(a, b, times, weights):  # type: ignore[no-untyped-def]
    if len(times) and times[a] != times[b]:
        return times[a] > times[b]
    return len(weights) > 0 and weights[a] > weights[b]


@numba.njit(cache=True)
def _deal(pairs, bucket_of, cursor, source, target):  # type: ignore[no-untyped-def]
    for row in range(len(pairs)):
        bucket = bucket_of[high_of(pairs[row])]
        target[cursor[bucket]] = source[row]
        cursor[bucket] += 1


@numba.njit(cache=True)
def count_codes(codes, code):  # type: ignore[no-untyped-def]
    """Rows whose code is `code`."""
    count = 0
    for row in range(len(codes)):
        count += codes[row] == code
    return count


@numba.njit(cache=True)
def count_until(times, most):  # type: ignore[no-untyped-def]
    """Rows whose time is at most `most`."""
    count = 0
    for row in range(len(times)):
        count += times[row] <= most
    return count


@numba.njit(cache=True)
def _compress(source, codes, code, target):  # type: ignore[no-untyped-def]
    at = 0
    for row in range(len(source)):
        if codes[row] == code:
            target[at] = source[row]
            at += 1


def count_high(pairs_E: NDArray[np.uint64], size: int, scratch: Scratch) -> NDArray[np.int64]:
    """Rows per high number (the user of a pair), int64 (size)."""
    counts = scratch.full(size, np.int64, 0)
    _count(pairs_E, _32, counts)
    return counts


def count_low(pairs_E: NDArray[np.uint64], size: int, scratch: Scratch) -> NDArray[np.int64]:
    """Rows per low number (the item of a pair), int64 (size)."""
    counts = scratch.full(size, np.int64, 0)
    _count(pairs_E, np.uint64(0), counts)
    return counts


@numba.njit(cache=True)
def _count(pairs, shift, counts):  # type: ignore[no-untyped-def]
    for row in range(len(pairs)):
        counts[np.int64((pairs[row] >> shift) & LOW)] += 1
