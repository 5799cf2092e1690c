"""Copies of some rows of a table and of their state, where a device can work on them: all that a step does with a table.

Letters: N rows of the table, R rows copied, D width, X stored values, K counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from gcnrec.device import ops_for
from gcnrec.ops.slots import UNIT
from gcnrec.ops.slots import Slots as HostSlots
from gcnrec.queues import Spans
from gcnrec.rows import RowGrad, Rows, State, Ticket


class StagedRows(Protocol):
    """Rows in the order of their numbers; updates change the copies."""

    def read(self, with_state: bool) -> Rows: ...

    def decode(self) -> torch.Tensor:
        """Dense rows as a new tile, float32 (R, D)."""
        ...

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        """The gradient of the stored values, from that of whole rows."""
        ...


class RowSpans(NamedTuple):
    """Where the values of rows lie in one flat memory, and their state in another."""

    weights: Spans
    state: Spans


class Located(Protocol):
    """Where the rows of a table lie, as a device finds them; valid until the table is rebuilt or restored."""

    def spans(self, index_R: torch.Tensor) -> RowSpans:
        """Where rows lie in host memory; `index_R` on the device."""
        ...

    def staged(self, ticket: Ticket, index_R: torch.Tensor, copies: RowSpans, last_N: torch.Tensor) -> StagedRows:
        """Rows whose `spans` were copied to `copies`."""
        ...


class Plane(NamedTuple):
    """Rows of `width` floats, `pitch` floats apart in flat `memory`."""

    memory: torch.Tensor
    pitch: int
    width: int

    def spans(self, index_R: torch.Tensor) -> Spans:
        return Spans(self.memory, index_R * self.pitch, torch.full_like(index_R, self.width))


@dataclass(frozen=True, slots=True)
class LocatedDense:
    """A row's number is its place in both planes."""

    weights: Plane
    state: Plane

    def spans(self, index_R: torch.Tensor) -> RowSpans:
        return RowSpans(self.weights.spans(index_R), self.state.spans(index_R))

    def staged(self, ticket: Ticket, index_R: torch.Tensor, copies: RowSpans, last_N: torch.Tensor) -> StagedDense:
        return StagedDense(ticket, index_R, self.weights.width, *copies, last_N)


@dataclass(frozen=True, slots=True)
class LocatedSlots:
    """The records of `host` as flat float32 `records`, and their state. On the device: locations (int32 bits of a uint32) and
    counts of all rows, and sizes by count."""

    width: int
    host: HostSlots
    slab_bytes: int
    state_slab: int
    records: torch.Tensor
    state: torch.Tensor
    location_N: torch.Tensor
    count_N: torch.Tensor
    record_K: torch.Tensor
    state_K: torch.Tensor
    capacity_K: torch.Tensor

    def spans(self, index_R: torch.Tensor) -> RowSpans:
        count_R = self.count_N[index_R].long()
        start_R, record_R = (self.location_N[index_R].long() & 0xFFFFFFFF) * UNIT, self.record_K[count_R]
        slab_R, place_R = start_R // self.slab_bytes, start_R % self.slab_bytes // record_R.clamp_min(1)
        state_R = self.state_K[count_R]
        state = Spans(self.state, slab_R * self.state_slab + place_R * state_R, state_R)
        return RowSpans(Spans(self.records, start_R // 4, record_R // 4), state)

    def staged(self, ticket: Ticket, index_R: torch.Tensor, copies: RowSpans, last_N: torch.Tensor) -> StagedSlots:
        records, count_R = copies.weights, self.count_N[index_R]
        whole = self.host.values.itemsize == 4
        values, at_R = (records.memory, records.at_R) if whole else (records.memory.view(torch.uint16), records.at_R * 2)
        location_R = (records.at_R // (UNIT // 4)).int()
        slots = ops_for(index_R.device).slots(location_R, count_R, values, records.memory.view(torch.uint8), self.capacity_K)
        num_values = int(self.host.count_N[ticket.rows_R].sum(dtype=int))
        return StagedSlots(ticket, index_R, self.width, slots, values, at_R, count_R.long(), num_values, copies.state, last_N)


@dataclass(frozen=True, slots=True)
class StagedDense:
    """Whole rows, one after the other in `weights` and `state`; `last_N` is that of the table."""

    ticket: Ticket
    index_R: torch.Tensor
    width: int
    weights: Spans
    state: Spans
    last_N: torch.Tensor

    def read(self, with_state: bool) -> Rows:
        state = State(self.state.memory, self.state.at_R, self.last_N) if with_state else None
        return Rows(self.ticket, self.index_R, self.weights.memory, self.weights.at_R, self.weights.length_R, state)

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

    def read(self, with_state: bool) -> Rows:
        state = State(self.state.memory, self.state.at_R, self.last_N) if with_state else None
        return Rows(self.ticket, self.index_R, self.values, self.at_R, self.count_R, state)

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
