"""Counts of users that two items share, an item at a time: no items x items array unless the caller brings one.

Letters: U users, I items, K neighbours kept.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph


def gram(graph: BipartiteGraph, out_II: NDArray[np.float64]) -> None:
    """out[i, j] = number of users of both i and j; `out_II` float64 (I, I), overwritten."""
    a, b = graph.item_users, graph.user_items
    _gram(a.indptr, a.indices, b.indptr, b.indices, out_II)


def nearest_items(
    graph: BipartiteGraph, neighbours: int, shrink: float, towards: BipartiteGraph | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The `neighbours` items of largest shared / (sqrt(degree i * degree j) + shrink), for every item.

    With `towards`, a graph over the same nodes, the other item's users and degree are taken from there.

    Returns item numbers int32 (I, K), ascending, -1 behind the last of a short list, and similarities float32 (I, K).
    An item is not its own neighbour; ties go to the smaller number. Scratch: two vectors of I per thread.
    """
    towards = towards or graph
    a, b = graph.item_users, towards.user_items
    degrees = a.degrees, towards.item_users.degrees
    items_IK = np.full((a.rows, neighbours), -1, np.int32)
    similar_IK = np.zeros((a.rows, neighbours), np.float32)
    shares = numba.get_num_threads()
    _nearest(a.indptr, a.indices, b.indptr, b.indices, *degrees, neighbours, shrink, items_IK, similar_IK, shares)
    return items_IK, similar_IK


@numba.njit(parallel=True, cache=True, nogil=True)
def _gram(item_ptr, item_users, user_ptr, user_items, out):  # type: ignore[no-untyped-def]
    for item in numba.prange(len(out)):
        out[item] = 0.0
        for edge in range(item_ptr[item], item_ptr[item + 1]):
            user = item_users[edge]
            for other in user_items[user_ptr[user] : user_ptr[user + 1]]:
                out[item, other] += 1.0


@numba.njit(parallel=True, cache=True, nogil=True)
def _nearest(  # type: ignore[no-untyped-def]
    item_ptr, item_users, user_ptr, user_items, degrees, others, neighbours, shrink, items_out, similar_out, shares
):
    items = len(items_out)
    for share in numba.prange(shares):
        shared = np.zeros(items, np.int32)
        touched = np.empty(items, np.int32)
        for item in range(share, items, shares):  # by turns: popular items stand together and cost the most
            count = 0
            for edge in range(item_ptr[item], item_ptr[item + 1]):
                user = item_users[edge]
                for other in user_items[user_ptr[user] : user_ptr[user + 1]]:
                    if shared[other] == 0:
                        touched[count] = other
                        count += 1
                    shared[other] += 1
            near = np.sort(touched[:count])
            _keep_best(item, near, shared, degrees[item], others, neighbours, shrink, items_out[item], similar_out[item])
            shared[touched[:count]] = 0


@numba.njit(cache=True)
def _keep_best(item, touched, shared, degree, others, neighbours, shrink, items_out, similar_out):  # type: ignore[no-untyped-def]
    """The best of `touched` (ascending) by similarity, written in ascending order of number; `others`: degrees of these."""
    similar = np.empty(len(touched), np.float64)
    for at in range(len(touched)):
        other = touched[at]
        norm = np.sqrt(float(degree) * float(others[other]))
        similar[at] = -np.inf if other == item else shared[other] / (norm + shrink)
    best = np.argsort(-similar, kind="mergesort")[: min(neighbours, np.sum(similar > -np.inf))]
    best.sort()
    for place in range(len(best)):
        items_out[place] = touched[best[place]]
        similar_out[place] = similar[best[place]]
