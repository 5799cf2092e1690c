"""A table whose rows are dealt out to workers: row n belongs to worker n % W, which alone reads, updates and keeps it.

    announce   ids of the rows that a worker's parts read go to their owners, one batch ahead
    fetch      owners answer with rows
    pushed     gradients of rows go to their owners, which sum them over all parts in one fixed tree

Letters: N rows of the table, S parts, W workers, P parts of a worker, R rows of a part, A rows asked of this worker, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.rows import RowGrad, Rows, Ticket
from gcnrec.tables.dealt.plan import in_part_order, split
from gcnrec.tables.dealt.shards import RowShards
from gcnrec.tables.dealt.table import DealtTable
from gcnrec.tables.dealt.wire import Fetched
from gcnrec.tables.pipelined import HostTable
from gcnrec.workers.sums import Piece, tree_rows
from gcnrec.workers.world import World


class ExchangedTable(DealtTable):
    """A `StepTable` whose tickets are announced for all parts of a worker at once.

    All workers call `announce`, `fetch` and `pushed` in the same order. Without `reads_rows` no row is ever read.
    """

    def __init__(self, world: World, shards: RowShards, host: HostTable | None, reads_rows: bool = True) -> None:
        super().__init__(world, shards, host)
        self.reads_rows, self._wire = reads_rows, shards.wire
        self._plans: dict[Ticket, Any] = {}
        self._fetched: dict[Ticket, Fetched] = {}

    @property
    def width(self) -> int:
        return self._shards.width

    def announcing(self) -> AbstractContextManager[Any]:
        return self.local.announcing()

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        """The ticket of a worker's only part."""
        return self.announce([rows_R])[0]

    def announce(self, rows: Sequence[NDArray[np.int64]]) -> list[Ticket]:
        """Announce the rows of each of this worker's parts, ascending and unique: their owners learn what to send."""
        tickets = [Ticket(rows_R) for rows_R in rows]
        if not self.reads_rows:
            return tickets
        self._plans |= dict.fromkeys(tickets, self._wire.planned(self._world, self.local, rows))
        return tickets

    def num_asked(self, tickets: Sequence[Ticket]) -> int:
        """How many rows all workers' parts ask for in a batch, from the tickets that this one announced together."""
        if self.reads_rows:
            return self._plans[tickets[0]].num_rows
        own = sum(len(ticket.rows_R) for ticket in tickets)
        return sum(self._world.counts([own] * self._world.size))

    def fetch(self, tickets: Sequence[Ticket]) -> None:
        """Bring the rows of a batch's tickets, all that were announced together."""
        if not self.reads_rows:
            return
        plan = self._plans[tickets[0]]
        self._fetched |= zip(tickets, self._wire.fetched(self._world, self.local, plan), strict=True)

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        """The rows of a fetched ticket, without state."""
        return self._fetched[ticket].read(ticket)

    def decode(self, rows: Rows) -> torch.Tensor:
        return self._fetched[rows.ticket].decode()

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        """What goes to the owners of the gradient of whole rows."""
        return self._fetched[ticket].stored(ticket, tile_RD)

    def pushed(self, tickets: Sequence[Ticket], grads: Sequence[RowGrad]) -> RowGrad:
        """The gradient of this worker's own rows, summed over all parts; `grads` are of the parts of this worker."""
        if not self.reads_rows:
            return self.local.stored(Ticket(np.empty(0, np.int64)), torch.empty(0, self.width, device=self.device))
        plan = self._plans[tickets[0]]
        sent = [self._fetched[ticket].by_owner(grad) for ticket, grad in zip(tickets, grads, strict=True)]
        self._forget(tickets)
        return self._wire.summed(self._world, self.local, plan, sent)

    def whole(self, tickets: Sequence[Ticket], tiles: Sequence[torch.Tensor]) -> tuple[NDArray[np.int64], torch.Tensor]:
        """On the leader: the sum of the parts' tiles and its rows, by their numbers in the whole table. Nothing on followers."""
        size, numbers = self._world.size, [torch.from_numpy(ticket.rows_R) for ticket in tickets]
        self._forget(tickets)
        counts = torch.tensor([len(rows_R) for rows_R in numbers])
        lengths = self._to_leader(counts, [len(counts)] * size)
        ins = lengths.view(-1, len(counts)).sum(1).tolist() if len(lengths) else [0] * size
        rows, came = self._to_leader(torch.cat(numbers), ins), self._to_leader(torch.cat(list(tiles)), ins)
        if self._world.rank:
            return np.empty(0, np.int64), came
        ends = lengths.tolist()
        pieces = [Piece(*piece) for piece in zip(split(rows.numpy(), ends), torch.split(came, ends), strict=True)]
        return tree_rows(in_part_order(pieces, size), self.width)

    def bytes_of(self, rows_R: NDArray[np.int64]) -> int:
        """What rows of other workers and their gradients take on their ways, as this worker guesses.

        It counts its own rows at the same places: they have about the same degrees, and with them numbers of stored values.
        """
        return self._wire.row_bytes(self.local, np.minimum(rows_R // self._world.size, self.local.num_rows - 1))

    def _forget(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._plans.pop(ticket, None)
            self._fetched.pop(ticket, None)

    def _to_leader(self, sent: torch.Tensor, ins: Sequence[int]) -> torch.Tensor:
        size = self._world.size
        outs = [len(sent)] + [0] * (size - 1)
        return self._world.exchange(sent, outs, list(ins) if self._world.rank == 0 else [0] * size)
