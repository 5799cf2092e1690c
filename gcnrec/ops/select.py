"""Choosing the largest: exactly n of a stream too long to keep, or so many of every row. Ties go to the lower (row, column).

Letters: R rows, D width, X keys.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# (numba's decorators carry no types)

from __future__ import annotations

import numba
import numpy as np


@numba.njit(parallel=True, cache=True)
def largest_columns(keys_RD, starts_R, counts_R, out_X):
    """Ascending columns of the counts_R[r] largest keys of every row, from out_X[starts_R[r]] on; -inf is never wanted.

    Keys that are not finite must be -inf, and a row must have at least as many others as are asked for.
    """
    for r in numba.prange(len(counts_R)):
        if counts_R[r] == 0:
            continue
        keys = keys_RD[r]
        bound = np.sort(keys)[len(keys) - counts_R[r]]
        above = 0
        for d in range(len(keys)):
            above += keys[d] > bound
        ties, at = counts_R[r] - above, starts_R[r]
        for d in range(len(keys)):
            if keys[d] > bound or (keys[d] == bound and ties > 0):
                ties -= keys[d] == bound
                out_X[at] = d
                at += 1


@numba.njit(cache=True)
def count_digits(keys_X, shift, prefix, counts):
    """counts[digit] += 1 for every uint64 key whose bits above the digit equal `prefix`; digits have log2(len(counts)) bits."""
    mask = np.uint64(len(counts) - 1)
    above = np.uint64(shift) + np.uint64(np.log2(len(counts)))
    for key in keys_X:
        if above >= np.uint64(64) or key >> above == prefix:
            counts[(key >> np.uint64(shift)) & mask] += 1


@numba.njit(parallel=True, cache=True)
def grow_keys(scores_RD, starts_R, columns_X, stays_X, most, first_cell, cell_bits, keys_RD):
    """Keys to grow by: score, then earlier cell. 0 where a slot stays, where the score is negative, and where the row, with
    what stays, would pass `most` values if its better cells were grown."""
    width = scores_RD.shape[1]
    for r in numba.prange(len(scores_RD)):
        scores, kept = scores_RD[r], 0
        for x in range(starts_R[r], starts_R[r + 1]):
            if stays_X[x]:
                scores[columns_X[x]] = np.float32(-1)
                kept += 1
        room = most - kept
        if room < width - kept:
            bound = np.sort(scores)[width - room] if room > 0 else np.float32(np.inf)
            for d in range(width):
                if scores[d] >= np.float32(0) and scores[d] > bound:
                    room -= 1
            for d in range(width):
                if scores[d] < bound or (scores[d] == bound and room <= 0):
                    scores[d] = np.float32(-1)
                elif scores[d] == bound:
                    room -= 1
        for d in range(width):
            keys_RD[r, d] = np.uint64(0)
            if scores[d] >= np.float32(0):
                cell = np.uint64(first_cell + r * width + d)
                bits = np.uint64(np.float32(scores[d] + np.float32(0)).view(np.uint32))
                keys_RD[r, d] = (bits << np.uint64(cell_bits)) | ((np.uint64(1) << np.uint64(cell_bits)) - np.uint64(1) - cell)
