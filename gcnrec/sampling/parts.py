"""A step's batch in parts, each of the pairs of users u with u % S = p: what a part draws depends on no other part.

So the numbers of a run follow from S, whatever number of workers shares the parts. With in-batch negatives all parts share one
pool of positives; an item of the pool is a node of the part that its number belongs to, (item + U) % S, which alone embeds it.
Letters: S parts, U users, B pairs of a part, J distinct positives of all parts, V nodes of a part, R rows.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.ops.compact import NodeSet
from gcnrec.ops.draws.sample import own_negatives
from gcnrec.ops.search import ranges_of
from gcnrec.random import Stage, shuffled
from gcnrec.rows import Ticket
from gcnrec.sampling.sampler import Batch, EdgeSampler, Triples, located
from gcnrec.workers.sums import by_owner


class Pairs(NamedTuple):
    """Pairs of a part: int32 users and positives, and the numbers of their edges, int64, all (B)."""

    users_B: NDArray[np.int32]
    positives_B: NDArray[np.int32]
    edges_B: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """The distinct positives of a step, int32 `items_J`, by part, ascending within one: part p has `starts_S1[p]` and further.

    `counts_J`, int64: how often each occurs.
    """

    items_J: NDArray[np.int32]
    counts_J: NDArray[np.int64]
    starts_S1: NDArray[np.int64]

    def of_part(self, part: int) -> slice:
        """The places of a part's items."""
        return slice(int(self.starts_S1[part]), int(self.starts_S1[part + 1]))


@dataclass(frozen=True, slots=True)
class PooledPart:
    """What a part has of the pool, int64: the places `target_B` of its pairs there, and `shared_K` of its items in `nodes_V`."""

    target_B: NDArray[np.int64]
    shared_K: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """A part's own `batch`. Where the step has a pool, the batch's `positives_B` are places of its users, and mean nothing."""

    batch: Batch
    pooled: PooledPart | None


@dataclass(frozen=True, slots=True)
class PartedBatch:
    """Some parts of a step's batch, and what all parts have in common: their `pairs`, and the `pool` of in-batch negatives.

    `rows_R`, int64, ascending: what these parts read of the table.
    """

    step: int
    parts: tuple[Part, ...]
    pool: Pool | None
    pairs: tuple[Pairs, ...]
    rows_R: NDArray[np.int64]

    @property
    def num_pairs(self) -> int:
        return sum(len(pairs.users_B) for pairs in self.pairs)

    @property
    def num_users(self) -> int:
        """Distinct users of all parts. Sorts them."""
        return sum(len(np.unique(pairs.users_B)) for pairs in self.pairs)


@dataclass(frozen=True)
class PartedSampler:
    """Draws `own` parts of the `parts` of every batch of `edges`, which has the settings; its pairs see all edges alike."""

    edges: EdgeSampler
    parts: int
    own: tuple[int, ...]

    @property
    def graph(self) -> BipartiteGraph:
        return self.edges.graph

    @property
    def edges_per_epoch(self) -> int:
        return self.edges.edges_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        return self.edges.steps_per_epoch

    def batch(self, epoch: int, index: int) -> PartedBatch:
        """Batch `index` of `epoch`, its own parts: O(batch size), whatever came before.

        The pairs of all parts are drawn, which is cheap; nodes, negatives and neighbours are those of the own parts.
        """
        step = epoch * self.steps_per_epoch + index + 1
        drawn = tuple(self._pairs(epoch, index, part) for part in range(self.parts))
        pool, targets = (None, ()) if self.edges.popularity is not None else self._pool(drawn)
        parts = tuple(self._part(step, part, drawn, pool, targets) for part in self.own)
        rows_R = parts[0].batch.rows_R
        if len(parts) > 1:
            rows_R = np.unique(np.concatenate([part.batch.rows_R for part in parts]))
        return PartedBatch(step, parts, pool, drawn, rows_R)

    @cached_property
    def _ends(self) -> list[NDArray[np.int64]]:
        """Where the edges of each of a part's users end, among the edges of the part."""
        degrees_U = self.graph.user_items.degrees
        return [np.cumsum(degrees_U[part :: self.parts]) for part in range(self.parts)]

    def _pairs(self, epoch: int, index: int, part: int) -> Pairs:
        csr, ends_P, steps = self.graph.user_items, self._ends[part], self.steps_per_epoch
        total = int(ends_P[-1]) if len(ends_P) else 0
        count = math.ceil(self.edges.fraction * total)
        first, last = index * count // steps, (index + 1) * count // steps
        chosen = shuffled(self.edges.seed, int(Stage.ORDER) | part << 8, epoch, first, last, total)
        places = ranges_of(ends_P, chosen)
        users = places * self.parts + part
        edges = csr.indptr[users + 1] - ends_P[places] + chosen
        return Pairs(users.astype(np.int32), csr.indices[edges], edges)

    @cached_property
    def _nodes(self) -> _Ranking:
        return _Ranking(self.graph.num_nodes)

    def _pool(self, drawn: Sequence[Pairs]) -> tuple[Pool, tuple[NDArray[np.int64], ...]]:
        """The pool, and the places of each part's positives there."""
        items_J, ranks = self._nodes.ranked([(pairs.positives_B, 0) for pairs in drawn])
        counts_J = np.bincount(np.concatenate(ranks), minlength=len(items_J))
        order_J, sizes_S = by_owner(items_J + self.graph.num_users, self.parts)
        place_J = np.empty_like(order_J)
        place_J[order_J] = np.arange(len(order_J))
        pool = Pool(items_J[order_J].astype(np.int32), counts_J[order_J], np.concatenate([[0], np.cumsum(sizes_S)]))
        return pool, tuple(place_J[rank_B] for rank_B in ranks)

    def _part(
        self, step: int, part: int, drawn: Sequence[Pairs], pool: Pool | None, targets: Sequence[NDArray[np.int64]]
    ) -> Part:
        sampler, pairs, key = self.edges, drawn[part], step * self.parts + part
        weights_B = None if sampler.weights_E is None else sampler.weights_E[pairs.edges_B]
        disliked_B = None if sampler.disliked is None else own_negatives(pairs.users_B, sampler.disliked, sampler.seed, key)
        triples = Triples(pairs.users_B, pairs.positives_B, sampler.negatives(pairs.users_B, key), weights_B, disliked_B)
        pooled, num_users = None, self.graph.num_users
        if pool is None:
            batch = located(step, triples, num_users)
        else:
            batch, shared_K = self._with_shared(step, triples, pool.items_J[pool.of_part(part)])
            pooled = PooledPart(targets[part], shared_K)
        everyone = [np.concatenate(each) for each in zip(*((each.users_B, each.positives_B) for each in drawn), strict=True)]
        return Part(sampler.with_neighbours(replace(batch, part=part), *everyone), pooled)

    def _with_shared(self, step: int, triples: Triples, shared_K: NDArray[np.int32]) -> tuple[Batch, NDArray[np.int64]]:
        """The batch whose nodes are users, items rated low, and items `shared_K`; the places of the latter among the nodes."""
        num_users, disliked_B = self.graph.num_users, triples.disliked_B
        others = [] if disliked_B is None else [(disliked_B[disliked_B >= 0], num_users)]
        nodes_V, (users_B, shared, *rest) = self._nodes.ranked([(triples.users_B, 0), (shared_K, num_users), *others])
        places_B = None
        if disliked_B is not None:
            places_B = np.full(len(users_B), -1, np.int64)
            places_B[disliked_B >= 0] = rest[0]
        none_BN, count = np.empty((len(users_B), 0), np.int64), int(np.searchsorted(nodes_V, num_users))
        return Batch(step, triples, nodes_V, count, users_B, users_B, none_BN, Ticket(nodes_V), (), places_B), shared


class _Ranking:
    """Ranks numbers below `count`. Scratch is reused, so threads wait for each other."""

    def __init__(self, count: int) -> None:
        self._lock, self._set = threading.Lock(), NodeSet.empty(count)

    def ranked(self, lists: Sequence[tuple[NDArray[np.int32], int]]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """The different numbers of all lists, ascending, and the place of each entry there. Lists have first numbers."""
        with self._lock:
            for numbers_X, first in lists:
                self._set.mark(numbers_X, first)
            members, ranks = self._set.members(), [np.empty(len(numbers_X), np.int64) for numbers_X, _ in lists]
            for (numbers_X, first), rank_X in zip(lists, ranks, strict=True):
                self._set.ranks(numbers_X, rank_X, first)
            self._set.clear()
        return members, ranks
