"""Copies of some rows of a table and of their state, where a device can work on them: all that a step does with a table.

Letters: N rows of the table, R rows copied, H rows of a cache, D width, X stored values, K counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch

from gcnrec.device import ops_for
from gcnrec.ops.slots import UNIT, Sizes
from gcnrec.ops.slots import Slots as HostSlots
from gcnrec.queues import Pair, Spans
from gcnrec.rows import ALL_NODES, RowGrad, RowNumbers, Rows, State, Ticket

ROW_UNIT = 4
"""Bytes of what `Extent` and spans of rows count in."""


class StagedRows(Protocol):
    """Rows in the order of their numbers; updates change the copies."""

    def read(self, with_state: bool, numbers: RowNumbers = ALL_NODES) -> Rows:
        """The copies. `numbers` is that of their table."""
        ...

    def decode(self) -> torch.Tensor:
        """Dense rows as a new tile, float32 (R, D)."""
        ...

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        """The gradient of the stored values, from that of whole rows."""
        ...


class Extent(NamedTuple):
    """What some rows take: floats of their weights (or records) and of their state, stored values, and the 128-byte lines that
    hold all of it, each row's counted by itself."""

    weights: int
    state: int
    values: int
    lines: int

    @property
    def nbytes(self) -> int:
        return ROW_UNIT * (self.weights + self.state)

    def plus(self, other: Extent) -> Extent:
        return Extent(*(one + another for one, another in zip(self, other, strict=True)))


class RowSpans(NamedTuple):
    """Where the values of rows lie in one flat memory, and their state in another."""

    weights: Spans
    state: Spans

    def part(self, first: int, last: int) -> RowSpans:
        """Rows first .. last-1."""
        return RowSpans(self.weights.part(first, last), self.state.part(first, last))

    def to(self, other: RowSpans) -> tuple[Pair, Pair]:
        """Pairs that copy these rows to `other`."""
        return (self.weights, other.weights), (self.state, other.state)


Planes = Sequence[torch.Tensor]
"""Flat memories of the device for weights and state."""


class Located(Protocol):
    """Where the rows of a table lie, as a device finds them; valid until the table is rebuilt or restored."""

    def spans(self, index_R: torch.Tensor, shift: int = 0) -> RowSpans:
        """Where rows index_R + shift lie in host memory; `index_R` on the device."""
        ...

    def packed(self, rows: RowSpans, memories: Planes) -> RowSpans:
        """Room for rows of such lengths, one after the other in memory of the device."""
        ...

    def cache(self, ranges: Iterable[range], memories: Planes, device: torch.device) -> RowSpans:
        """Room for all rows of `ranges`, one after the other in memory of the device."""
        ...

    def cached(self, cache: RowSpans, index_R: torch.Tensor, shift: int, rows: RowSpans) -> RowSpans:
        """Where rows lie in `cache`, at places index_R + shift; `rows` has their lengths."""
        ...

    def staged(self, ticket: Ticket, index_R: torch.Tensor, copies: RowSpans, last_N: torch.Tensor, values: int) -> StagedRows:
        """Rows whose `spans` were copied to `copies`; `values` are stored of them in all."""
        ...


class Grown:
    """A tensor of which beginnings are used: where it is too short a longer one replaces it. `make` gets a length and a device.

    The first use of a longer one must be ordered before all others, as that of a read is.
    """

    def __init__(self, make: Callable[[int, torch.device], torch.Tensor]) -> None:
        self._make = make
        self._values = torch.empty(0, dtype=torch.int64)

    def first(self, count: int, device: torch.device) -> torch.Tensor:
        if len(self._values) < count:
            self._values = self._make(count + count // 4, device)
        return self._values[:count]


def multiples(step: int) -> Grown:
    """0, step, 2 step, ..., int64."""
    return Grown(lambda count, device: torch.arange(count, device=device) * step)


class Plane(NamedTuple):
    """Rows of `width` floats, `pitch` floats apart in flat `memory`."""

    memory: torch.Tensor
    pitch: int
    width: int


class LocatedDense:
    """A row's number is its place in both planes. What is the same for all batches is made once."""

    def __init__(self, weights: Plane, state: Plane) -> None:
        self._planes = weights, state
        self._at = [multiples(plane.width) for plane in self._planes]
        self._counts = Grown(lambda count, device: torch.full((count,), weights.width, device=device))

    def spans(self, index_R: torch.Tensor, shift: int = 0) -> RowSpans:
        return RowSpans(*(Spans(plane.memory, index_R, plane.width, plane.pitch, shift) for plane in self._planes))

    def packed(self, rows: RowSpans, memories: Planes) -> RowSpans:
        count, device = len(rows.weights), rows.weights.at_R.device
        own = zip(memories, self._at, self._planes, strict=True)
        return RowSpans(*(Spans(memory, at.first(count, device), plane.width) for memory, at, plane in own))

    def cache(self, ranges: Iterable[range], memories: Planes, device: torch.device) -> RowSpans:
        nowhere = torch.empty(0, dtype=torch.int64, device=device)
        own = zip(memories, self._planes, strict=True)
        return RowSpans(*(Spans(memory, nowhere, plane.width, plane.width) for memory, plane in own))

    def cached(self, cache: RowSpans, index_R: torch.Tensor, shift: int, rows: RowSpans) -> RowSpans:
        return RowSpans(*(replace(span, at_R=index_R, shift=shift) for span in cache))

    def staged(self, ticket: Ticket, index_R: torch.Tensor, copies: RowSpans, last_N: torch.Tensor, values: int) -> StagedDense:
        counts_R = self._counts.first(len(index_R), index_R.device)
        weights = replace(copies.weights, length_R=counts_R)
        return StagedDense(ticket, index_R, self._planes[0].width, weights, copies.state, last_N)


@dataclass(frozen=True, slots=True)
class LocatedSlots:
    """The records of `host` as flat float32 `records`, and their state. On the device: locations (int32 bits of a uint32) and
    counts of all rows, and sizes by count, as `sizes` of the host has them."""

    width: int
    host: HostSlots
    sizes: Sizes
    records: torch.Tensor
    state: torch.Tensor
    location_N: torch.Tensor
    count_N: torch.Tensor
    record_K: torch.Tensor
    state_K: torch.Tensor
    state_step_K: torch.Tensor
    capacity_K: torch.Tensor

    def spans(self, index_R: torch.Tensor, shift: int = 0) -> RowSpans:
        index_R, sizes = index_R + shift if shift else index_R, self.sizes
        count_R = self.count_N[index_R].long()
        start_R, record_R = (self.location_N[index_R].long() & 0xFFFFFFFF) * UNIT, self.record_K[count_R]
        slab_R, place_R = start_R // sizes.slab_bytes, start_R % sizes.slab_bytes // record_R.clamp_min(1)
        state_R = index_R * sizes.state_row + slab_R * sizes.state_slab + place_R * self.state_step_K[count_R]
        state = Spans(self.state, state_R, self.state_K[count_R])
        return RowSpans(Spans(self.records, start_R // 4, record_R // 4), state)

    def packed(self, rows: RowSpans, memories: Planes) -> RowSpans:
        return RowSpans(*(span.packed_in(memory) for span, memory in zip(rows, memories, strict=True)))

    def cache(self, ranges: Iterable[range], memories: Planes, device: torch.device) -> RowSpans:
        rows_H = torch.cat([torch.arange(rows.start, rows.stop, device=device) for rows in ranges])
        return self.packed(self.spans(rows_H), memories)

    def cached(self, cache: RowSpans, index_R: torch.Tensor, shift: int, rows: RowSpans) -> RowSpans:
        places_R = index_R + shift
        own = zip(cache, rows, strict=True)
        return RowSpans(*(Spans(span.memory, span.at_R[places_R], row.length_R) for span, row in own))

    def staged(self, ticket: Ticket, index_R: torch.Tensor, copies: RowSpans, last_N: torch.Tensor, values: int) -> StagedSlots:
        records, count_R = copies.weights, self.count_N[index_R]
        whole = self.host.values.itemsize == 4
        memory, at_R = (records.memory, records.at_R) if whole else (records.memory.view(torch.uint16), records.at_R * 2)
        location_R = (records.at_R // (UNIT // 4)).int()
        slots = ops_for(index_R.device).slots(location_R, count_R, memory, records.memory.view(torch.uint8), self.capacity_K)
        return StagedSlots(ticket, index_R, self.width, slots, memory, at_R, count_R.long(), values, copies.state, last_N)


@dataclass(frozen=True, slots=True)
class StagedDense:
    """Whole rows, one after the other in `weights` and `state`; `last_N` is that of the table."""

    ticket: Ticket
    index_R: torch.Tensor
    width: int
    weights: Spans
    state: Spans
    last_N: torch.Tensor

    def read(self, with_state: bool, numbers: RowNumbers = ALL_NODES) -> Rows:
        state = State(self.state.memory, self.state.at_R, self.last_N) if with_state else None
        own = self.weights
        return Rows(self.ticket, self.index_R, own.memory, own.at_R, own.lengths(), state, numbers)

    def decode(self) -> torch.Tensor:
        # copy: an update changes the rows while autograd still holds the tile
        return self.weights.memory.view(len(self.index_R), self.width).clone()

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        return RowGrad(self.ticket, tile_RD.contiguous().view(-1), self.weights.at_R)


@dataclass(frozen=True, slots=True)
class StagedSlots:
    """Records, one after the other, as a small arena: `slots` counts rows from 0. Row r has `count_R[r]` values, which start
    at `values[at_R[r]]`; there are `num_values` in all."""

    ticket: Ticket
    index_R: torch.Tensor
    width: int
    slots: Any
    values: torch.Tensor
    at_R: torch.Tensor
    count_R: torch.Tensor
    num_values: int
    state: Spans
    last_N: torch.Tensor

    def read(self, with_state: bool, numbers: RowNumbers = ALL_NODES) -> Rows:
        state = State(self.state.memory, self.state.at_R, self.last_N) if with_state else None
        return Rows(self.ticket, self.index_R, self.values, self.at_R, self.count_R, state, numbers)

    def decode(self) -> torch.Tensor:
        out_RD = torch.empty(len(self.index_R), self.width, device=self.at_R.device)
        ops_for(out_RD.device).decode(self.slots, self._own_R(), out_RD)
        return out_RD

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        at_R = self.count_R.cumsum(0) - self.count_R
        values_X = torch.empty(self.num_values, device=at_R.device)
        ops_for(at_R.device).pick(self.slots, self._own_R(), tile_RD, at_R, values_X)
        return RowGrad(self.ticket, values_X, at_R)

    def _own_R(self) -> torch.Tensor:
        return torch.arange(len(self.index_R), device=self.at_R.device)
