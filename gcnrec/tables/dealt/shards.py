"""A whole table and its workers' rows n % W = r: how rows and state are dealt out, and come back.

Rows travel in spans: the same places of all workers' tables, which are neighbours in the whole table. So the leader needs memory
for its table, its own rows and a span; its own rows do not travel.
Letters: N rows of the table, W workers, X stored values of rows, R rows of a span, M moments, C floats of state of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.rows import RowNumbers
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dealt.wire import DenseWire, SlotWire, Wire, as_slots
from gcnrec.tables.dense import DenseTable, StepTable
from gcnrec.tables.pipelined import HostTable
from gcnrec.tables.slots import SlotTable
from gcnrec.workers.world import World

SPAN_BYTES = 1 << 25
"""Of the rows of a span, and at most a row of each worker more."""
Span = list[slice]
"""A worker's rows, by their places in its own table, for each worker."""


class Shards(Protocol):
    """The rows of workers. All workers call `dealt` and `collected` together; `host` is the leader's whole table."""

    @property
    def num_rows(self) -> int: ...

    @property
    def width(self) -> int: ...

    def empty(self) -> StepTable:
        """A table without rows, until some are dealt out."""
        ...

    def dealt(self, world: World, host: HostTable | None) -> StepTable:
        """This worker's rows as a table of their own."""
        ...

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        """Write all workers' rows into the leader's table."""
        ...


class RowShards(Shards, Protocol):
    """Shares of whole rows."""

    @property
    def wire(self) -> Wire:
        """How rows and their gradients travel in a step."""
        ...


@dataclass(frozen=True)
class DenseShards:
    """Rows of `width` values and `state_width` floats of state."""

    wire = DenseWire()

    num_rows: int
    width: int
    state_width: int

    def empty(self) -> DenseTable:
        return DenseTable(torch.empty(0, self.width), self.state_width)

    def dealt(self, world: World, host: HostTable | None) -> DenseTable:
        start = torch.zeros(1, 1).expand(_own_rows(world, self.num_rows), self.width)
        table = DenseTable(start, self.state_width, numbers=RowNumbers(world.size, world.rank))
        whole = {} if host is None else as_dense(host).tensors()
        for name, mine in table.tensors().items():
            _deal(world, self.num_rows, whole.get(name), mine)
        return table

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        whole = {} if host is None else as_dense(host).tensors()
        for name, mine in as_dense(local).tensors().items():
            _collect(world, self.num_rows, mine, whole.get(name))


@dataclass(frozen=True)
class SlotShards:
    """Rows of up to `width` stored values of `dtype`, with `moments` floats of state a value and `scalars` a row."""

    wire = SlotWire()

    num_rows: int
    width: int
    moments: int
    scalars: int
    dtype: str

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
                    _take(world, block)
                else:
                    _give(world, whole.unpack(*_numbers(span)), block)
                rebuild.write(block)
        _deal(world, self.num_rows, None if whole is None else whole.last_N, table.last_N)
        return table

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        """Columns stay: which of them a row stores changes in the leader's table alone, which is then dealt out anew."""
        mine, whole = as_slots(local), None if host is None else as_slots(host)
        for span in self._spans(world, whole):
            own = mine.unpack(span[world.rank].start, span[world.rank].stop)
            if whole is None:
                _bring(world, own)
            else:
                block = whole.unpack(*_numbers(span))
                _fetch(world, own, block)
                whole.arena.overwrite(block)
        _collect(world, self.num_rows, mine.last_N, None if whole is None else whole.last_N)

    def _table(self, rows: int, values: int, numbers: RowNumbers) -> SlotTable:
        return SlotTable(rows, self.width, values, (self.moments, self.scalars), self.dtype, numbers=numbers)

    def _spans(self, world: World, whole: SlotTable | None) -> list[Span]:
        """Cut by what rows store, which the leader knows of all: the popular ones store more."""
        cuts = torch.empty(0, dtype=torch.int64)
        if whole is not None:
            starts = np.arange(0, self.num_rows, world.size)  # of the rows in one place of all workers' tables
            values = np.add.reduceat(whole.counts_N, starts, dtype=np.int64) if len(starts) else starts
            held = np.cumsum((5 + 4 * self.moments) * values + 4 * self.scalars * world.size)
            cuts = torch.from_numpy(np.flatnonzero(np.diff(held // SPAN_BYTES)) + 1)
        length = world.counts([len(cuts)] * world.size)[0]
        if whole is None:
            cuts = _taken(world, torch.empty(length, dtype=torch.int64))
        else:
            _given(world, cuts.repeat(world.size - 1), [length] * world.size)
        return _cut(world, self.num_rows, cuts.tolist())

    def _room(self, first: int, counts_R: NDArray[np.int64]) -> SlotBlock:
        """Room for rows first, first + 1, ... of a worker."""
        values = int(counts_R.sum())
        return SlotBlock(
            first, counts_R, np.empty(values, np.uint8), np.empty(values, np.float32),
            np.empty((self.moments, values), np.float32), np.empty((len(counts_R), self.scalars), np.float32),
        )  # fmt: skip


def _own_rows(world: World, num_rows: int) -> int:
    return len(range(world.rank, num_rows, world.size))


def _spans(world: World, num_rows: int, plane: torch.Tensor) -> list[Span]:
    """For rows of `plane`, which are all of one size."""
    row_bytes = plane.element_size() * prod(plane.shape[1:])
    step = max(1, SPAN_BYTES // (world.size * max(1, row_bytes)))
    return _cut(world, num_rows, range(step, -(-num_rows // world.size), step))


def _cut(world: World, num_rows: int, cuts: Iterable[int]) -> list[Span]:
    """All rows, cut at these places of the workers' tables, which ascend."""
    rows = [len(range(worker, num_rows, world.size)) for worker in range(world.size)]
    return [[slice(first, min(end, last)) for last in rows] for first, end in pairwise([0, *cuts, rows[0]])]


def _numbers(span: Span) -> tuple[int, int]:
    """First and end of a span's rows in the whole table."""
    first = span[0].start * len(span)
    return first, first + sum(_lengths(span))


def _lengths(span: Span) -> list[int]:
    return [each.stop - each.start for each in span]


def _deal(world: World, num_rows: int, whole: torch.Tensor | None, mine: torch.Tensor) -> None:
    """Fill this worker's rows `mine` of a plane from the leader's, which followers lack."""
    for span in _spans(world, num_rows, mine):
        own = span[world.rank]
        if whole is None:
            mine[own] = _taken(world, mine[own])
        else:
            mine[own] = whole[:: world.size][own]  # copy: the leader's rows
            others = [whole[worker :: world.size][span[worker]] for worker in range(1, world.size)]
            _given(world, torch.cat(others), _lengths(span))  # copy: a span


def _collect(world: World, num_rows: int, mine: torch.Tensor, whole: torch.Tensor | None) -> None:
    """Fill the leader's plane from all workers' rows of it."""
    for span in _spans(world, num_rows, mine):
        own = mine[span[world.rank]]
        if whole is None:
            _brought(world, own)
            continue
        came = torch.split(_fetched(world, own, _lengths(span)), _lengths(span)[1:])
        for worker, rows in enumerate([own, *came]):
            whole[worker :: world.size][span[worker]] = rows  # copy: into the whole table


def _give(world: World, block: SlotBlock, own: SlotBlock) -> None:
    """Send each worker its rows of the leader's `block`; fill `own` with the leader's."""
    for plane, mine, (order, lengths) in zip(_planes(block), _planes(own), _orders(block, world.size), strict=True):
        mine.copy_(plane[order[: lengths[0]]])  # copy: the leader's rows
        _given(world, plane[order[lengths[0] :]], lengths)  # copy: a span


def _take(world: World, own: SlotBlock) -> None:
    """Fill `own` with what `_give` sends this worker."""
    for mine in _planes(own):
        mine.copy_(_taken(world, mine))  # copy: into the block


def _bring(world: World, own: SlotBlock) -> None:
    """Send the leader this worker's rows; it knows the columns."""
    for mine in _planes(own)[1:]:
        _brought(world, mine)


def _fetch(world: World, own: SlotBlock, block: SlotBlock) -> None:
    """Fill the leader's `block` with what `_bring` sends, and with its `own` rows."""
    for plane, mine, (order, lengths) in list(zip(_planes(block), _planes(own), _orders(block, world.size), strict=True))[1:]:
        plane[order[: lengths[0]]] = mine  # copy: the leader's rows
        plane[order[lengths[0] :]] = _fetched(world, mine, lengths)  # copy: into the block


def _planes(block: SlotBlock) -> tuple[torch.Tensor, ...]:
    """Views by stored value, but the last by row: columns (X), values (X), moments (X, M), scalars (R, C)."""
    by_value = (block.columns_X, block.values_X, block.moments_MX.T, block.scalars_RC)
    return tuple(torch.from_numpy(plane) for plane in by_value)


def _orders(block: SlotBlock, size: int) -> list[tuple[torch.Tensor, list[int]]]:
    """For each of `_planes`: the order by worker, and how many each worker has. The block begins with a row of worker 0."""
    rows = [np.arange(worker, len(block.counts_R), size) for worker in range(size)]
    rows_R, starts_R, counts_R = np.concatenate(rows), block.starts_R, block.counts_R
    shifts_R = starts_R[rows_R] - (np.cumsum(counts_R[rows_R]) - counts_R[rows_R])
    values_X = np.repeat(shifts_R, counts_R[rows_R]) + np.arange(counts_R.sum())
    by_value = torch.from_numpy(values_X), [int(counts_R[each].sum()) for each in rows]
    return [by_value, by_value, by_value, (torch.from_numpy(rows_R), [len(each) for each in rows])]


def _given(world: World, rows: torch.Tensor, lengths: Sequence[int]) -> None:
    """The leader sends the other workers rows, in their order; `lengths` of all workers' rows."""
    world.exchange(rows, [0, *lengths[1:]], [0] * world.size)


def _taken(world: World, form: torch.Tensor) -> torch.Tensor:
    """What the leader gives this worker; of the shape and dtype of `form`."""
    return world.exchange(form[:0], [0] * world.size, [len(form)] + [0] * (world.size - 1))


def _brought(world: World, rows: torch.Tensor) -> None:
    """Send the leader this worker's rows."""
    world.exchange(rows, [len(rows)] + [0] * (world.size - 1), [0] * world.size)


def _fetched(world: World, own: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """The leader gets the other workers' rows, in their order; `lengths` of all workers' rows, such as its `own`."""
    return world.exchange(own[:0], [0] * world.size, [0, *lengths[1:]])


def from_leader(
    world: World, whole: torch.Tensor | None, form: torch.Tensor, sizes: Sequence[int], own: int | None = None
) -> torch.Tensor:
    """The leader's rows, so many to each worker in turn; `form` has the shape and dtype of none of them."""
    outs = [0] * world.size if whole is None else list(sizes)
    ins = [sizes[world.rank] if own is None else own] + [0] * (world.size - 1)
    return world.exchange(form if whole is None else whole, outs, ins)


def to_leader(world: World, own: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """All workers' rows, in their order, on the leader; none elsewhere."""
    outs = [len(own)] + [0] * (world.size - 1)
    return world.exchange(own, outs, list(sizes) if world.rank == 0 else [0] * world.size)


def as_dense(table: object) -> DenseTable:
    """The table as what `DenseShards` makes."""
    if not isinstance(table, DenseTable):
        raise TypeError(f"a table of whole rows was expected, came {type(table).__name__}")
    return table
