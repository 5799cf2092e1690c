"""Shares behind devices: workers whose rows a device reads and updates, copies of which travel in whole width.

    planned    ids go to owners a batch ahead; each uploads what it needs of the plan, and begins to read the rows that are asked
    fetched    owners answer out of their copies of these rows, each of which was read once
    summed     gradients come to owners, which sum them on their devices and update the same copies

A sparse row travels as a row of zeros and values: devices are connected by links that are faster than the memory of hosts.
Letters: W workers, P parts of a worker, R rows of a part, A rows asked of this worker, C rows that come to it, both by worker and
part, U rows of the union of what is asked, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Ops, ops_for, uploaded
from gcnrec.ops.reduce import entries_of
from gcnrec.rows import Entries, RowGrad, Rows, Ticket
from gcnrec.tables.dealt.plan import Plan, by_part, in_part_order, joined, planned, split
from gcnrec.tables.dealt.shards import DenseShards, SlotShards
from gcnrec.tables.dealt.wire import FLOAT_BYTES, but_own, own_back, own_last
from gcnrec.tables.dense import StepTable
from gcnrec.tables.pipelined import HostTable, PipelinedTable
from gcnrec.tables.unread import UnreadTable
from gcnrec.workers.world import World


class PartPlaces(NamedTuple):
    """Of the rows of a part, int64 (R), on the device: their numbers, their order by owner, the places where they come."""

    index_R: torch.Tensor
    order_R: torch.Tensor
    place_R: torch.Tensor


@dataclass(frozen=True, slots=True)
class StagedPlan:
    """A plan, and what kernels take of it. `ticket` reads the union of the rows that are asked of this worker.

    Entries are of what is asked, first by others: to which row of the union each belongs, and in the order of parts.
    """

    plan: Plan
    ticket: Ticket
    entries: Entries[torch.Tensor]
    parts: tuple[PartPlaces, ...]

    @property
    def num_rows(self) -> int:
        return self.plan.num_rows


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """A tile of the rows of a part. Grouped by owner, each worker has so many of `asks_W`."""

    tile_RD: torch.Tensor
    places: PartPlaces
    asks_W: list[int]

    def read(self, ticket: Ticket) -> Rows:
        rows, width = self.tile_RD.shape
        at_R, count_R = self._starts(), torch.full((rows,), width, device=self.tile_RD.device)
        return Rows(ticket, self.places.index_R, self.tile_RD.view(-1), at_R, count_R, None)

    def decode(self) -> torch.Tensor:
        return self.tile_RD.detach()

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        """All of it: the owners know what they store."""
        return RowGrad(ticket, tile_RD.contiguous().view(-1), self._starts())

    def by_owner(self, grad: RowGrad) -> Sequence[torch.Tensor]:
        grad_RD = grad.values_X.view_as(self.tile_RD)
        return torch.split(_ops(grad_RD).gather(grad_RD, self.places.order_R), self.asks_W)  # copy: in one piece for an owner

    def _starts(self) -> torch.Tensor:
        rows, width = self.tile_RD.shape
        return torch.arange(rows, device=self.tile_RD.device) * width


class StagedWire:
    """Rows and gradients in whole width between devices; `local` is a `PipelinedTable` of rows or of slots.

    A worker's own rows go to nobody. Gradients of a row are added in the order of parts, so that sums have the same bits for each
    number of workers.
    """

    def planned(self, world: World, local: StepTable, rows: Sequence[NDArray[np.int64]]) -> StagedPlan:
        plan = planned(world, rows)
        rows_U, entries = _asked(plan, world.rank, world.size)
        own = zip(rows, plan.orders, _places(plan, world.rank), strict=True)
        index_U, on_device, parts = uploaded((rows_U, entries, tuple(own)), ops_for(local.device))
        ticket = local.prefetch(rows_U, index_U)
        return StagedPlan(plan, ticket, on_device, tuple(PartPlaces(*part) for part in parts))

    def fetched(self, world: World, local: StepTable, plan: StagedPlan) -> Sequence[DeviceRows]:
        rank, outs, ins = world.rank, plan.plan.outs, plan.plan.ins
        tile_UD = local.decode(local.read(plan.ticket, with_state=False))
        ops = _ops(tile_UD)
        tile_AD = ops.gather(tile_UD, plan.entries.index_B)  # copy: a row for each part that asks for it
        others = len(tile_AD) - outs[rank]
        came_CD = joined([world.exchange(tile_AD[:others], but_own(outs, rank), but_own(ins, rank)), tile_AD[others:]])
        tiles = [ops.gather(came_CD, part.place_R) for part in plan.parts]  # copy: to where models read rows
        own = zip(tiles, plan.parts, plan.plan.asks_PW.tolist(), strict=True)
        return [DeviceRows(tile_RD, part, asks_W) for tile_RD, part, asks_W in own]

    def summed(self, world: World, local: StepTable, plan: StagedPlan, grads: Sequence[Sequence[torch.Tensor]]) -> RowGrad:
        rank, parts, outs, ins = world.rank, len(grads), plan.plan.outs, plan.plan.ins
        pieces = own_last([of_part[worker] for worker in range(world.size) for of_part in grads], rank, parts)
        sent = joined(pieces[:-parts] or [pieces[0][:0]])
        tile_AD = joined([world.exchange(sent, but_own(ins, rank), but_own(outs, rank)), *pieces[-parts:]])
        return local.stored(plan.ticket, _ops(tile_AD).reduce_rows(plan.entries, tile_AD))

    def row_bytes(self, local: StepTable, rows_A: NDArray[np.int64]) -> int:
        return 2 * FLOAT_BYTES * local.width * len(rows_A)


@dataclass(frozen=True)
class StagedShards:
    """`shares` behind `device`: `behind` puts a share into the reach of its queues."""

    wire = StagedWire()

    shares: DenseShards | SlotShards
    device: torch.device
    behind: Callable[[HostTable], StepTable]

    @property
    def num_rows(self) -> int:
        return self.shares.num_rows

    @property
    def width(self) -> int:
        return self.shares.width

    def whole(self, host: HostTable) -> StepTable:
        return self.behind(host)

    def empty(self) -> StepTable:
        """In host memory: there is nothing to read."""
        return self.shares.empty()

    def dealt(self, world: World, host: HostTable | None) -> StepTable:
        return self.behind(self.shares.dealt(world, host))

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        self.shares.collected(world, local.drained(), host)

    def close(self, local: StepTable) -> None:
        if isinstance(local, (PipelinedTable, UnreadTable)):
            local.close()


def _asked(plan: Plan, rank: int, size: int) -> tuple[NDArray[np.int64], Entries[NDArray[np.int64]]]:
    """The rows that are asked of this worker, ascending and unique (U), and their entries, of its own parts behind all others.

    The entries of a row are in the order of parts.
    """
    parts, asked = len(plan.asks_PW), own_last(plan.asked, rank, len(plan.asks_PW))
    rows_A = np.concatenate(asked)
    sorted_A = np.sort(rows_A, kind="stable")  # merges pieces, which ascend
    is_first_A = np.ones(len(sorted_A), bool)
    np.not_equal(sorted_A[1:], sorted_A[:-1], out=is_first_A[1:])
    rows_U = sorted_A[is_first_A]
    at_A = np.searchsorted(rows_U, rows_A)
    pieces = own_back(split(np.arange(len(rows_A)), [len(piece) for piece in asked]), rank, parts)
    order_A = np.concatenate(in_part_order(pieces, size))
    entries = entries_of(at_A[order_A], len(rows_U))
    return rows_U, Entries(at_A, order_A[entries.order_B], entries.start_R1)


def _places(plan: Plan, rank: int) -> list[NDArray[np.int64]]:
    """Where the rows of each part come, int64 (R): by worker and part, rows of worker `rank` behind all others."""
    parts = len(plan.asks_PW)
    lengths = own_last(plan.asks_PW.T.reshape(-1).tolist(), rank, parts)
    pieces = by_part(own_back(split(np.arange(sum(lengths)), lengths), rank, parts), parts)
    places = []
    for order_R, of_part in zip(plan.orders, pieces, strict=True):
        place_R = np.empty_like(order_R)
        place_R[order_R] = np.concatenate(of_part)
        places.append(place_R)
    return places


def _ops(tile: torch.Tensor) -> Ops:
    return ops_for(tile.device)
