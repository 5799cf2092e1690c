"""A whole table and its workers' rows n % W = r: how rows and state are dealt out, and come back.

Shares lie in the memory of hosts, where CPUs train them; `staged` puts them behind devices.
Letters: N rows of the table, W workers, X stored values of rows, R rows of a span, M moments, C floats of state of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.rows import RowNumbers
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dealt.spans import Span, bring, cut_at, cuts_of, fetched, give, numbers_of, row_spans, sizes_of, taken
from gcnrec.tables.dealt.wire import DenseWire, SlotWire, Wire, as_dense, as_slots
from gcnrec.tables.dense import Allocate, DenseTable, StepTable, in_ram
from gcnrec.tables.pipelined import HostTable
from gcnrec.tables.slots import SlotTable
from gcnrec.workers.world import World


class Shards(Protocol):
    """The rows of workers. All workers call `dealt` and `collected` together; `host` is the leader's whole table."""

    @property
    def num_rows(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def device(self) -> torch.device:
        """Where steps work on rows."""
        ...

    def whole(self, host: HostTable) -> StepTable:
        """The share of a worker without others."""
        ...

    def empty(self) -> StepTable:
        """A table without rows, until some are dealt out."""
        ...

    def dealt(self, world: World, host: HostTable | None) -> StepTable:
        """This worker's rows as a table of their own."""
        ...

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        """Write all workers' rows into the leader's table."""
        ...

    def close(self, local: StepTable) -> None:
        """Give back what a device holds of a share, which is not used any more."""
        ...


class RowShards(Shards, Protocol):
    """Shares of whole rows."""

    @property
    def wire(self) -> Wire[Any]:
        """How rows and their gradients travel in a step."""
        ...


class OnHost:
    """What is the same for all shares that CPUs train."""

    device = torch.device("cpu")

    def whole(self, host: HostTable) -> StepTable:
        """The leader's table itself."""
        return host

    def close(self, local: StepTable) -> None:
        """No device holds anything."""


@dataclass(frozen=True)
class DenseShards(OnHost):
    """Rows of `width` values and `state_width` floats of state, in memory of `allocate`."""

    wire = DenseWire()

    num_rows: int
    width: int
    state_width: int
    allocate: Allocate = in_ram

    def empty(self) -> DenseTable:
        return DenseTable(torch.empty(0, self.width), self.state_width)

    def dealt(self, world: World, host: HostTable | None) -> DenseTable:
        start = torch.zeros(1, 1).expand(_own_rows(world, self.num_rows), self.width)
        table = DenseTable(start, self.state_width, self.allocate, RowNumbers(world.size, world.rank))
        whole = {} if host is None else as_dense(host).tensors()
        for name, mine in table.tensors().items():
            _deal(world, self.num_rows, whole.get(name), mine)
        return table

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        whole = {} if host is None else as_dense(host).tensors()
        for name, mine in as_dense(local).tensors().items():
            _collect(world, self.num_rows, mine, whole.get(name))


@dataclass(frozen=True)
class SlotShards(OnHost):
    """Rows of up to `width` stored values of `dtype`, with `moments` floats of state a value and `scalars` a row, in memory of
    `allocate`."""

    wire = SlotWire()

    num_rows: int
    width: int
    moments: int
    scalars: int
    dtype: str
    allocate: Allocate = in_ram

    def empty(self) -> SlotTable:
        return self._table(0, 1, RowNumbers())

    def dealt(self, world: World, host: HostTable | None) -> SlotTable:
        whole, counts = None if host is None else as_slots(host), torch.empty(_own_rows(world, self.num_rows), dtype=torch.uint8)
        _deal(world, self.num_rows, None if whole is None else torch.from_numpy(whole.counts_N), counts)
        table = self._table(len(counts), max(1, int(counts.sum())), RowNumbers(world.size, world.rank))
        with table.rebuild() as rebuild:
            for span in self._spans(world, whole):
                own = span[world.rank]
                block = self._room(own.start, counts[own].numpy().astype(np.int64))
                if whole is None:
                    _take_block(world, block)
                else:
                    _give_block(world, whole.unpack(*numbers_of(span)), block)
                rebuild.write(block)
        if self.moments:
            _deal(world, self.num_rows, None if whole is None else whole.last_N, table.last_N)
        return table

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        """Columns stay: which of them a row stores changes in the leader's table alone, which is then dealt out anew."""
        mine, whole = as_slots(local), None if host is None else as_slots(host)
        for span in self._spans(world, whole):
            own = mine.unpack(span[world.rank].start, span[world.rank].stop)
            if whole is None:
                _bring_block(world, own)
            else:
                block = whole.unpack(*numbers_of(span))
                _fetch_block(world, own, block)
                whole.arena.overwrite(block)
        if self.moments:
            _collect(world, self.num_rows, mine.last_N, None if whole is None else whole.last_N)

    def _table(self, rows: int, values: int, numbers: RowNumbers) -> SlotTable:
        return SlotTable(rows, self.width, values, (self.moments, self.scalars), self.dtype, self.allocate, numbers)

    def _spans(self, world: World, whole: SlotTable | None) -> list[Span]:
        """Cut by what rows store, which the leader knows of all: the popular ones store more."""
        cuts = torch.empty(0, dtype=torch.int64)
        if whole is not None:
            places = np.arange(0, self.num_rows, world.size)
            values_P = np.add.reduceat(whole.counts_N, places, dtype=np.int64)
            cuts = torch.from_numpy(cuts_of((5 + 4 * self.moments) * values_P + 4 * self.scalars * world.size))
        length = world.counts([len(cuts)] * world.size)[0]
        if whole is None:
            cuts = taken(world, cuts, length)
        else:
            give(world, [cuts] * (world.size - 1), [length] * world.size)
        return cut_at(world, self.num_rows, cuts.tolist())

    def _room(self, first: int, counts_R: NDArray[np.int64]) -> SlotBlock:
        """Room for rows first, first + 1, ... of a worker."""
        values = int(counts_R.sum())
        return SlotBlock(
            first, counts_R, np.empty(values, np.uint8), np.empty(values, np.float32),
            np.empty((self.moments, values), np.float32), np.empty((len(counts_R), self.scalars), np.float32),
        )  # fmt: skip


def _own_rows(world: World, num_rows: int) -> int:
    return len(range(world.rank, num_rows, world.size))


def _deal(world: World, num_rows: int, whole: torch.Tensor | None, mine: torch.Tensor) -> None:
    """Fill this worker's rows `mine` of a plane from the leader's, which followers lack."""
    for span in row_spans(world, num_rows, mine):
        own, sizes = span[world.rank], sizes_of(span)
        if whole is None:
            mine[own] = taken(world, mine, sizes[world.rank])  # copy: into the share
        else:
            mine[own] = whole[:: world.size][own]  # copy: into the share
            give(world, [whole[worker :: world.size][span[worker]] for worker in range(1, world.size)], sizes)


def _collect(world: World, num_rows: int, mine: torch.Tensor, whole: torch.Tensor | None) -> None:
    """Fill the leader's plane from all workers' rows of it."""
    for span in row_spans(world, num_rows, mine):
        own = mine[span[world.rank]]
        if whole is None:
            bring(world, own)
        else:
            for worker, rows in enumerate(fetched(world, own, sizes_of(span))):
                whole[worker :: world.size][span[worker]] = rows  # copy: into the whole table


def _give_block(world: World, block: SlotBlock, own: SlotBlock) -> None:
    """Send each worker its rows of the leader's `block`; fill `own` with the leader's."""
    for plane, mine, orders in zip(_planes(block), _planes(own), _orders(block, world.size), strict=True):
        mine.copy_(plane[orders[0]])  # copy: into the block
        give(world, [plane[order] for order in orders[1:]], [len(order) for order in orders])  # copy: a span


def _take_block(world: World, own: SlotBlock) -> None:
    """Fill `own` with what `_give_block` sends this worker."""
    for mine in _planes(own):
        mine.copy_(taken(world, mine, len(mine)))  # copy: into the block


def _bring_block(world: World, own: SlotBlock) -> None:
    """Send the leader this worker's rows; it knows the columns."""
    for mine in _planes(own)[1:]:
        bring(world, mine)


def _fetch_block(world: World, own: SlotBlock, block: SlotBlock) -> None:
    """Fill the leader's `block` with what `_bring_block` sends, and with its `own` rows."""
    for plane, mine, orders in list(zip(_planes(block), _planes(own), _orders(block, world.size), strict=True))[1:]:
        for order, came in zip(orders, fetched(world, mine, [len(order) for order in orders]), strict=True):
            plane[order] = came  # copy: into the block


def _planes(block: SlotBlock) -> tuple[torch.Tensor, ...]:
    """Views by stored value, but the last by row: columns (X), values (X), moments (X, M), scalars (R, C)."""
    by_value = (block.columns_X, block.values_X, block.moments_MX.T, block.scalars_RC)
    return tuple(torch.from_numpy(plane) for plane in by_value)


def _orders(block: SlotBlock, size: int) -> list[list[torch.Tensor]]:
    """For each of `_planes`: what each worker has of it, by places. The block begins with a row of worker 0."""
    values, rows = [], [np.arange(worker, len(block.counts_R), size) for worker in range(size)]
    for rows_Q in rows:
        starts_Q, counts_Q = block.starts_R[rows_Q], block.counts_R[rows_Q]
        shifts_Q = starts_Q - (np.cumsum(counts_Q) - counts_Q)
        values.append(torch.from_numpy(np.repeat(shifts_Q, counts_Q) + np.arange(counts_Q.sum())))
    return [values, values, values, [torch.from_numpy(rows_Q) for rows_Q in rows]]
