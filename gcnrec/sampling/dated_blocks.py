"""Blocks of the past: a training pair sees edges alone that are older than itself, in every hop.

An *entry* is a node at a date (`gcnrec.ops.draws.dated`). The date of a pair travels down its hops: drawn neighbours of
an entry are entries of the same date, and their edges are older than that date, too. A node at two dates is two entries of a
block. So entries of a date propagate on the graph as it was before that date, with the degrees that nodes had then.
The last hop reads table rows, which have no date: there a node is one source.
Letters: V entries of the batch, T targets and S sources of a hop, X drawn edges, R rows to read.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import Csr
from gcnrec.ops.compact import NodeSet
from gcnrec.ops.draws.dated import DatedGraph
from gcnrec.ops.draws.neighbours import check_fanout
from gcnrec.random import DrawKey
from gcnrec.sampling.blocks import Block, Sampled

_DATE_BITS = 31


def keys_of(nodes_X: NDArray[np.integer], dates_X: NDArray[np.int32]) -> NDArray[np.int64]:
    """One number for each entry; numbers ascend by node, and by date within a node."""
    return nodes_X.astype(np.int64) << _DATE_BITS | dates_X


def nodes_of(keys_X: NDArray[np.int64]) -> NDArray[np.int64]:
    """The nodes of entries."""
    return keys_X >> _DATE_BITS


def distinct(keys_X: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different keys, ascending, and the place of each key among them."""
    order_X = np.argsort(keys_X)
    sorted_X = keys_X[order_X]
    is_first_X = np.ones(len(keys_X), np.bool_)
    np.not_equal(sorted_X[1:], sorted_X[:-1], out=is_first_X[1:])
    places_X = np.empty(len(keys_X), np.int64)
    places_X[order_X] = np.cumsum(is_first_X) - 1
    return sorted_X[is_first_X], places_X


class DatedSampler:
    """Draws `fanouts[h]` neighbours of every target of hop h from before its date, uniformly and without replacement.

    `dates_E`, int32, are the dates of the pairs to train on, in the order of their edges. `with_targets`: as of
    `gcnrec.sampling.blocks.NeighbourSampler`; without it, blocks have degrees. Draws depend on (seed, step, hop, node, date).
    Scratch is reused, so threads wait for each other. Raises UsageError unless every fanout lies in 1 .. 64.
    """

    def __init__(
        self, graph: DatedGraph, dates_E: NDArray[np.int32], fanouts: tuple[int, ...], seed: int, with_targets: bool = False
    ) -> None:
        for fanout in fanouts:
            check_fanout(fanout)
        self.graph, self.dates_E, self.fanouts, self.seed, self.with_targets = graph, dates_E, fanouts, seed, with_targets
        self._lock = threading.Lock()
        self._drawn, self._rows = NodeSet.empty(graph.num_nodes), NodeSet.empty(graph.num_nodes)

    def sample(self, keys_V: NDArray[np.int64], step: int) -> Sampled:
        """The blocks of the entries `keys_V`, ascending and unique."""
        with self._lock:  # explorations draw batches of their own while a thread draws ahead for training
            return self._sample(keys_V, step)

    def _sample(self, keys_V: NDArray[np.int64], step: int) -> Sampled:
        targets, nodes, found = _Entries.of(self.graph, keys_V), [nodes_of(keys_V)], []
        for hop, fanout in enumerate(self.fanouts):
            drawn = targets.draw(self.graph, fanout, self.seed, step, hop)
            degrees = None if self.with_targets else (targets.counts_T, drawn.degrees(self.graph))
            if hop + 1 < len(self.fanouts):
                keys_S, positions_X, own_T = self._among_entries(targets, drawn)
                targets = _Entries.of(self.graph, keys_S)
                nodes.append(nodes_of(keys_S))
            else:
                nodes_S, positions_X, own_T = self._among_nodes(targets, drawn)
                nodes.append(nodes_S)
            found.append((Csr(drawn.indptr_T1, positions_X, len(nodes[-1])), degrees, own_T))
        rows_R, places = self._placed(nodes)
        return Sampled(
            rows_R,
            tuple(Block(csr, places[h], places[h + 1], None, degrees, own_T) for h, (csr, degrees, own_T) in enumerate(found)),
        )

    def _among_entries(
        self, targets: _Entries, drawn: _Drawn
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64] | None]:
        """The keys of the sources, the place of each drawn neighbour among them, and of each target if they hold these."""
        if not self.with_targets:
            keys_S, places_X = distinct(drawn.keys_X)
            return keys_S, places_X.astype(np.int32), None
        keys_S, places = distinct(np.concatenate([targets.keys_T, drawn.keys_X]))
        own_T, places_X = np.split(places, [len(targets.keys_T)])
        return keys_S, places_X.astype(np.int32), own_T

    def _among_nodes(
        self, targets: _Entries, drawn: _Drawn
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64] | None]:
        """As `_among_entries`, with the nodes of the sources: the targets' if they hold these, then each drawn node once."""
        self._drawn.mark(drawn.nodes_X)
        nodes_S, positions_X = self._drawn.members(), np.empty(len(drawn.nodes_X), np.int32)
        self._drawn.ranks(drawn.nodes_X, positions_X)
        self._drawn.clear()
        if not self.with_targets:
            return nodes_S, positions_X, None
        count = len(targets.keys_T)
        return np.concatenate([nodes_of(targets.keys_T), nodes_S]), positions_X + np.int32(count), np.arange(count)

    def _placed(self, nodes: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """All rows to read, and where the nodes of each level stand among them."""
        for nodes_X in nodes:
            self._rows.mark(nodes_X)
        rows_R, places = self._rows.members(), [np.empty(len(nodes_X), np.int64) for nodes_X in nodes]
        for nodes_X, places_X in zip(nodes, places, strict=True):
            self._rows.ranks(nodes_X, places_X)
        self._rows.clear()
        return rows_R, places


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Drawn neighbours: target t's begin at `indptr_T1[t]` and ascend; the items that users drew come before users."""

    indptr_T1: NDArray[np.int64]
    items_X: NDArray[np.int32]
    users_X: NDArray[np.int32]
    nodes_X: NDArray[np.int64]
    dates_X: NDArray[np.int32]

    @property
    def keys_X(self) -> NDArray[np.int64]:
        return keys_of(self.nodes_X, self.dates_X)

    def degrees(self, graph: DatedGraph) -> NDArray[np.int64]:
        """How many edges each has before its date, int64 (X)."""
        cut = len(self.items_X)
        of_items = graph.item_users.counts(self.items_X, self.dates_X[:cut])
        return np.concatenate([of_items, graph.user_items.counts(self.users_X, self.dates_X[cut:])])


@dataclass(frozen=True, slots=True)
class _Entries:
    """The targets of a hop, ascending: users, then items, with the number of their edges before their dates."""

    keys_T: NDArray[np.int64]
    users_T: NDArray[np.int32]
    items_T: NDArray[np.int32]
    dates_T: NDArray[np.int32]
    counts_T: NDArray[np.int64]

    @classmethod
    def of(cls, graph: DatedGraph, keys_T: NDArray[np.int64]) -> _Entries:
        cut = int(np.searchsorted(keys_T, graph.num_users << _DATE_BITS))
        users_T = nodes_of(keys_T[:cut]).astype(np.int32)
        items_T = (nodes_of(keys_T[cut:]) - graph.num_users).astype(np.int32)
        dates_T = (keys_T & ((1 << _DATE_BITS) - 1)).astype(np.int32)
        of_users, of_items = graph.user_items.counts(users_T, dates_T[:cut]), graph.item_users.counts(items_T, dates_T[cut:])
        return cls(keys_T, users_T, items_T, dates_T, np.concatenate([of_users, of_items]))

    def draw(self, graph: DatedGraph, fanout: int, seed: int, step: int, hop: int) -> _Drawn:
        """`fanout` neighbours of each from before its date."""
        cut, num_users, dates_T, counts_T = len(self.users_T), graph.num_users, self.dates_T, self.counts_T
        of_users, of_items = (DrawKey(seed, step, hop, first_node) for first_node in (0, num_users))
        indptr, items_X = graph.user_items.draw(self.users_T, dates_T[:cut], counts_T[:cut], fanout, of_users)
        later, users_X = graph.item_users.draw(self.items_T, dates_T[cut:], counts_T[cut:], fanout, of_items)
        indptr_T1 = np.concatenate([indptr, later[1:] + len(items_X)])
        nodes_X = np.concatenate([items_X.astype(np.int64) + num_users, users_X])
        return _Drawn(indptr_T1, items_X, users_X, nodes_X, np.repeat(dates_T, np.diff(indptr_T1)))
