"""Choosing the largest: exactly n of a stream too long to keep, or so many of every row. Ties go to the lower (row, column).

A stream is given as keys: the bits of floats that are not negative order as integers do, and what must not be chosen has a
negative key. The place of the cut is found digit by digit, a pass over the stream each, without a list of candidates.
Letters: R rows, D width, X keys or stored values.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# (numba's decorators carry no types)

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

_DIGITS = (22, 11, 0)
"""Shifts of the digits of a key of 31 bits, 11 bits each, the highest first."""


@dataclass(slots=True)
class Picker:
    """Marks the keys of a cut: all above `bound` and the first `ties` equal to it. For one walk of a stream."""

    bound: int
    ties: int

    def __call__(self, keys_X: NDArray[np.int32]) -> NDArray[np.bool_]:
        marks_X = np.empty(len(keys_X), np.bool_)
        self.ties = mark_largest(keys_X, self.bound, self.ties, marks_X)
        return marks_X


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the largest keys of a stream end: above `bound`, and the first `ties` equal to it."""

    bound: int
    ties: int

    def picker(self) -> Picker:
        return Picker(self.bound, self.ties)


NOTHING, EVERYTHING = Cut(2**31, 0), Cut(-1, 0)


def cut_at(stream: Callable[[int], Iterable[NDArray[np.int32]]], count: int) -> Cut:
    """The cut that chooses the `count` largest keys of a stream of int32 keys, or all that are not negative if they are fewer.

    `stream(least)` walks it, the same every time; it may leave out what its own rules bar among keys of at least `least`,
    because smaller ones cannot be chosen any more.
    """
    if count <= 0:
        return NOTHING
    prefix, left = 0, count
    for shift in _DIGITS:
        counts = np.zeros(2048, np.int64)
        for keys_X in stream(prefix << (shift + 11)):
            count_digits(keys_X, shift, prefix, counts)
        reach = np.cumsum(counts[::-1])[::-1]  # keys with this digit or a higher one
        if reach[0] < left:
            return EVERYTHING
        digit = int(np.flatnonzero(reach >= left)[-1])
        left -= int(reach[digit] - counts[digit])
        prefix = prefix << 11 | digit
        if counts[digit] == left:
            return Cut((prefix << shift) - 1, 0)
    return Cut(prefix, left)


@numba.njit(cache=True)
def count_digits(keys_X, shift, prefix, counts):
    """counts[digit] += 1 for every key, int32 and not negative, whose bits above its digit of 11 bits equal `prefix`."""
    for key in keys_X:
        if key >= 0 and (np.int64(key) >> (shift + 11)) == prefix:
            counts[(np.int64(key) >> shift) & 2047] += 1


@numba.njit(cache=True)
def mark_largest(keys_X, bound, ties, marks_X):
    """marks_X[x] = keys_X[x] > bound, and the first `ties` of the keys equal to it; returns how many ties are left."""
    for x in range(len(keys_X)):
        marks_X[x] = keys_X[x] > bound
        if keys_X[x] == bound and ties > 0:
            marks_X[x] = True
            ties -= 1
    return ties


@numba.njit(parallel=True, cache=True)
def bar_cells(scores_RD, starts_R, columns_X, stays_X, most, least_key):
    """Make scores -1 where a slot stays, where they are negative or NaN, and where a row with what stays would pass `most`
    values if its better cells were chosen. Rows with room for all their scores of at least `least_key` are left as they are.
    """
    least = np.int32(least_key).view(np.float32)
    width = scores_RD.shape[1]
    for r in numba.prange(len(scores_RD)):
        scores, stays = scores_RD[r], 0
        for x in range(starts_R[r], starts_R[r + 1]):
            if stays_X[x]:
                scores[columns_X[x]] = np.float32(-1)
                stays += 1
        able = 0
        for d in range(width):
            # Adding zero makes -0.0 positive: its sign bit would make its key negative.
            scores[d] = scores[d] + np.float32(0) if scores[d] >= np.float32(0) else np.float32(-1)
            able += scores[d] >= least
        room = most - stays
        if able > room:
            _bar_row(scores, room)


@numba.njit(cache=True)
def _bar_row(scores, room):
    """Set all scores of a row but the `room` largest to -1, where more than `room` are not negative."""
    if room <= 0:
        scores[:] = np.float32(-1)
        return
    bound = np.partition(scores, len(scores) - room)[len(scores) - room]
    ties = room
    for score in scores:
        ties -= score > bound
    for d in range(len(scores)):
        if scores[d] < bound or (scores[d] == bound and ties <= 0):
            scores[d] = np.float32(-1)
        elif scores[d] == bound:
            ties -= 1


@numba.njit(parallel=True, cache=True)
def largest_columns(keys_RD, starts_R, counts_R, out_X):
    """Ascending columns of the counts_R[r] largest keys of every row, from out_X[starts_R[r]] on; -inf is never wanted.

    Keys that are not finite must be -inf, and a row must have at least as many others as are asked for.
    """
    for r in numba.prange(len(counts_R)):
        if counts_R[r] == 0:
            continue
        keys = keys_RD[r]
        bound = np.partition(keys, len(keys) - counts_R[r])[len(keys) - counts_R[r]]
        ties, at = counts_R[r], starts_R[r]
        for key in keys:
            ties -= key > bound
        for d in range(len(keys)):
            if keys[d] > bound or (keys[d] == bound and ties > 0):
                ties -= keys[d] == bound
                out_X[at] = d
                at += 1


@numba.njit(parallel=True, cache=True)
def exchange_marks(scores_RD, starts_R, columns_X, magnitudes_X, share, stays_X, grown_RD):
    """Every row's `share` of smallest magnitudes (rounded down) does not stay, and as many of its other cells with the
    largest scores above 0 are grown; fewer of both where fewer cells have one. Overwrites the scores."""
    width = scores_RD.shape[1]
    for r in numba.prange(len(scores_RD)):
        scores, first, last = scores_RD[r], starts_R[r], starts_R[r + 1]
        for x in range(first, last):
            scores[columns_X[x]] = np.float32(-1)
            stays_X[x] = True
        able = 0
        for d in range(width):
            grown_RD[r, d] = False
            if not scores[d] > np.float32(0):
                scores[d] = np.float32(-1)
            able += scores[d] > np.float32(0)
        count = np.int64(min(share * (last - first), able))
        if count > 0:
            _mark_smallest(magnitudes_X[first:last], count, stays_X[first:last])
            _bar_row(scores, count)
            for d in range(width):
                grown_RD[r, d] = scores[d] > np.float32(0)


@numba.njit(parallel=True, cache=True)
def group_marks(scores_RD, starts_R, columns_X, magnitudes_X, group, hold, leave, stays_X, grown_RD):
    """Every `group` consecutive columns of a row give up all but their hold - leave largest magnitudes and fill up to `hold`
    with the cells of the largest scores, pruned ones among them. A row without a score above 0 leaves nothing that
    it may keep. Scores are not negative and are overwritten."""
    width = scores_RD.shape[1]
    for r in numba.prange(len(scores_RD)):
        scores, at, last = scores_RD[r], starts_R[r], starts_R[r + 1]
        keep = hold - leave if scores.max() > np.float32(0) else hold
        grown_RD[r] = False
        for begin in range(0, width, group):
            first = at
            while at < last and columns_X[at] < begin + group:
                stays_X[at] = True
                at += 1
            if at - first > keep:
                _mark_smallest(magnitudes_X[first:at], at - first - keep, stays_X[first:at])
            kept = 0
            for x in range(first, at):
                if stays_X[x]:
                    scores[columns_X[x]] = np.float32(-1)
                    kept += 1
            if kept < hold:
                cells = scores[begin : begin + group]
                _bar_row(cells, hold - kept)
                for d in range(group):
                    grown_RD[r, begin + d] = cells[d] >= np.float32(0)


@numba.njit(cache=True)
def _mark_smallest(magnitudes, count, stays):
    """The `count` smallest do not stay, the earlier first among equals."""
    bound = np.partition(magnitudes, count - 1)[count - 1]
    ties = count
    for magnitude in magnitudes:
        ties -= magnitude < bound
    for x in range(len(magnitudes)):
        if magnitudes[x] < bound or (magnitudes[x] == bound and ties > 0):
            ties -= magnitudes[x] == bound
            stays[x] = False
