"""Sampled subgraphs in which every node draws once: what PyG's loaders hand out, in plain arrays.

Blocks (`gcnrec.sampling.blocks`) draw anew at every hop for every target; here a node draws once,
at the hop after it was met.
Letters: S seeds, T targets of a hop, X drawn edges, V nodes of the subgraph of one type.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.ops.compact import NodeSet
from gcnrec.ops.draws.neighbours import check_fanout, sample_neighbours
from gcnrec.random import DrawKey

Numbers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Side:
    """The nodes of one type, and the edges that they drew.

    `numbers_V` int64: seeds in the order given, then the new ones of each hop, ascending; `met` counts them (seeds, hop 0, ...).
    Edge x goes from node `sources_X[x]` of the other type to node `targets_X[x]` of this one, both int64 places in
    `numbers_V` of their types, targets ascending; `drawn` counts edges per hop.
    """

    numbers_V: NDArray[np.int64]
    met: list[int]
    sources_X: NDArray[np.int64]
    targets_X: NDArray[np.int64]
    drawn: list[int]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What the nodes of one type drew in one hop: how many neighbours each, and which."""

    counts_T: NDArray[np.int64]
    numbers_X: Numbers


class Subgraphs:
    """Draws `fanouts[h]` neighbours, without replacement, of every node that hop h - 1 met first; hop 0 is at the seeds.

    Draws depend on (seed, step, hop, node) only. Scratch is reused: no two threads may draw at a time.
    Raises UsageError unless every fanout lies in 1 .. 64.
    """

    def __init__(self, graph: BipartiteGraph, fanouts: tuple[int, ...], seed: int) -> None:
        for fanout in fanouts:
            check_fanout(fanout)
        self.graph, self.fanouts, self.seed = graph, tuple(fanouts), seed
        self._nodes = NodeSet.empty(graph.num_nodes)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[Subgraphs], tuple[BipartiteGraph, tuple[int, ...], int]]:
        """Another process makes its own scratch."""
        return Subgraphs, (self.graph, self.fanouts, self.seed)

    def check_process(self) -> None:
        """Raise UsageError in a forked process: numba's threads do not survive a fork."""
        if self._process != os.getpid():
            raise UsageError('a loader\'s workers must be spawned, these were forked; pass multiprocessing_context="spawn"')

    def sample(self, users_S: Numbers, items_S: Numbers, step: int) -> tuple[Side, Side]:
        """Users and items of the subgraph of these seeds, all different and in any order."""
        self.check_process()
        graph, nodes = self.graph, self._nodes
        levels = [(within(users_S, graph.num_users, "user"), within(items_S, graph.num_items, "item"))]
        draws: list[tuple[_Drawn, _Drawn]] = []
        try:
            nodes.mark(users_S)
            nodes.mark(items_S, graph.num_users)
            if len(nodes.members()) != len(users_S) + len(items_S):
                raise UsageError("the seeds of a batch must be distinct, some come twice; draw them without replacement")
            for hop in range(len(self.fanouts)):
                draws.append(self._draw(*levels[-1], step, hop))
                levels.append(self._newly_met(*(each.numbers_X for each in draws[-1])))
            return self._relabelled(levels, draws)
        finally:
            nodes.clear()

    def _draw(self, users_T: Numbers, items_T: Numbers, step: int, hop: int) -> tuple[_Drawn, _Drawn]:
        graph, drawn = self.graph, []
        for csr, targets_T, first in ((graph.user_items, users_T, 0), (graph.item_users, items_T, graph.num_users)):
            indptr, numbers_X = sample_neighbours(csr, targets_T, self.fanouts[hop], DrawKey(self.seed, step, hop, first))
            drawn.append(_Drawn(np.diff(indptr), numbers_X))
        return drawn[0], drawn[1]

    def _newly_met(self, items_X: Numbers, users_X: Numbers) -> tuple[Numbers, Numbers]:
        """Marks what was drawn; returns the users and items that were not marked before, each ascending."""
        nodes, first_item = self._nodes, self.graph.num_users
        known_V = nodes.members()
        nodes.mark(users_X)
        nodes.mark(items_X, first_item)
        met_V, places_V = nodes.members(), np.empty(len(known_V), np.int64)
        nodes.ranks(known_V, places_V)
        new_V = np.delete(met_V, places_V)
        cut = int(np.searchsorted(new_V, first_item))
        return new_V[:cut].astype(np.int32), (new_V[cut:] - first_item).astype(np.int32)

    def _relabelled(self, levels: list[tuple[Numbers, Numbers]], draws: list[tuple[_Drawn, _Drawn]]) -> tuple[Side, Side]:
        """The nodes of all `levels` are marked, and no others."""
        firsts = 0, self.graph.num_users
        nodes = [np.concatenate([level[own] for level in levels]) for own in (0, 1)]
        place_R = np.empty(len(nodes[0]) + len(nodes[1]), np.int64)
        for numbers_V, first in zip(nodes, firsts, strict=True):
            place_R[self._ranks(numbers_V, first)] = np.arange(len(numbers_V))
        sides = []
        for own, numbers_V in enumerate(nodes):
            drawn = [draw[own] for draw in draws]
            counts_T = np.concatenate([np.empty(0, np.int64), *(each.counts_T for each in drawn)])  # of the first nodes, in order
            numbers_X = np.concatenate([np.empty(0, np.int32), *(each.numbers_X for each in drawn)])
            sources_X = place_R[self._ranks(numbers_X, firsts[1 - own])]
            targets_X = np.repeat(np.arange(len(counts_T)), counts_T)
            met, counts = [len(level[own]) for level in levels], [len(each.numbers_X) for each in drawn]
            sides.append(Side(numbers_V.astype(np.int64), met, sources_X, targets_X, counts))
        return sides[0], sides[1]

    def _ranks(self, numbers_X: Numbers, first: int) -> NDArray[np.int64]:
        ranks_X = np.empty(len(numbers_X), np.int64)
        self._nodes.ranks(numbers_X, ranks_X, first)
        return ranks_X


def within(numbers: NDArray[Any], count: int, what: str) -> NDArray[Any]:
    """`numbers` themselves; UsageError unless all lie in 0 .. count - 1, as kernels read and write without looking."""
    if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= count):
        raise UsageError(f"{what} numbers must lie in 0 .. {count - 1}, got {numbers.min()} .. {numbers.max()}")
    return numbers
