"""Draws of neighbours in a direction of a graph: uniform, or in proportion to the weights of edges.

Letters: T targets, X drawn edges, E edges, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.draws.alias import AliasTable, alias_rows, weighted_edges
from gcnrec.ops.draws.neighbours import sample_neighbours
from gcnrec.ops.weighted import EdgeWeights
from gcnrec.random import DrawKey


class Direction(Protocol):
    """Draws neighbours of one side's nodes from the other side."""

    def draw(
        self, rows_T: NDArray[np.int32], fanout: int, key: DrawKey
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32] | None]:
        """(indptr int64 (T+1), columns (X), what each counts or None) of rows of one side."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Neighbours without replacement, all alike; all of them where they are `fanout` at most."""

    csr: Csr

    def draw(self, rows_T: NDArray[np.int32], fanout: int, key: DrawKey) -> tuple[NDArray[np.int64], NDArray[np.int32], None]:
        return *sample_neighbours(self.csr, rows_T, fanout, key), None


@dataclass(frozen=True)
class Weighted:
    """`fanout` neighbours with replacement, in proportion to the weights of their edges: p = w / sum of the row's w.

    `counts_E` = 1 / (p * degree). Tables and counts take 12 bytes an edge.
    """

    csr: Csr
    tables: AliasTable
    counts_E: NDArray[np.float32]

    @classmethod
    def of(cls, csr: Csr, weights_E: NDArray[np.float32]) -> Weighted:
        """Raises DataError unless all weights are finite and above 0: what is never drawn cannot be counted."""
        if not (weights_E > 0).all():
            raise DataError(
                "neighbours are drawn by weights, all of which must be above 0, and "
                f"{int((~(weights_E > 0)).sum()):,} of {len(weights_E):,} are not; ingest without these rows (--where), or "
                "set sampler.neighbours = 'uniform'"
            )
        tables = alias_rows(csr, weights_E)
        means_R = np.bincount(csr.row_numbers(), weights_E, csr.rows) / np.maximum(csr.degrees, 1)
        return cls(csr, tables, (np.repeat(means_R, csr.degrees) / weights_E).astype(np.float32))

    def draw(
        self, rows_T: NDArray[np.int32], fanout: int, key: DrawKey
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        indptr_T1, edges_X = weighted_edges(self.csr, self.tables, rows_T, fanout, key)
        return indptr_T1, self.csr.indices[edges_X], self.counts_E[edges_X]


@dataclass(frozen=True)
class WeightedSum:
    """Neighbours that stand for the weighted sum over all: where there are more than `fanout`, that many with replacement, in
    proportion to the weights of their edges, and all alike; else each once, counting its weight over the row's mean weight.

    Sums of the drawn, times the row's sum of weights / drawn, equal the weighted sum over all neighbours on average, and exactly
    where all are drawn. Tables and counts take 12 bytes an edge.
    """

    csr: Csr
    tables: AliasTable
    counts_E: NDArray[np.float32]

    @classmethod
    def of(cls, csr: Csr, weights_E: NDArray[np.float32]) -> WeightedSum:
        """Raises DataError unless all weights are finite, and one of every row is above 0."""
        tables = alias_rows(csr, weights_E)
        means_R = np.bincount(csr.row_numbers(), weights_E, csr.rows) / np.maximum(csr.degrees, 1)
        return cls(csr, tables, (weights_E / np.repeat(means_R, csr.degrees)).astype(np.float32))

    def draw(
        self, rows_T: NDArray[np.int32], fanout: int, key: DrawKey
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        degrees_T = self.csr.degrees_of(rows_T)
        drawn_T = np.minimum(degrees_T, fanout)
        indptr_T1 = np.concatenate([[0], np.cumsum(drawn_T)])
        whole_X = np.repeat(degrees_T <= fanout, drawn_T)
        edges_X = np.repeat(self.csr.indptr[rows_T] - indptr_T1[:-1], drawn_T) + np.arange(indptr_T1[-1])
        edges_X[~whole_X] = weighted_edges(self.csr, self.tables, rows_T[degrees_T > fanout], fanout, key)[1]
        return indptr_T1, self.csr.indices[edges_X], np.where(whole_X, self.counts_E[edges_X], np.float32(1))


def uniform(graph: BipartiteGraph) -> tuple[Uniform, Uniform]:
    """Both directions, users first."""
    return Uniform(graph.user_items), Uniform(graph.item_users)


def weighted_sums(graph: BipartiteGraph, weights: EdgeWeights) -> tuple[WeightedSum, WeightedSum]:
    """Both directions, users first."""
    return WeightedSum.of(graph.user_items, weights.user_items_E), WeightedSum.of(graph.item_users, weights.item_users_E)


def weighted(graph: BipartiteGraph, weights: EdgeWeights) -> tuple[Weighted, Weighted]:
    """Both directions, users first."""
    return Weighted.of(graph.user_items, weights.user_items_E), Weighted.of(graph.item_users, weights.item_users_E)
