"""Important neighbours by random walks (PinSage: Ying et al. 2018, "Graph convolutional neural networks for web-scale
recommender systems", section 3.2): the nodes of its own side that short walks from a node visit most often.

A hop goes from a node to one of its neighbours on the other side, and from there to a neighbour of that node, both
uniformly. Before every hop but the first, the walk starts anew from its node with probability `restart`. Hop h of walk w
makes the Philox4x32 calls m = 2 (w * length + h) and m + 1 with the key and counter of gcnrec.ops.draws.neighbours,
(node, m, step mod 2**32, ...), of kind `WALK` and hop 0. Of call m, words (a, b) choose the neighbour and (c, d) the way
back: position floor((a * 2**32 + b) * degree / 2**64). Of call m + 1, word a restarts when it is below restart * 2**32.
Letters: T nodes, X kept neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.graph import Csr
from gcnrec.ops.arrays import frozen
from gcnrec.ops.draws.neighbours import below
from gcnrec.random import WALK, DrawKey, philox4x32


@dataclass(frozen=True, slots=True)
class Walks:
    """`num_walks` walks of `length` hops from every node; before each hop but the first, one restarts by chance `restart`."""

    num_walks: int
    length: int
    restart: float


def most_visited(
    there: Csr, back: Csr, rows_T: NDArray[np.int32], walks: Walks, top: int, key: DrawKey
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The `top` rows of `there` most visited by walks from each of `rows_T`, itself left out; of equal counts, the smaller row.

    `there` goes to the other side and `back`, its transpose, returns; where it has no edge, the walk is back at its start.
    Returns (indptr int64 (T+1), rows int32 (X) ascending within each of `rows_T`, visits int32 (X)). Raises UsageError unless
    walks, length and top are at least 1 and 0 <= restart < 1.
    """
    num_walks, length, restart = walks.num_walks, walks.length, walks.restart
    if min(num_walks, length, top) < 1 or not 0 <= restart < 1:
        raise UsageError(
            f"random walks need num_walks, length and top of at least 1 and 0 <= restart < 1, got {num_walks}, {length}, {top} "
            f"and {restart}; change them"
        )
    room = min(top, num_walks * length)
    rows, counts = np.empty((len(rows_T), room), np.int32), np.zeros((len(rows_T), room), np.int32)
    numbers = key.first_node, num_walks, length, int(restart * 2**32), np.uint64(key.seed), *key.words(WALK)
    graph = frozen(there.indptr), frozen(there.indices), frozen(back.indptr), frozen(back.indices)
    _walk(*graph, frozen(rows_T), *numbers, rows, counts)
    kept = counts > 0
    return np.concatenate([[0], np.cumsum(kept.sum(1))]), rows[kept], counts[kept]


@numba.njit(parallel=True, cache=True)
def _walk(  # type: ignore[no-untyped-def]
    there_indptr, there, back_indptr, back, rows_T, first_node, num_walks, length, restart, seed, low, last, rows, counts
):
    """`rows` and `counts` (T, room): what each node keeps, count 0 where there is no more."""
    k0, k1 = np.uint32(seed & np.uint64(0xFFFFFFFF)), np.uint32(seed >> np.uint64(32))
    for t in numba.prange(len(rows_T)):
        start, node = rows_T[t], np.uint32(first_node + rows_T[t])
        if there_indptr[start] == there_indptr[start + 1]:
            continue
        visits = np.empty(num_walks * length, np.int32)
        for walk in range(num_walks):
            row = start
            for hop in range(walk * length, (walk + 1) * length):
                if hop > walk * length and philox4x32(node, np.uint32(2 * hop + 1), low, last, k0, k1)[0] < restart:
                    row = start
                a, b, c, d = philox4x32(node, np.uint32(2 * hop), low, last, k0, k1)
                middle = _neighbour(there_indptr, there, row, a, b)
                alone = back_indptr[middle] == back_indptr[middle + 1]  # a new node may reach items without other users
                row = start if alone else _neighbour(back_indptr, back, middle, c, d)
                visits[hop] = row
        visits.sort()
        _keep_most(visits, start, rows[t], counts[t])


@numba.njit(inline="always")
def _neighbour(indptr, indices, row, high, low):  # type: ignore[no-untyped-def]
    return indices[indptr[row] + below(high, low, indptr[row + 1] - indptr[row])]


@numba.njit(cache=True)
def _keep_most(visits, start, rows, counts):  # type: ignore[no-untyped-def]
    """The most frequent of the sorted `visits` except `start`, ascending; of equal counts the smaller rows."""
    keys = np.empty(len(visits), np.int64)  # smaller is better: fewer missing visits, then the smaller row
    found, first = 0, 0
    for at in range(1, len(visits) + 1):
        if at == len(visits) or visits[at] != visits[first]:
            if visits[first] != start:
                keys[found] = (len(visits) - (at - first)) << 32 | visits[first]
                found += 1
            first = at
    best = np.sort(keys[:found])[: len(rows)]
    for at, place in enumerate(np.argsort(best & 0xFFFFFFFF)):
        rows[at] = best[place] & 0xFFFFFFFF
        counts[at] = len(visits) - (best[place] >> 32)
