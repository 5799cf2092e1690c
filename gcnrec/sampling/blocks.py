"""Sampled neighbourhoods of a batch: one bipartite block a hop, nodes relabelled to compact ascending positions.

Letters: V given nodes, R rows to read, T targets and S sources of a hop, X drawn edges, U users, N nodes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.compact import NodeSet
from gcnrec.ops.draws.directions import Direction, uniform
from gcnrec.ops.draws.neighbours import check_fanout
from gcnrec.random import DrawKey


@dataclass(frozen=True, slots=True)
class Block:
    """One hop: row t of `csr` (T rows, S columns) holds the drawn neighbours of target t as positions among S sources.

    Positions ascend; a neighbour that is drawn again occurs again. `targets_T` and `sources_S`, int64, ascending, are positions
    in the batch's `rows_R`. `weights_X` float32: what each neighbour counts, None where all count alike. Where neighbours are
    drawn by weight it undoes that: sums times degree / drawn then equal sums over all neighbours on average.

    Nodes at dates (`gcnrec.sampling.dated_blocks`) may share a row, whose position then repeats. `degrees`, int64 (T) and (X):
    the edges of targets, and of drawn neighbours, before their dates. `own_T`, int64: places of targets among sources.
    """

    csr: Csr
    targets_T: NDArray[np.int64]
    sources_S: NDArray[np.int64]
    weights_X: NDArray[np.float32] | None = None
    degrees: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    own_T: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """`rows_R`: every node number that must be read, int64, ascending, unique. `blocks`: nearest hop first.

    The targets of the first block are the given nodes, the targets of every other block the sources of the previous one.
    """

    rows_R: NDArray[np.int64]
    blocks: tuple[Block, ...]


def without(sampled: Sampled, users_B: NDArray[np.int32], items_B: NDArray[np.int32], graph: BipartiteGraph) -> Sampled:
    """The same less the drawn edges between `users_B` and `items_B`, pair by pair, in both directions.

    Means are then over the neighbours that are left; `rows_R` stays, with rows that perhaps nothing reads.
    """
    size = np.int64(graph.num_items)
    left_out_B = np.unique(users_B.astype(np.int64) * size + items_B)
    blocks = []
    for block in sampled.blocks:
        targets_X = sampled.rows_R[block.targets_T][block.csr.row_numbers()]
        sources_X = sampled.rows_R[block.sources_S][block.csr.indices]
        users_X, items_X = np.minimum(targets_X, sources_X), np.maximum(targets_X, sources_X) - graph.num_users
        kept_X = ~np.isin(users_X * size + items_X, left_out_B)
        degrees_T = np.bincount(block.csr.row_numbers()[kept_X], minlength=block.csr.rows)
        csr = Csr(np.concatenate([[0], np.cumsum(degrees_T)]), block.csr.indices[kept_X], block.csr.columns)
        weights_X = None if block.weights_X is None else block.weights_X[kept_X]
        blocks.append(Block(csr, block.targets_T, block.sources_S, weights_X))
    return Sampled(sampled.rows_R, tuple(blocks))


class BlockSampler(Protocol):
    """Draws the neighbourhoods of a batch's nodes."""

    def sample(self, nodes_V: NDArray[np.int64], num_users: int, step: int) -> Sampled: ...


class NeighbourSampler:
    """Draws `fanouts[h]` neighbours of every target of hop h; hop 0 is at the given nodes.

    The order of `fanouts` is that of PyG's NeighborLoader (DGL's is the reverse). Sources of a hop are its drawn neighbours
    alone; `with_targets` adds its targets, for models that read a node and its neighbours in every layer (DGL's blocks).
    `directions`, users' first, say how neighbours are drawn, default uniformly without replacement.
    Draws depend on (seed, step, hop, node) only. Scratch is reused, so threads wait for each other.
    Raises UsageError unless every fanout lies in 1 .. 64.
    """

    def __init__(
        self,
        graph: BipartiteGraph,
        fanouts: tuple[int, ...],
        seed: int,
        with_targets: bool = False,
        directions: tuple[Direction, Direction] | None = None,
    ) -> None:
        for fanout in fanouts:
            check_fanout(fanout)
        self.graph, self.fanouts, self.seed, self.with_targets = graph, fanouts, seed, with_targets
        self.directions = directions or uniform(graph)
        self._lock = threading.Lock()
        self._sources, self._rows = NodeSet.empty(graph.num_nodes), NodeSet.empty(graph.num_nodes)

    def sample(self, nodes_V: NDArray[np.int64], num_users: int, step: int) -> Sampled:
        """The blocks of `nodes_V`: ascending, unique, `num_users` users and then items (item + U)."""
        with self._lock:  # explorations draw batches of their own while a thread draws ahead for training
            return self._sample(nodes_V, num_users, step)

    def _sample(self, nodes_V: NDArray[np.int64], num_users: int, step: int) -> Sampled:
        found: list[tuple[Csr, NDArray[np.float32] | None]] = []
        levels = [nodes_V]  # the targets of hop 0, then the sources of each hop
        users = num_users
        if self.with_targets:
            self._sources.mark(nodes_V)
        for hop, fanout in enumerate(self.fanouts):
            indptr_T1, items_X, users_X, weights_X = self._draw(levels[-1], users, fanout, step, hop)
            levels.append(self._sources.members())
            found.append((self._relabelled(indptr_T1, items_X, users_X, len(levels[-1])), weights_X))
            users = int(np.searchsorted(levels[-1], self.graph.num_users))
            if not self.with_targets:  # with them, the next hop has all sources of this one
                self._sources.clear()
        rows_R, places = self._placed(levels)
        self._sources.clear()
        return Sampled(rows_R, tuple(Block(csr, places[h], places[h + 1], weights_X) for h, (csr, weights_X) in enumerate(found)))

    def _draw(
        self, targets_T: NDArray[np.int64], num_users: int, fanout: int, step: int, hop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32] | None]:
        """Users draw items, items draw users, and all become sources: (indptr, items drawn, users drawn, what they count)."""
        of_users, of_items = self.directions
        first_item = self.graph.num_users
        users_T, items_T = targets_T[:num_users].astype(np.int32), (targets_T[num_users:] - first_item).astype(np.int32)
        indptr, items_X, items_count_X = of_users.draw(users_T, fanout, DrawKey(self.seed, step, hop, 0))
        later, users_X, users_count_X = of_items.draw(items_T, fanout, DrawKey(self.seed, step, hop, first_item))
        self._sources.mark(items_X, first_item)
        self._sources.mark(users_X)
        weights_X = None
        if items_count_X is not None and users_count_X is not None:
            weights_X = np.concatenate([items_count_X, users_count_X])
        return np.concatenate([indptr, later[1:] + len(items_X)]), items_X, users_X, weights_X

    def _relabelled(
        self, indptr_T1: NDArray[np.int64], items_X: NDArray[np.int32], users_X: NDArray[np.int32], num_sources: int
    ) -> Csr:
        positions_X = np.empty(len(items_X) + len(users_X), np.int32)
        self._sources.ranks(items_X, positions_X[: len(items_X)], self.graph.num_users)
        self._sources.ranks(users_X, positions_X[len(items_X) :])
        return Csr(indptr_T1, positions_X, num_sources)

    def _placed(self, levels: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """All rows to read, and where the nodes of each level stand among them."""
        if self.with_targets:
            rows_R = levels[-1]
            places = [self._places(self._sources, nodes) for nodes in levels[:-1]]
            return rows_R, [*places, np.arange(len(rows_R))]
        for nodes in levels:
            self._rows.mark(nodes)
        rows_R = self._rows.members()
        places = [self._places(self._rows, nodes) for nodes in levels]
        self._rows.clear()
        return rows_R, places

    def _places(self, rows: NodeSet, nodes_X: NDArray[np.int64]) -> NDArray[np.int64]:
        places_X = np.empty(len(nodes_X), np.int64)
        rows.ranks(nodes_X, places_X)
        return places_X
