"""Sampled neighbourhoods of a batch: one bipartite block a hop, nodes relabelled to compact ascending positions.

Letters: V given nodes, R rows to read, T targets and S sources of a hop, X drawn edges, U users, N nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.compact import NodeSet
from gcnrec.ops.neighbours import check_fanout, sample_neighbours


@dataclass(frozen=True, slots=True)
class Block:
    """One hop: row t of `csr` (T rows, S columns) holds the drawn neighbours of target t as positions among S sources.

    `targets_T` and `sources_S`, int64, ascending, are positions in the batch's `rows_R`.
    """

    csr: Csr
    targets_T: NDArray[np.int64]
    sources_S: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sampled:
    """`rows_R`: every node number that must be read, int64, ascending, unique. `blocks`: nearest hop first.

    The targets of the first block are the given nodes, those of any other the sources of the one before.
    """

    rows_R: NDArray[np.int64]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class _Hop:
    """A hop before its rows have positions: node numbers, and neighbours as positions among the sources."""

    targets_T: NDArray[np.int64]
    sources_S: NDArray[np.int64]
    csr: Csr


@dataclass(frozen=True)
class NeighbourSampler:
    """Draws `fanouts[h]` neighbours, without replacement, of every target of hop h; hop 0 is at the given nodes.

    The order of `fanouts` is that of PyG's NeighborLoader (DGL's is the reverse). Sources of a hop are its drawn neighbours
    alone; `with_targets` adds its targets, for models that read a node beside its neighbours in every layer (DGL's blocks).
    Draws depend on (seed, step, hop, node) only. Scratch is reused: one thread at a time.
    Raises UsageError unless every fanout lies in 1 .. 64.
    """

    graph: BipartiteGraph
    fanouts: tuple[int, ...]
    seed: int
    with_targets: bool = False
    _hop_set: NodeSet = field(init=False, repr=False, compare=False)
    _row_set: NodeSet = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for fanout in self.fanouts:
            check_fanout(fanout)
        for name in ("_hop_set", "_row_set"):
            object.__setattr__(self, name, NodeSet.empty(self.graph.num_nodes))

    def sample(self, nodes_V: NDArray[np.int64], num_users: int, step: int) -> Sampled:
        """The blocks of `nodes_V`: ascending, unique, `num_users` users and then items (item + U)."""
        hops: list[_Hop] = []
        targets, users = nodes_V, num_users
        self._row_set.mark(nodes_V)
        for number, fanout in enumerate(self.fanouts):
            hops.append(self._hop(targets, users, fanout, step, number))
            targets = hops[-1].sources_S
            users = int(np.searchsorted(targets, self.graph.num_users))
            self._row_set.mark(targets)
        rows_R = self._row_set.members()
        places = [self._places(nodes_V), *(self._places(hop.sources_S) for hop in hops)]
        self._row_set.clear()
        return Sampled(rows_R, tuple(Block(hop.csr, places[h], places[h + 1]) for h, hop in enumerate(hops)))

    def _hop(self, targets_T: NDArray[np.int64], num_users: int, fanout: int, step: int, number: int) -> _Hop:
        """One hop: users draw items, items draw users, and what was drawn is relabelled."""
        graph, first_item = self.graph, self.graph.num_users
        rows_T = targets_T.astype(np.int32)  # copy: rows of the two CSRs are int32
        rows_T[num_users:] -= first_item
        drawn_indptr, drawn = sample_neighbours(graph.user_items, rows_T[:num_users], fanout, self.seed, step, number, 0)
        back_indptr, back = sample_neighbours(graph.item_users, rows_T[num_users:], fanout, self.seed, step, number, first_item)
        chosen = self._hop_set
        chosen.mark(drawn, first_item)
        chosen.mark(back)
        if self.with_targets:
            chosen.mark(targets_T)
        sources_S = chosen.members()
        indices_X = np.empty(len(drawn) + len(back), np.int32)
        chosen.ranks(drawn, indices_X[: len(drawn)], first_item)
        chosen.ranks(back, indices_X[len(drawn) :])
        chosen.clear()
        indptr_T1 = np.concatenate([drawn_indptr, back_indptr[1:] + len(drawn)])
        return _Hop(targets_T, sources_S, Csr(indptr_T1, indices_X, len(sources_S)))

    def _places(self, nodes_X: NDArray[np.int64]) -> NDArray[np.int64]:
        places_X = np.empty(len(nodes_X), np.int64)
        self._row_set.ranks(nodes_X, places_X)
        return places_X
