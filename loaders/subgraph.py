"""Sampled subgraphs in which every node draws once: what PyG's loaders hand out, in plain arrays.

Blocks (`gcnrec.sampling.blocks`) draw anew at every hop for every target; here a node draws at the hop after the one that met it
first.
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
from gcnrec.ops.neighbours import check_fanout, sample_neighbours
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
class _Draw:
    """One hop: how many items each user drew and which, how many users each item drew and which."""

    counts_U: NDArray[np.int64]
    items_X: Numbers
    counts_I: NDArray[np.int64]
    users_X: Numbers


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
        draws: list[_Draw] = []
        try:
            nodes.mark(users_S)
            nodes.mark(items_S, graph.num_users)
            if len(nodes.members()) != len(users_S) + len(items_S):
                raise UsageError("the seeds of a batch must be distinct, some come twice; draw them without replacement")
            for hop in range(len(self.fanouts)):
                draws.append(self._draw(*levels[-1], step, hop))
                levels.append(self._newly_met(draws[-1]))
            return self._relabelled(levels, draws)
        finally:
            nodes.clear()

    def _draw(self, users_T: Numbers, items_T: Numbers, step: int, hop: int) -> _Draw:
        graph, fanout = self.graph, self.fanouts[hop]
        of_users, of_items = (DrawKey(self.seed, step, hop, first) for first in (0, graph.num_users))
        users_indptr, items_X = sample_neighbours(graph.user_items, users_T, fanout, of_users)
        items_indptr, users_X = sample_neighbours(graph.item_users, items_T, fanout, of_items)
        return _Draw(np.diff(users_indptr), items_X, np.diff(items_indptr), users_X)

    def _newly_met(self, draw: _Draw) -> tuple[Numbers, Numbers]:
        """Marks what was drawn; returns the users and items that were not marked before, each ascending."""
        nodes, first_item = self._nodes, self.graph.num_users
        known_V = nodes.members()
        nodes.mark(draw.users_X)
        nodes.mark(draw.items_X, first_item)
        met_V, places_V = nodes.members(), np.empty(len(known_V), np.int64)
        nodes.ranks(known_V, places_V)
        new_V = np.delete(met_V, places_V)
        cut = int(np.searchsorted(new_V, first_item))
        return new_V[:cut].astype(np.int32), (new_V[cut:] - first_item).astype(np.int32)

    def _relabelled(self, levels: list[tuple[Numbers, Numbers]], draws: list[_Draw]) -> tuple[Side, Side]:
        """The marked nodes are exactly those of all `levels`."""
        first_item = self.graph.num_users
        users_V = np.concatenate([users for users, _ in levels])
        items_V = np.concatenate([items for _, items in levels])
        place_R = np.empty(len(users_V) + len(items_V), np.int64)
        for numbers_V, first in ((users_V, 0), (items_V, first_item)):
            place_R[self._ranks(numbers_V, first)] = np.arange(len(numbers_V))
        sides = []
        for numbers_V, own, counts, drawn, first in (
            (users_V, 0, [draw.counts_U for draw in draws], [draw.items_X for draw in draws], first_item),
            (items_V, 1, [draw.counts_I for draw in draws], [draw.users_X for draw in draws], 0),
        ):
            counts_T = np.concatenate([np.empty(0, np.int64), *counts])  # of the first nodes, in their order
            sources_X = place_R[self._ranks(np.concatenate([np.empty(0, np.int32), *drawn]), first)]
            targets_X = np.repeat(np.arange(len(counts_T)), counts_T)
            met = [len(level[own]) for level in levels]
            sides.append(Side(numbers_V.astype(np.int64), met, sources_X, targets_X, [len(one) for one in drawn]))
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
