"""Negative items on the CPU: draws keyed by (seed, stage, step, index), rejected ones redrawn with the next attempt.

Letters: B positives, N negatives per positive, I items.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import Csr
from gcnrec.ops.draws.alias import AliasTable, alias_table, draw
from gcnrec.random import Stage, uniform

ATTEMPTS = 32
"""Draws before a negative that the user has seen is accepted: a user may have seen almost everything."""


def popularity_table(degrees_I: NDArray[np.integer], power: float) -> AliasTable:
    """Draws items in proportion to degree**power."""
    return alias_table(np.power(np.maximum(degrees_I, 0).astype(np.float64), power))


def negatives(
    users_B: NDArray[np.int32], num: int, table: AliasTable, seen: Csr | None, seed: int, step: int
) -> NDArray[np.int32]:
    """int32 (B, N) items drawn by `table`; with `seen`, items of the user's row are redrawn.

    Attempt a of entry (b, n) uses the Philox counter (b * N + n, a, ...): independent of threads and batches.
    """
    out = np.empty((len(users_B), num), np.int32)
    none = np.zeros(1, np.int64)
    indptr, indices = (seen.indptr, seen.indices) if seen is not None else (none, none.astype(np.int32))
    # Explorations count their steps far beyond 2**32: what does not fit the counter's word goes above the stage in the next.
    low, stage = np.uint32(step & 0xFFFFFFFF), int(Stage.NEGATIVES) | (step >> 32 & 0xFFFFFF) << 8
    columns = table.thresholds_I, table.others_I
    _negatives(users_B, *columns, indptr, indices, seen is not None, np.uint64(seed), low, stage, out)
    return out


def own_negatives(users_B: NDArray[np.int32], negatives: Csr, seed: int, step: int) -> NDArray[np.int32]:
    """int32 (B): an item of each user's row of `negatives`, all of its items alike; -1 where the row is empty.

    Entry b uses index b of the stream (seed, OWN_NEGATIVES, step): independent of threads and batches.
    """
    first_B, last_B = negatives.indptr[users_B], negatives.indptr[users_B.astype(np.int64) + 1]
    # As in `negatives`: what does not fit the counter's word goes above the stage.
    low, stage = step & 0xFFFFFFFF, int(Stage.OWN_NEGATIVES) | (step >> 32 & 0xFFFFFF) << 8
    drawn_B = first_B + np.floor(uniform(seed, stage, low, len(users_B)) * (last_B - first_B)).astype(np.int64)
    items_B = np.full(len(users_B), -1, np.int32)
    has_B = last_B > first_B
    items_B[has_B] = negatives.indices[drawn_B[has_B]]
    return items_B


@numba.njit(cache=True)
def _has(indices, first, last, item):  # type: ignore[no-untyped-def]
    at = first + np.searchsorted(indices[first:last], item)
    return at < last and indices[at] == item


@numba.njit(parallel=True, cache=True, nogil=True)
def _negatives(  # type: ignore[no-untyped-def]
    users_B, thresholds_I, others_I, indptr, indices, exclude, seed, step, stage, out
):
    low = np.uint64(0xFFFFFFFF)
    k0, k1 = np.uint32(seed & low), np.uint32(seed >> np.uint64(32))
    count, last = len(thresholds_I), np.uint32(stage)
    for b in numba.prange(len(users_B)):
        user = users_B[b]
        for n in range(out.shape[1]):
            index, item = np.uint32(b * out.shape[1] + n), np.int64(0)
            for attempt in range(ATTEMPTS):
                item = draw(thresholds_I, others_I, 0, count, index, np.uint32(attempt), step, last, k0, k1)
                if not exclude or not _has(indices, indptr[user], indptr[user + 1], item):
                    break
            out[b, n] = item
