"""What travels of rows and of their gradients: whole rows, or what rows store.

| wire | of a row | of its gradient | more |
|---|---|---|---|
| `DenseWire` | 4 D bytes | 4 D bytes | |
| `SlotWire` | its record: 8 to 512 bytes, none where it stores nothing | 4 bytes a stored value | a count of 1 byte a row |

Rows of devices travel by a wire of their own (`staged`).
So bytes of slots fall with the density of their table. Both give rows and gradients the same bits: a gradient is summed cell by
cell, and cells that are not stored are left out before the sum, or behind it.
Letters: W workers, P parts of a worker, R rows of a part, A rows asked of this worker, C rows that come to it, both by worker and
part, U rows of the union of what is asked, D width, K the most values of a row, X stored values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.ops import slots as ops
from gcnrec.ops.gather import move, put
from gcnrec.rows import RowGrad, Rows, Ticket
from gcnrec.tables.dealt.plan import Plan, by_part, in_part_order, joined, planned, split
from gcnrec.tables.dense import DenseTable, StepTable
from gcnrec.tables.slots import SlotTable
from gcnrec.workers.sums import Piece, tree_rows
from gcnrec.workers.world import RowsOf, World

Planned = TypeVar("Planned")
FLOAT_BYTES = 4
"""Of a value of a whole row, of a gradient, and of the floats as which records travel."""
_Piece = TypeVar("_Piece")


class Fetched(Protocol):
    """The rows of a part as they came, until their gradient has gone. They stay as they are when their owners update them."""

    def read(self, ticket: Ticket) -> Rows:
        """The rows, without state."""
        ...

    def decode(self) -> torch.Tensor:
        """The rows as a dense tile, float32 (R, D)."""
        ...

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        """What travels of a gradient of whole rows."""
        ...

    def by_owner(self, grad: RowGrad) -> Sequence[Any]:
        """What each worker gets of a gradient that `stored` made, W pieces, as `Wire.summed` takes them."""
        ...


class Wire(Protocol[Planned]):
    """How rows and gradients travel between workers. All workers call it together; `local` has a worker's own rows."""

    def planned(self, world: World, local: StepTable, rows: Sequence[NDArray[np.int64]]) -> Planned:
        """Who asks whom for the rows of each of this worker's parts, ascending and unique. Owners may begin to read them."""
        ...

    def fetched(self, world: World, local: StepTable, plan: Planned) -> Sequence[Fetched]:
        """The rows of each part of this worker, from their owners."""
        ...

    def summed(self, world: World, local: StepTable, plan: Planned, grads: Sequence[Sequence[Any]]) -> RowGrad:
        """The gradient of this worker's own rows, summed over all parts in one fixed order, as `local.stored` gives it.

        `grads` has what each part of this worker has for each worker (`Fetched.by_owner`).
        """
        ...

    def row_bytes(self, local: StepTable, rows_A: NDArray[np.int64]) -> int:
        """What rows of `local` and their gradients take on their ways."""
        ...


@dataclass(frozen=True, slots=True)
class WholeRows:
    """A tile of the rows of a part. `order_R` groups them by owner, of whom each has so many of `asks_W`."""

    tile_RD: torch.Tensor
    order_R: NDArray[np.int64]
    asks_W: NDArray[np.int64]

    def read(self, ticket: Ticket) -> Rows:
        rows, width = self.tile_RD.shape
        at_R = torch.arange(rows) * width
        return Rows(ticket, torch.from_numpy(ticket.rows_R), self.tile_RD.view(-1), at_R, torch.full((rows,), width), None)

    def decode(self) -> torch.Tensor:
        return self.tile_RD.detach()

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        """All of it: the owners know what they store."""
        rows, width = tile_RD.shape
        return RowGrad(ticket, tile_RD.contiguous().view(-1), torch.arange(rows) * width)

    def by_owner(self, grad: RowGrad) -> Sequence[RowsOf]:
        tile_RD = grad.values_X.view_as(self.tile_RD)
        return [(tile_RD, rows_Q) for rows_Q in split(self.order_R, self.asks_W)]


class OfHosts:
    """What is planned where rows are read in host memory."""

    def planned(self, world: World, local: StepTable, rows: Sequence[NDArray[np.int64]]) -> Plan:
        return planned(world, rows)


class DenseWire(OfHosts):
    """Rows and gradients in whole width."""

    def fetched(self, world: World, local: StepTable, plan: Plan) -> Sequence[WholeRows]:
        rank, parts, plane_ND = world.rank, len(plan.asks_PW), as_dense(local).plane_ND
        asked = [plan.asked[worker * parts : (worker + 1) * parts] for worker in range(world.size)]
        own, asked[rank] = asked[rank], ()  # they do not travel
        sent = [[(plane_ND, rows_Q) for rows_Q in of_parts] for of_parts in asked]
        came = world.borrow(sent, local.width, but_own(plan.ins, rank))
        tiles = [torch.empty(len(order_R), local.width) for order_R in plan.orders]
        places = [split(order_R, asks_W) for order_R, asks_W in zip(plan.orders, plan.asks_PW, strict=True)]
        for worker, rows_CD in enumerate(came):
            for part, piece in enumerate([] if worker == rank else torch.split(rows_CD, plan.asks_PW[:, worker].tolist())):
                put(tiles[part], places[part][worker], piece)  # copy: what came from a worker goes where models read it
        for part, rows_Q in enumerate(own):
            move(plane_ND, rows_Q, tiles[part], places[part][rank])  # copy: rows of this worker
        return [WholeRows(*each) for each in zip(tiles, plan.orders, plan.asks_PW, strict=True)]

    def summed(self, world: World, local: StepTable, plan: Plan, grads: Sequence[Sequence[RowsOf]]) -> RowGrad:
        rank, parts = world.rank, len(grads)
        sent = [[of_part[worker] for of_part in grads] for worker in range(world.size)]
        own, sent[rank] = sent[rank], []  # they do not travel, and are read where they lie
        came = world.borrow(sent, local.width, but_own(plan.outs, rank))
        pieces: list[Piece] = []
        for worker, rows_CD in enumerate(came):
            asked = plan.asked[worker * parts : (worker + 1) * parts]
            if worker == rank:
                pieces += [Piece(rows_A, *rows) for rows_A, rows in zip(asked, own, strict=True)]
            else:
                tiles = torch.split(rows_CD, plan.asked_WP[worker].tolist())
                pieces += [Piece(rows_A, tile) for rows_A, tile in zip(asked, tiles, strict=True)]
        rows_U, tile_UD = tree_rows(in_part_order(pieces, world.size), local.width)
        return local.stored(Ticket(rows_U), tile_UD)

    def row_bytes(self, local: StepTable, rows_A: NDArray[np.int64]) -> int:
        return 2 * FLOAT_BYTES * local.width * len(rows_A)


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The records of the rows of a part.

    `slots` has the records of all parts of this worker, as they came, and of this part those at `place_R`. A gradient lies by
    owner: row r's values begin at `at_R[r]`, and each worker has so many of `values_W`.
    """

    slots: ops.Slots
    width: int
    place_R: NDArray[np.int64]
    at_R: NDArray[np.int64]
    values_W: list[int]

    def read(self, ticket: Ticket) -> Rows:
        values = self.slots.values
        at_R = self.slots.location_N[self.place_R].astype(np.int64) * (ops.UNIT // values.itemsize)
        count_R = self.slots.count_N[self.place_R].astype(np.int64)
        index_R, at, count = map(torch.from_numpy, (ticket.rows_R, at_R, count_R))
        return Rows(ticket, index_R, torch.from_numpy(values), at, count, None)

    def decode(self) -> torch.Tensor:
        out_RD = torch.empty(len(self.place_R), self.width)
        ops.decode(self.slots, self.place_R, out_RD.numpy())
        return out_RD

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        """The gradient of the stored values, by owner."""
        values_X = torch.empty(sum(self.values_W))
        ops.pick(self.slots, self.place_R, tile_RD.contiguous().numpy(), self.at_R, values_X.numpy())
        return RowGrad(ticket, values_X, torch.from_numpy(self.at_R))

    def by_owner(self, grad: RowGrad) -> Sequence[torch.Tensor]:
        return torch.split(grad.values_X, self.values_W)


class SlotWire(OfHosts):
    """Rows as records with their counts, which an exploration may change after rows were announced; gradients as stored values.

    `local` is a `SlotTable`.
    """

    def fetched(self, world: World, local: StepTable, plan: Plan) -> Sequence[StoredRows]:
        table, asked_A = as_slots(local), np.concatenate(plan.asked)
        layout, count_A = table.arena.layout, table.counts_N[asked_A]
        words_K = layout.sizes.record_K // FLOAT_BYTES
        count_C = world.exchange(torch.from_numpy(count_A), plan.outs, plan.ins).numpy()
        words_A, words_C = words_K[count_A], words_K[count_C]
        outs, ins = (_sums(words_A, plan.outs), _sums(words_C, plan.ins))
        came = world.exchange(_records(table, asked_A, words_A), outs, ins).numpy()
        location_C = (_starts(words_C) // (ops.UNIT // FLOAT_BYTES)).astype(np.uint32)
        values = came if table.slots.values.itemsize == FLOAT_BYTES else came.view(np.uint16)
        slots = ops.Slots(location_C, count_C, values, came.view(np.uint8), layout.capacity_K)
        places = by_part(split(np.arange(len(count_C)), plan.asks_PW.T.reshape(-1)), len(plan.asks_PW))
        return [_stored_rows(slots, table.width, own, order_R) for own, order_R in zip(places, plan.orders, strict=True)]

    def summed(self, world: World, local: StepTable, plan: Plan, grads: Sequence[Sequence[torch.Tensor]]) -> RowGrad:
        """Values of a row are summed in the row's own columns, in tiles as wide as the longest row."""
        table, asked_A = as_slots(local), np.concatenate(plan.asked)
        count_A = table.counts_N[asked_A].astype(np.int64)
        values_X = _to_owners(world, grads, _sums(count_A, plan.outs))
        most = int(count_A.max(initial=1))  # a tile has memory, also where no row stores anything
        tile_AK = torch.zeros(len(asked_A), most)
        _copied(values_X, _starts(count_A), tile_AK.view(-1), np.arange(len(asked_A)) * most, count_A)
        tiles = torch.split(tile_AK, plan.asked_WP.reshape(-1).tolist())
        pieces = [Piece(rows_A, tile) for rows_A, tile in zip(plan.asked, tiles, strict=True)]
        rows_U, tile_UK = tree_rows(in_part_order(pieces, world.size), most)
        count_U = table.counts_N[rows_U].astype(np.int64)
        at_U, out_X = _starts(count_U), torch.empty(int(count_U.sum()))
        _copied(tile_UK.view(-1), np.arange(len(rows_U)) * most, out_X, at_U, count_U)
        return RowGrad(Ticket(rows_U), out_X, torch.from_numpy(at_U))

    def row_bytes(self, local: StepTable, rows_A: NDArray[np.int64]) -> int:
        table = as_slots(local)
        count_A = table.counts_N[rows_A]
        records = int(table.arena.layout.sizes.record_K[count_A].sum())
        return len(rows_A) * count_A.itemsize + records + FLOAT_BYTES * int(count_A.sum(dtype=np.int64))


def as_dense(table: object) -> DenseTable:
    """The table as one of whole rows."""
    if not isinstance(table, DenseTable):
        raise TypeError(f"a table of whole rows was expected, came {type(table).__name__}")
    return table


def as_slots(table: object) -> SlotTable:
    """The table as one of slots."""
    if not isinstance(table, SlotTable):
        raise TypeError(f"a table of slots was expected, came {type(table).__name__}")
    return table


def _to_owners(world: World, grads: Sequence[Sequence[torch.Tensor]], ins: Sequence[int]) -> torch.Tensor:
    """What all parts of all workers have for this worker, by worker and part; `grads` by part and worker."""
    outs = [sum(len(pieces[worker]) for pieces in grads) for worker in range(world.size)]
    sent = joined([pieces[worker] for worker in range(world.size) for pieces in grads])
    return world.exchange(sent, outs, ins)


def own_last(pieces: Sequence[_Piece], rank: int, parts: int) -> list[_Piece]:
    """Pieces by worker and part, with those of worker `rank` behind all others."""
    first, end = rank * parts, (rank + 1) * parts
    return [*pieces[:first], *pieces[end:], *pieces[first:end]]


def own_back(pieces: Sequence[_Piece], rank: int, parts: int) -> list[_Piece]:
    """The inverse of `own_last`."""
    others, own, first = pieces[:-parts], pieces[-parts:], rank * parts
    return [*others[:first], *own, *others[first:]]


def but_own(counts_W: Sequence[int], rank: int) -> list[int]:
    """Numbers of rows by worker, 0 for worker `rank`."""
    return [0 if worker == rank else count for worker, count in enumerate(counts_W)]


def _records(table: SlotTable, rows_A: NDArray[np.int64], words_A: NDArray[np.int64]) -> torch.Tensor:
    """Records of rows, one after the other, as float32 whatever they hold; `words_A`: floats of each."""
    out = torch.empty(int(words_A.sum()))
    at_A = table.slots.location_N[rows_A].astype(np.int64) * (ops.UNIT // FLOAT_BYTES)
    ops.copy_spans(table.slots.columns.view(np.float32), at_A, out.numpy(), _starts(words_A), words_A)  # copy: records
    return out


def _stored_rows(slots: ops.Slots, width: int, places: Sequence[NDArray[np.int64]], order_R: NDArray[np.int64]) -> StoredRows:
    """The rows of a part; `places` has where those of each worker came."""
    counts = [slots.count_N[own].astype(np.int64) for own in places]
    place_R, at_R = np.empty_like(order_R), np.empty_like(order_R)
    place_R[order_R] = np.concatenate(places)
    at_R[order_R] = _starts(np.concatenate(counts))
    return StoredRows(slots, width, place_R, at_R, [int(own.sum()) for own in counts])


def _copied(
    source: torch.Tensor, source_at_R: NDArray[np.int64], target: torch.Tensor, target_at_R: NDArray[np.int64],
    length_R: NDArray[np.int64],
) -> None:  # fmt: skip
    ops.copy_spans(source.numpy(), source_at_R, target.numpy(), target_at_R, length_R)  # copy: values of rows


def _starts(lengths_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of so long pieces begins, one after the other."""
    starts_R: NDArray[np.int64] = np.cumsum(lengths_R) - lengths_R
    return starts_R


def _sums(values: NDArray[np.int64], counts: Sequence[int]) -> list[int]:
    """The sums of values by pieces of so many."""
    return [int(piece.sum()) for piece in split(values, counts)]
