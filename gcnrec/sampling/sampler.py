"""Seeds -> triples -> batch: which positives and negatives a step sees, and which nodes it must read.

The order of an epoch and every negative depend only on (seed, epoch or step, index).
Letters: B positives of a batch, N negatives per positive, V distinct nodes of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.draws.alias import AliasTable
from gcnrec.ops.draws.sample import negatives, own_negatives, popularity_table
from gcnrec.ops.search import ranges_of
from gcnrec.random import Stage, shuffled
from gcnrec.rows import Ticket
from gcnrec.sampling.blocks import Block, BlockSampler, Sampled, without
from gcnrec.sampling.dated_blocks import DatedSampler, distinct, keys_of, nodes_of

if TYPE_CHECKING:
    from gcnrec.config import Sampler as SamplerSettings


@dataclass(frozen=True, slots=True)
class Triples:
    """`users_B` and `positives_B` int32 numbers, `negatives_BN` int32 items (N = 0 in-batch), `weights_B` float32 or None.

    `disliked_B` int32: an item that the user rated low, -1 where there is none; None where such items are not drawn.
    """

    users_B: NDArray[np.int32]
    positives_B: NDArray[np.int32]
    negatives_BN: NDArray[np.int32]
    weights_B: NDArray[np.float32] | None
    disliked_B: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's triples and nodes: `nodes_V` int64 ascending and unique, users before items (item + U).

    `users_B`, `positives_B`, `negatives_BN` and `disliked_B` (-1 for none) are positions in `nodes_V`; `num_users` of its entries
    are users.
    `ticket` reads the table rows `rows_R`, ascending and unique: `nodes_V`, and what the hops of `blocks` reach from there.
    A batch whose pairs see their own past alone has a node of `nodes_V` for each date of its pairs: numbers then repeat.
    `part`: which part of a step's batch it is; draws by place in the batch are keyed by it.
    """

    step: int
    triples: Triples
    nodes_V: NDArray[np.int64]
    num_users: int
    users_B: NDArray[np.int64]
    positives_B: NDArray[np.int64]
    negatives_BN: NDArray[np.int64]
    ticket: Ticket
    blocks: tuple[Block, ...]
    disliked_B: NDArray[np.int64] | None = None
    part: int = 0

    @property
    def rows_R(self) -> NDArray[np.int64]:
        return self.ticket.rows_R


@dataclass(frozen=True)
class EdgeSampler:
    """Edges of `graph` at most once an epoch, in an order fixed by (seed, epoch), in batches whose sizes differ by at most one.

    `fraction` 1.0 takes every edge; less takes the first of the epoch's order: a fresh random subset, whatever other epochs
    took (RS2 with replacement, Okanovic et al. 2024, "Repeated Random Sampling for Minimizing the Time-to-Accuracy of
    Learning"). `popularity` draws negatives, None for in-batch negatives; `neighbours` draws the
    blocks of sampled propagation, from which `exclude_positives` takes the batch's own edges. `disliked`: user -> items of which
    each entry of a batch gets one; None draws none. A `DatedSampler` shows each pair older edges alone: its user, its item and
    its negatives are embedded at the pair's own date.
    """

    graph: BipartiteGraph
    weights_E: NDArray[np.float32] | None
    batch_size: int
    num_negatives: int
    popularity: AliasTable | None
    exclude_seen: bool
    seed: int
    fraction: float
    neighbours: BlockSampler | DatedSampler | None = None
    exclude_positives: bool = False
    disliked: Csr | None = None

    @property
    def edges_per_epoch(self) -> int:
        """ceil(fraction * all edges)."""
        return math.ceil(self.fraction * self.graph.num_edges)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, -(-self.edges_per_epoch // self.batch_size))

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of `epoch` (0, 1, ...); `Batch.step` counts from 1 over the whole run."""
        for index in range(self.steps_per_epoch):
            yield self.batch(epoch, index)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`: O(batch size), whatever came before."""
        edges, steps = self.edges_per_epoch, self.steps_per_epoch
        first, last = index * edges // steps, (index + 1) * edges // steps
        step = epoch * steps + index + 1
        chosen = shuffled(self.seed, Stage.ORDER, epoch, first, last, self.graph.num_edges)
        csr = self.graph.user_items
        users = (ranges_of(csr.indptr, chosen) - 1).astype(np.int32)
        weights = None if self.weights_E is None else self.weights_E[chosen]
        disliked = None if self.disliked is None else own_negatives(users, self.disliked, self.seed, step)
        triples = Triples(users, csr.indices[chosen], self.negatives(users, step), weights, disliked)
        if isinstance(self.neighbours, DatedSampler):
            return _with_past(step, triples, self.graph.num_users, self.neighbours, self.neighbours.dates_E[chosen])
        batch = located(step, triples, self.graph.num_users)
        return self.with_neighbours(batch, triples.users_B, triples.positives_B)

    def with_neighbours(self, batch: Batch, users_B: NDArray[np.int32], positives_B: NDArray[np.int32]) -> Batch:
        """The batch with the blocks of its nodes; the pairs are all positives of the step, which blocks may leave out."""
        if self.neighbours is None or isinstance(self.neighbours, DatedSampler):
            return batch
        sampled = self.neighbours.sample(batch.nodes_V, batch.num_users, batch.step)
        if self.exclude_positives:
            sampled = without(sampled, users_B, positives_B, self.graph)
        return _with_blocks(batch, sampled)

    def negatives(self, users_B: NDArray[np.int32], key: int) -> NDArray[np.int32]:
        """Drawn negatives of users, int32 (B, N); `key` says of which step, or part of one."""
        if self.popularity is None:
            return np.empty((len(users_B), 0), np.int32)
        seen = self.graph.user_items if self.exclude_seen else None
        return negatives(users_B, self.num_negatives, self.popularity, seen, self.seed, key)


def edge_sampler(
    settings: SamplerSettings, graph: BipartiteGraph, weights_E: NDArray[np.float32] | None, batch_size: int, seed: int,
    neighbours: BlockSampler | DatedSampler | None = None, disliked: Csr | None = None,
) -> EdgeSampler:  # fmt: skip
    """The sampler that a job asks for: in-batch, uniform or popularity^power negatives; `neighbours` for sampled blocks.

    `disliked`: user -> items of which each positive gets one.
    """
    table = None
    if settings.negatives != "in_batch":
        power = settings.popularity_power if settings.negatives == "popularity" else 0.0
        table = popularity_table(np.diff(graph.item_users.indptr), power)
    num = 0 if table is None else settings.num_negatives
    return EdgeSampler(
        graph, weights_E, batch_size, num, table, settings.exclude_seen, seed, settings.fraction, neighbours,
        settings.exclude_positives, disliked,
    )  # fmt: skip


def _with_blocks(batch: Batch, sampled: Sampled) -> Batch:
    return replace(batch, ticket=Ticket(sampled.rows_R), blocks=sampled.blocks)


def located(step: int, triples: Triples, num_users: int) -> Batch:
    """The batch of triples whose nodes are all of theirs, without blocks."""
    nodes_V, where = np.unique(_nodes(triples, num_users), return_inverse=True)
    return _batch(step, triples, nodes_V, where, num_users)


def _with_past(step: int, triples: Triples, num_users: int, past: DatedSampler, dates_B: NDArray[np.int32]) -> Batch:
    """The batch whose nodes stand at the dates of their pairs, with the blocks of their past."""
    dates = [dates_B, dates_B, np.repeat(dates_B, triples.negatives_BN.shape[1])]
    if triples.disliked_B is not None:
        dates.append(dates_B[triples.disliked_B >= 0])
    keys_V, where = distinct(keys_of(_nodes(triples, num_users), np.concatenate(dates)))
    return _with_blocks(_batch(step, triples, nodes_of(keys_V), where, num_users), past.sample(keys_V, step))


def _nodes(triples: Triples, num_users: int) -> NDArray[np.int64]:
    """Users, positives, negatives and what users dislike, in this order, as node numbers."""
    items = [triples.positives_B, triples.negatives_BN.reshape(-1)]
    if triples.disliked_B is not None:
        items.append(triples.disliked_B[triples.disliked_B >= 0])
    nodes = np.concatenate([triples.users_B, *items]).astype(np.int64)
    nodes[len(triples.users_B) :] += num_users
    return nodes


def _batch(step: int, triples: Triples, nodes_V: NDArray[np.int64], where: NDArray[np.int64], num_users: int) -> Batch:
    """The batch of `nodes_V`, among which `where` has the places of `_nodes`."""
    size, drawn = len(triples.users_B), triples.negatives_BN.size
    disliked_B = None
    if triples.disliked_B is not None:
        disliked_B = np.full(size, -1, np.int64)
        disliked_B[triples.disliked_B >= 0] = where[2 * size + drawn :]
    return Batch(
        step,
        triples,
        nodes_V,
        int(np.searchsorted(nodes_V, num_users)),
        where[:size],
        where[size : 2 * size],
        where[2 * size : 2 * size + drawn].reshape(triples.negatives_BN.shape),
        Ticket(nodes_V),
        (),
        disliked_B,
    )
