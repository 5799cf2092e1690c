"""Weights of a graph's edges in both directions, and means of neighbours by weight.

Every sum runs in the order of its row's edges, on one thread: results do not depend on the number of threads.
Letters: E edges, C columns, D width, V rows of a range.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.arrays import frozen


class EdgeWeights(NamedTuple):
    """float32, in the order of `user_items.indices` and in that of `item_users.indices`."""

    user_items_E: NDArray[np.float32]
    item_users_E: NDArray[np.float32]


def edge_weights(graph: BipartiteGraph, weights_E: NDArray[np.float32]) -> EdgeWeights:
    """Both directions of `weights_E`, which is in the order of `user_items.indices`; 4 bytes an edge are allocated.

    Raises DataError unless there is one weight for each edge.
    """
    if weights_E.shape != (graph.num_edges,):
        raise DataError(f"weights must be {graph.num_edges:,}, one for each edge, got {weights_E.shape}; ingest again")
    item_users_E = np.empty(graph.num_edges, np.float32)
    _transpose(frozen(graph.user_items.indices), frozen(weights_E), graph.item_users.indptr[:-1].copy(), item_users_E)
    return EdgeWeights(weights_E, item_users_E)


def union_weights(graph: BipartiteGraph, weights_E: NDArray[np.float32]) -> EdgeWeights:
    """Weights of `graph.union`: of a pair, the sum over its behaviours; an edge of a behaviour without weights counts 1.

    `weights_E` are the target's. Where there are no other behaviours, these are the weights as they are.
    """
    union = graph.union
    if not graph.others:
        return edge_weights(graph, weights_E)
    total_E = np.zeros(union.num_edges, np.float32)
    targets = [(graph.user_items, weights_E)]
    for csr, own_E in [*targets, *((other.graph.user_items, other.weights_E) for other in graph.others)]:
        total_E[union.user_items.positions(csr.row_numbers(), csr.indices)] += np.float32(1) if own_E is None else own_E
    return edge_weights(union, total_E)


def mean_rows(csr: Csr, weights_E: NDArray[np.float32], source_CD: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """out[v] = the mean of the rows of `source_CD` that row first + v of `csr` names, by weight; float32 (last - first, D).

    Zero for rows without edges. `source_CD` float32 on the CPU, its rows in one piece.
    """
    out_VD = torch.empty(last - first, source_CD.shape[1])
    _mean_rows(frozen(csr.indptr), frozen(csr.indices), frozen(weights_E), source_CD.numpy(), first, out_VD.numpy())
    return out_VD


@numba.njit(cache=True)
def _transpose(indices, weights_E, place_C, out_E):  # type: ignore[no-untyped-def]
    """Edges by column, and of a column by row: the order in which they are met."""
    for edge in range(len(indices)):
        column = indices[edge]
        out_E[place_C[column]] = weights_E[edge]
        place_C[column] += 1


@numba.njit(parallel=True, cache=True)
def _mean_rows(indptr, indices, weights_E, source_CD, first, out_VD):  # type: ignore[no-untyped-def]
    for v in numba.prange(len(out_VD)):
        out, total = out_VD[v], 0.0
        out[:] = np.float32(0)
        for edge in range(indptr[first + v], indptr[first + v + 1]):
            weight, source = weights_E[edge], source_CD[indices[edge]]
            total += weight
            for d in range(len(out)):
                out[d] += weight * source[d]
        if total > 0:
            out *= np.float32(1 / total)
