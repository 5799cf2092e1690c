"""A step's batch in parts, each of the pairs of users u with u % S = p: what a part draws depends on no other part.

So the numbers of a run follow from S, whatever number of workers shares the parts. With in-batch negatives all parts share one
pool of positives; an item of the pool is a node of the part that its number belongs to, (item + U) % S, which alone embeds it.
Letters: S parts, U users, B pairs of a part, J distinct positives of all parts, V nodes of a part, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.ops.draws.sample import own_negatives
from gcnrec.random import Stage, shuffled
from gcnrec.rows import Ticket
from gcnrec.sampling.sampler import Batch, EdgeSampler, Triples, located


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
        pool = None if self.edges.popularity is not None else self._pool(drawn)
        parts = tuple(self._part(step, part, drawn, pool) for part in self.own)
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
        places = np.searchsorted(ends_P, chosen, side="right")
        users = places * self.parts + part
        edges = csr.indptr[users + 1] - ends_P[places] + chosen
        return Pairs(users.astype(np.int32), csr.indices[edges], edges)

    def _pool(self, drawn: Sequence[Pairs]) -> Pool:
        items_J, counts_J = np.unique(np.concatenate([pairs.positives_B for pairs in drawn]), return_counts=True)
        part_J = (items_J.astype(np.int64) + self.graph.num_users) % self.parts
        order_J = np.argsort(part_J, kind="stable")
        sizes_S = np.bincount(part_J, minlength=self.parts)
        return Pool(items_J[order_J], counts_J[order_J], np.concatenate([[0], np.cumsum(sizes_S)]))

    def _part(self, step: int, part: int, drawn: Sequence[Pairs], pool: Pool | None) -> Part:
        sampler, pairs, key = self.edges, drawn[part], step * self.parts + part
        weights_B = None if sampler.weights_E is None else sampler.weights_E[pairs.edges_B]
        disliked_B = None if sampler.disliked is None else own_negatives(pairs.users_B, sampler.disliked, sampler.seed, key)
        triples = Triples(pairs.users_B, pairs.positives_B, sampler.negatives(pairs.users_B, key), weights_B, disliked_B)
        pooled, num_users = None, self.graph.num_users
        if pool is None:
            batch = located(step, triples, num_users)
        else:
            batch, shared_K = _with_shared(step, triples, pool.items_J[pool.of_part(part)], num_users)
            pooled = PooledPart(_places_of(pairs.positives_B, pool), shared_K)
        everyone = [np.concatenate(each) for each in zip(*((each.users_B, each.positives_B) for each in drawn), strict=True)]
        return Part(sampler.with_neighbours(replace(batch, part=part), *everyone), pooled)


def _with_shared(step: int, triples: Triples, shared_K: NDArray[np.int32], num_users: int) -> tuple[Batch, NDArray[np.int64]]:
    """The batch whose nodes are users, what they rated low, and items `shared_K`; the places of these items among the nodes."""
    size, disliked_B = len(triples.users_B), triples.disliked_B
    others = [shared_K] if disliked_B is None else [shared_K, disliked_B[disliked_B >= 0]]
    items = np.concatenate(others).astype(np.int64) + num_users
    nodes_V, where = np.unique(np.concatenate([triples.users_B.astype(np.int64), items]), return_inverse=True)
    users_B, shared, rest = where[:size], where[size : size + len(shared_K)], where[size + len(shared_K) :]
    places_B = None
    if disliked_B is not None:
        places_B = np.full(size, -1, np.int64)
        places_B[disliked_B >= 0] = rest
    none_BN, count = np.empty((size, 0), np.int64), int(np.searchsorted(nodes_V, num_users))
    return Batch(step, triples, nodes_V, count, users_B, users_B, none_BN, Ticket(nodes_V), (), places_B), shared


def _places_of(positives_B: NDArray[np.int32], pool: Pool) -> NDArray[np.int64]:
    """The places of items in the pool, which has all of them."""
    order_J = np.argsort(pool.items_J)
    places_B: NDArray[np.int64] = order_J[np.searchsorted(pool.items_J, positives_B, sorter=order_J)]
    return places_B
