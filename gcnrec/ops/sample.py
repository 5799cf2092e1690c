"""Negative items on the CPU: draws keyed by (seed, stage, step, index), rejected ones redrawn with the next attempt.

Letters: B positives, N negatives per positive, I items.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import Csr
from gcnrec.random import Stage, philox4x32

ATTEMPTS = 32
"""Draws before a negative that the user has seen is accepted: a user may have seen almost everything."""


def cumulative(degrees_I: NDArray[np.integer], power: float) -> NDArray[np.uint64]:
    """Upper ends of the items' shares of 2**32, proportional to degree**power: item i owns [end[i-1], end[i])."""
    shares = np.cumsum(np.power(np.maximum(degrees_I, 0).astype(np.float64), power))
    ends = np.floor(shares * (2.0**32 / shares[-1])).astype(np.uint64)
    ends[-1] = np.uint64(2**32)
    return ends


def negatives(
    users_B: NDArray[np.int32], num: int, ends_I: NDArray[np.uint64], seen: Csr | None, seed: int, step: int
) -> NDArray[np.int32]:
    """int32 (B, N) items drawn by the shares `ends_I`; with `seen`, items of the user's row are redrawn.

    Attempt a of entry (b, n) uses the Philox counter (b * N + n, a): independent of threads and batches.
    """
    out = np.empty((len(users_B), num), np.int32)
    none = np.zeros(1, np.int64)
    indptr, indices = (seen.indptr, seen.indices) if seen is not None else (none, none.astype(np.int32))
    # Explorations count their steps far beyond 2**32: what does not fit the counter's word goes above the stage in the next.
    low, stage = np.uint32(step & 0xFFFFFFFF), int(Stage.NEGATIVES) | (step >> 32) << 8
    _negatives(users_B, ends_I, indptr, indices, seen is not None, np.uint64(seed), low, stage, out)
    return out


@numba.njit(cache=True)
def _has(indices, first, last, item):  # type: ignore[no-untyped-def]
    at = first + np.searchsorted(indices[first:last], item)
    return at < last and indices[at] == item


@numba.njit(parallel=True, cache=True)
def _negatives(users_B, ends_I, indptr, indices, exclude, seed, step, stage, out):  # type: ignore[no-untyped-def]
    low = np.uint64(0xFFFFFFFF)
    k0, k1 = np.uint32(seed & low), np.uint32(seed >> np.uint64(32))
    for b in numba.prange(len(users_B)):
        user = users_B[b]
        for n in range(out.shape[1]):
            item = np.int64(0)
            for attempt in range(ATTEMPTS):
                index = np.uint32(b * out.shape[1] + n)
                draw = philox4x32(index, np.uint32(attempt), step, np.uint32(stage), k0, k1)[0]
                item = np.searchsorted(ends_I, np.uint64(draw), side="right")
                if not exclude or not _has(indices, indptr[user], indptr[user + 1], item):
                    break
            out[b, n] = item
