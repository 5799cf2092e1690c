"""A table whose rows are dealt out to workers: row n belongs to worker n % W, which alone reads, updates and keeps it.

    announce   ids of the rows that a worker's parts read go to their owners, one batch ahead
    fetch      owners answer with rows
    pushed     gradients of rows go to their owners, which sum them over all parts in one fixed tree

Letters: N rows of the table, S parts, W workers, P parts of a worker, R rows of a part, A rows asked of this worker, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.rows import RowGrad, Rows, Ticket
from gcnrec.tables.dealt.shards import Shards
from gcnrec.tables.dealt.table import DealtTable
from gcnrec.tables.pipelined import HostTable
from gcnrec.workers.sums import by_owner, grouped, placed, tree_rows
from gcnrec.workers.world import World


@dataclass(frozen=True, slots=True)
class _Plan:
    """Who asks whom for the rows of tickets, a ticket for each part of this worker.

    `order_R` of a ticket groups its rows by owner; `asks_PW` has how many rows each part asks of each worker, and `asked_WP` how
    many each part of a worker asks of this one, at local places `asked`, by worker and part.
    """

    orders: tuple[NDArray[np.int64], ...]
    asks_PW: NDArray[np.int64]
    asked_WP: NDArray[np.int64]
    asked: tuple[NDArray[np.int64], ...]


class ExchangedTable(DealtTable):
    """A `StepTable` whose tickets are announced for all parts of a worker at once.

    All workers call `announce`, `fetch` and `pushed` in the same order. Without `reads_rows` no row is ever read.
    """

    def __init__(self, world: World, shards: Shards, host: HostTable | None, reads_rows: bool = True) -> None:
        super().__init__(world, shards, host)
        self.reads_rows = reads_rows
        self._plans: dict[Ticket, tuple[_Plan, int]] = {}
        self._tiles: dict[Ticket, torch.Tensor] = {}

    @property
    def width(self) -> int:
        return self._shards.width

    def announcing(self) -> AbstractContextManager[Any]:
        """Nothing is uploaded."""
        return nullcontext()

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        """The ticket of a worker's only part."""
        return self.announce([rows_R])[0]

    def announce(self, rows: Sequence[NDArray[np.int64]]) -> list[Ticket]:
        """Announce the rows of each of this worker's parts, ascending and unique: their owners learn what to send."""
        tickets = [Ticket(rows_R) for rows_R in rows]
        if not self.reads_rows:
            return tickets
        size, parts = self._world.size, len(rows)
        found = [by_owner(rows_R, size) for rows_R in rows]
        asks_PW = np.stack([counts_W for _, counts_W in found])
        counts = torch.from_numpy(np.ascontiguousarray(asks_PW.T))  # copy: a few numbers
        asked_WP = self._world.exchange(counts, [1] * size, [1] * size).numpy().reshape(size, parts)
        ids = [_split(rows_R[order_R] // size, counts_W) for rows_R, (order_R, counts_W) in zip(rows, found, strict=True)]
        sent = np.concatenate([ids[part][worker] for worker in range(size) for part in range(parts)]).astype(np.int32)
        came = self._world.exchange(torch.from_numpy(sent), asks_PW.sum(0).tolist(), asked_WP.sum(1).tolist())
        asked = _split(came.numpy().astype(np.int64), asked_WP.reshape(-1))
        plan = _Plan(tuple(order_R for order_R, _ in found), asks_PW, asked_WP, tuple(asked))
        self._plans |= {ticket: (plan, part) for part, ticket in enumerate(tickets)}
        return tickets

    def fetch(self, tickets: Sequence[Ticket]) -> None:
        """Bring the rows of a batch's tickets, all that were announced together."""
        if not self.reads_rows:
            return
        plan, _ = self._plans[tickets[0]]
        tiles = [self.local.decode(self.local.read(Ticket(asked_A), with_state=False)) for asked_A in plan.asked]
        outs, ins = plan.asked_WP.sum(1).tolist(), plan.asks_PW.sum(0).tolist()
        came = self._world.exchange(_joined(tiles), outs, ins)
        for ticket, order_R, mine in zip(tickets, plan.orders, _by_part(came, plan.asks_PW), strict=True):
            self._tiles[ticket] = placed(mine, order_R)

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        """The rows of a fetched ticket, without state."""
        tile_RD = self._tiles[ticket]
        index_R = torch.from_numpy(ticket.rows_R)
        at_R = torch.arange(len(index_R)) * self.width
        return Rows(ticket, index_R, tile_RD.view(-1), at_R, torch.full((len(index_R),), self.width), None)

    def decode(self, rows: Rows) -> torch.Tensor:
        return rows.weights.view(-1, self.width)

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        """The gradient of whole rows: their owners know what they store."""
        return RowGrad(ticket, tile_RD.contiguous().view(-1), torch.arange(len(ticket.rows_R)) * self.width)

    def pushed(self, tickets: Sequence[Ticket], grads: Sequence[RowGrad]) -> RowGrad:
        """The gradient of this worker's own rows, summed over all parts; `grads` are of the parts of this worker."""
        rows_R, tile_RD = np.empty(0, np.int64), torch.empty(0, self.width)
        if self.reads_rows:
            plan, _ = self._plans[tickets[0]]
            tiles = [
                grouped(grad.values_X.view(-1, self.width), order_R) for grad, order_R in zip(grads, plan.orders, strict=True)
            ]
            rows_R, tile_RD = tree_rows(self._arrived(plan, tiles), self.width)
        for ticket in tickets:
            self._plans.pop(ticket, None)
            self._tiles.pop(ticket, None)
        return self.local.stored(Ticket(rows_R), tile_RD)

    def whole(self, tickets: Sequence[Ticket], tiles: Sequence[torch.Tensor]) -> tuple[NDArray[np.int64], torch.Tensor]:
        """On the leader: the sum of the parts' tiles and its rows, by their numbers in the whole table. Nothing on followers."""
        size, numbers = self._world.size, [torch.from_numpy(ticket.rows_R) for ticket in tickets]
        for ticket in tickets:
            self._plans.pop(ticket, None)
            self._tiles.pop(ticket, None)
        counts = torch.tensor([len(rows_R) for rows_R in numbers])
        lengths = self._to_leader(counts, [len(counts)] * size)
        ins = lengths.view(-1, len(counts)).sum(1).tolist() if len(lengths) else [0] * size
        rows, came = self._to_leader(torch.cat(numbers), ins), self._to_leader(torch.cat(list(tiles)), ins)
        if self._world.rank:
            return np.empty(0, np.int64), came
        ends = lengths.tolist()
        pieces = list(zip(_split(rows.numpy(), ends), torch.split(came, ends), strict=True))
        return tree_rows(_in_part_order(pieces, size), self.width)

    def _arrived(self, plan: _Plan, tiles: Sequence[torch.Tensor]) -> list[tuple[NDArray[np.int64], torch.Tensor]]:
        """The rows of this worker and their gradient from each part, in the order of parts."""
        size, parts = self._world.size, len(tiles)
        pieces = [torch.split(tile, counts_W.tolist()) for tile, counts_W in zip(tiles, plan.asks_PW, strict=True)]
        sent = _joined([pieces[part][worker] for worker in range(size) for part in range(parts)])
        came = self._world.exchange(sent, plan.asks_PW.sum(0).tolist(), plan.asked_WP.sum(1).tolist())
        split = torch.split(came, plan.asked_WP.reshape(-1).tolist())
        return _in_part_order(list(zip(plan.asked, split, strict=True)), size)

    def _to_leader(self, sent: torch.Tensor, ins: Sequence[int]) -> torch.Tensor:
        size = self._world.size
        outs = [len(sent)] + [0] * (size - 1)
        return self._world.exchange(sent, outs, list(ins) if self._world.rank == 0 else [0] * size)


def _split(values: NDArray[np.int64], counts: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Values cut into pieces of so many."""
    return [values[first:last] for first, last in pairwise(accumulate(counts, initial=0))]


def _joined(tiles: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tile; a single one is not copied."""
    return tiles[0] if len(tiles) == 1 else torch.cat(list(tiles))


def _by_part(came: torch.Tensor, asks_PW: NDArray[np.int64]) -> list[torch.Tensor]:
    """What came by worker and part, as a tile for each part, by worker."""
    parts, size = asks_PW.shape
    pieces = torch.split(came, asks_PW.T.reshape(-1).tolist())
    return [_joined([pieces[worker * parts + part] for worker in range(size)]) for part in range(parts)]


def _in_part_order(pieces: Sequence[Any], size: int) -> list[Any]:
    """Pieces by worker, and by part within one, in the order of parts: part j of worker w is w + j * W of all."""
    parts = len(pieces) // size
    return [pieces[worker * parts + place] for place in range(parts) for worker in range(size)]
