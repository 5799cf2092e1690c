"""Blocks of important neighbours: the nodes of its own side that random walks from a node visit most (Ying et al. 2018).

Letters: V given nodes, T targets and S sources of a hop, X edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.draws.walks import Walks, most_visited
from gcnrec.random import DrawKey
from gcnrec.sampling.blocks import Block, Sampled


@dataclass(frozen=True)
class WalkSampler:
    """Keeps the `fanouts[h]` most visited nodes of every target of hop h; hop 0 is at the given nodes.

    Sources of a hop are these and its targets; edges carry their numbers of visits. Draws depend on (seed, step, node) only.
    """

    graph: BipartiteGraph
    fanouts: tuple[int, ...]
    num_walks: int
    length: int
    restart: float
    seed: int

    def sample(self, nodes_V: NDArray[np.int64], num_users: int, step: int) -> Sampled:
        """The blocks of `nodes_V`, ascending and unique; `num_users` of them are users."""
        levels, found = [nodes_V], []
        for hop in range(len(self.fanouts)):
            sources_S, block = self.hop(levels[-1], len(self.fanouts) - 1 - hop, step)
            levels.append(sources_S)
            found.append(block)
        places = [np.searchsorted(levels[-1], nodes) for nodes in levels]
        blocks = tuple(Block(block.csr, places[h], places[h + 1], block.weights_X) for h, block in enumerate(found))
        return Sampled(levels[-1], blocks)

    def hop(self, nodes_T: NDArray[np.int64], layer: int, step: int) -> tuple[NDArray[np.int64], Block]:
        """The sources of ascending `nodes_T`, themselves included, and the block of the layer that reads them (0: the first).

        Targets and sources of the block are positions among these sources.
        """
        graph, first_item = self.graph, self.graph.num_users
        cut = int(np.searchsorted(nodes_T, first_item))
        top = self.fanouts[len(self.fanouts) - 1 - layer]
        indptr, users_X, user_visits = self._walk(graph.user_items, graph.item_users, nodes_T[:cut], top, step, 0)
        later, items_X, item_visits = self._walk(
            graph.item_users, graph.user_items, nodes_T[cut:] - first_item, top, step, first_item
        )
        drawn_X = np.concatenate([users_X.astype(np.int64), items_X.astype(np.int64) + first_item])
        sources_S = np.union1d(nodes_T, drawn_X)
        indptr_T1 = np.concatenate([indptr, later[1:] + len(users_X)])
        csr = Csr(indptr_T1, np.searchsorted(sources_S, drawn_X).astype(np.int32), len(sources_S))
        weights_X = np.concatenate([user_visits, item_visits]).astype(np.float32)
        return sources_S, Block(csr, np.searchsorted(sources_S, nodes_T), np.arange(len(sources_S)), weights_X)

    def _walk(
        self, there: Csr, back: Csr, rows_T: NDArray[np.int64], top: int, step: int, first_node: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        walks, key = Walks(self.num_walks, self.length, self.restart), DrawKey(self.seed, step, 0, first_node)
        return most_visited(there, back, rows_T.astype(np.int32), walks, top, key)
