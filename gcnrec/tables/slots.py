"""Slot tables: rows that store some of their columns, and never more values in all than the budget allows.

Records and state lie in an `Arena`. Rows change their columns only in `rebuild`.

Letters: N rows, R rows read, X their stored values, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.graph import Csr
from gcnrec.ops import slots as ops
from gcnrec.queues import Device
from gcnrec.rows import ALL_NODES, RowGrad, RowNumbers, Rows, State, Ticket
from gcnrec.storage.tensors import Pieces, Saved, whole
from gcnrec.tables.arena import RECORD_BYTES, Arena, Rebuild, SlotBlock
from gcnrec.tables.dense import EVERY_ROW, Allocate, in_ram
from gcnrec.tables.staged import Extent, LocatedSlots

MAX_COLUMNS = 256
"""Column numbers are one byte."""
_BLOCK_ROWS = 1 << 20
_SAVED_ROWS = 1 << 16
_KINDS = {
    "counts": (torch.uint8, 1), "columns": (torch.uint8, 1), "moments": (torch.float32, 2), "scalars": (torch.float32, 2),
    "last": (torch.int32, 1),
}  # fmt: skip
"""Dtype and axes of saved tensors; values have the dtype of their table."""


class SlotTable:
    """N rows of width D of which at most `max_values` values are stored; starts empty, and `fill` or `rebuild` give it rows.

    `state_shape`: floats of state per value, and per row. `numbers`: which nodes its rows are, for random rounding.
    Raises UsageError for a width above 256.
    """

    def __init__(
        self, num_rows: int, width: int, max_values: int, state_shape: tuple[int, int], dtype: str = "float32",
        allocate: Allocate = in_ram, numbers: RowNumbers = ALL_NODES,
    ) -> None:  # fmt: skip
        if width > MAX_COLUMNS:
            raise UsageError(f"a sparse table has at most {MAX_COLUMNS} columns, got model.width = {width}")
        self.width, self.max_values, self.dtype, self.numbers = width, max_values, dtype, numbers
        self.arena = Arena(num_rows, max_values, *state_shape, dtype, allocate)

    @property
    def slots(self) -> ops.Slots:
        return self.arena.slots

    @property
    def num_rows(self) -> int:
        return len(self.slots.count_N)

    @property
    def counts_N(self) -> NDArray[np.uint8]:
        """Values stored of every row."""
        return self.slots.count_N

    @property
    def state_shape(self) -> tuple[int, int]:
        """Moments per value and scalars per row."""
        return self.arena.layout.moments, self.arena.layout.scalars

    @property
    def max_count(self) -> int:
        """The most values of a row."""
        return min(self.width, int(self.slots.capacity_K[-1]))

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        rows_R = ticket.rows_R
        at, last_N = self.arena.places(rows_R), self.arena.last_N
        state = State(torch.from_numpy(self.arena.state), torch.from_numpy(at.state_at_R), last_N) if with_state else None
        values, places = torch.from_numpy(self.slots.values), (rows_R, at.weight_at_R, at.count_R)
        index_R, at_R, count_R = map(torch.from_numpy, places)
        return Rows(ticket, index_R, values, at_R, count_R, state, self.numbers)

    def decode(self, rows: Rows) -> torch.Tensor:
        out_RD = torch.empty(len(rows.rows_R), self.width)
        ops.decode(self.slots, rows.rows_R, out_RD.numpy())
        return out_RD

    def write(self, rows: Rows) -> None:
        """Nothing to do: `read` handed out the arenas themselves."""

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        """A ticket alone: rows are read where they lie."""
        return Ticket(rows_R)

    @property
    def device(self) -> torch.device:
        return self.last_N.device

    def announcing(self) -> AbstractContextManager[Any]:
        """Nothing is uploaded."""
        return nullcontext()

    def drained(self) -> SlotTable:
        return self

    @property
    def last_N(self) -> torch.Tensor:
        return self.arena.last_N

    def memories(self) -> tuple[tuple[torch.Tensor, int], ...]:
        """Records, in units of 4 bytes, then state; the slabs in use, and a few for the next exploration."""
        layout, used = self.arena.layout, self.arena.slabs_used
        slabs = min(layout.max_slabs, used + used // 16 + len(RECORD_BYTES))
        return (self._records(), slabs * layout.sizes.slab_bytes // 4), (self._state(), layout.state_floats(self.num_rows, slabs))

    def located_on(self, device: Device) -> LocatedSlots:
        slots, sizes = self.slots, self.arena.layout.sizes
        by_count = sizes.record_K, sizes.state_K, sizes.state_step_K, slots.capacity_K
        parts = (slots.location_N.view(np.int32), slots.count_N, *by_count)
        own = (device.resident(torch.from_numpy(part)) for part in parts)
        return LocatedSlots(self.width, slots, sizes, self._records(), self._state(), *own)

    def extent(self, rows: NDArray[np.int64] | range) -> Extent:
        if not isinstance(rows, range):
            return Extent(*self.arena.extent(rows))
        total = Extent(0, 0, 0, 0)
        for first in range(rows.start, rows.stop, _BLOCK_ROWS):  # not all row numbers at once
            total = total.plus(self.extent(np.arange(first, min(first + _BLOCK_ROWS, rows.stop))))
        return total

    @property
    def changes(self) -> int:
        """How often rows were written whole: by a start, an exploration, a checkpoint."""
        return self.arena.changes

    @property
    def longest(self) -> tuple[int, int]:
        sizes = self.arena.layout.sizes
        return int(sizes.record_K[self.max_count]) // 4, int(sizes.state_K[self.max_count])

    def homes(self, rows_R: NDArray[np.int64]) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
        sizes, counts_R = self.arena.layout.sizes, self.slots.count_N[rows_R]
        records_R = self.slots.location_N[rows_R].astype(np.int64) * (ops.UNIT // 4)
        state_R = self.arena.places(rows_R).state_at_R
        return (records_R, sizes.record_K[counts_R] // 4), (state_R, sizes.state_K[counts_R])

    def _records(self) -> torch.Tensor:
        """All records as flat float32, whatever they hold."""
        return torch.from_numpy(self.slots.columns.view(np.float32))

    def _state(self) -> torch.Tensor:
        return torch.from_numpy(self.arena.state)

    def columns(self, first: int, last: int, rows: slice = EVERY_ROW) -> torch.Tensor:
        slots = self.slots._replace(location_N=self.slots.location_N[rows], count_N=self.slots.count_N[rows])
        out_RC = torch.empty(len(slots.count_N), last - first)  # copy: columns lie scattered over the records
        ops.decode_columns(slots, first, last, out_RC.numpy())
        return out_RC

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        """The gradient of the stored values, picked from that of whole rows."""
        rows_R = ticket.rows_R
        count_R = self.slots.count_N[rows_R].astype(np.int64)
        at_R = np.cumsum(count_R) - count_R
        values_X = np.empty(int(count_R.sum()), np.float32)
        ops.pick(self.slots, rows_R, tile_RD.numpy(), at_R, values_X)
        return RowGrad(ticket, torch.from_numpy(values_X), torch.from_numpy(at_R))

    def empty_gradient(self) -> RowGrad:
        """Zero for every stored value of every row, to be added to."""
        count_N = self.slots.count_N.astype(np.int64)
        at_N = np.cumsum(count_N) - count_N
        return RowGrad(Ticket(np.arange(self.num_rows)), torch.zeros(self.num_values), torch.from_numpy(at_N))

    def add_rows(self, grad: RowGrad, rows_R: NDArray[np.int64], tile_RD: torch.Tensor) -> None:
        """Add the gradient of different whole rows to `grad` of `empty_gradient`."""
        ops.add_at_rows(self.slots, rows_R, tile_RD.numpy(), grad.at_R.numpy(), grad.values_X.numpy())

    def add_columns(self, grad: RowGrad, first: int, last: int, plane_NC: torch.Tensor) -> None:
        """Add the gradient of columns first .. last-1 of every row."""
        ops.add_columns(self.slots, first, last, plane_NC.numpy(), grad.at_R.numpy(), grad.values_X.numpy())

    def propagate_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        out_VD: torch.Tensor,
    ) -> None:  # fmt: skip
        """out[v] = row_scale * sum over c in row rows_V[v] of `csr` of column_scale[c] * row first_row + c of this table."""
        ops.propagate_rows(
            csr.indptr, csr.indices, rows_V, self.slots, first_row, row_scale_R.numpy(), column_scale_C.numpy(), out_VD.numpy(),
            numba.get_num_threads(),
        )  # fmt: skip

    def scatter_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        grad_VD: torch.Tensor, grad: RowGrad,
    ) -> None:  # fmt: skip
        """The transpose of `propagate_rows`, added to `grad` of `empty_gradient`."""
        ops.scatter_rows(
            csr.indptr, csr.indices, csr.columns, grad_VD.numpy(), rows_V, self.slots, first_row, row_scale_R.numpy(),
            column_scale_C.numpy(), grad.at_R.numpy(), grad.values_X.numpy(), numba.get_num_threads(),
        )  # fmt: skip

    def settle(self) -> None:
        """No row lags."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Slots, not dense rows; copies, row after row."""
        return whole(self.saved())

    def saved(self) -> Saved:
        """The same, made some rows at a time; `last` is zero where the update rule keeps no steps of updates."""
        arena, (moments, scalars), kind = self.arena, self.state_shape, getattr(torch, self.dtype)

        def columns(first: int, last: int) -> torch.Tensor:
            return torch.from_numpy(arena.values(first, last)[1])

        def values(first: int, last: int) -> torch.Tensor:
            return torch.from_numpy(arena.values(first, last)[2]).to(kind)

        def per_row(first: int, last: int) -> torch.Tensor:
            return torch.from_numpy(arena.scalars(first, last))

        def steps(first: int, last: int) -> torch.Tensor:
            return arena.last_N[first:last] if moments else torch.zeros(last - first, dtype=torch.int32)

        def each_moment() -> Iterator[torch.Tensor]:
            for number in range(moments):
                for first, last in _ranges(self.num_rows):
                    yield torch.from_numpy(arena.moment(number, first, last))

        return {
            "counts": torch.from_numpy(self.slots.count_N),
            "columns": self._pieces((self.num_values,), torch.uint8, columns),
            "values": self._pieces((self.num_values,), kind, values),
            "moments": Pieces(torch.float32, (moments, self.num_values), each_moment),
            "scalars": self._pieces((self.num_rows, scalars), torch.float32, per_row),
            "last": self._pieces((self.num_rows,), torch.int32, steps),
            "location": torch.from_numpy(self.slots.location_N.view(np.int32)),
            "most": torch.tensor([self.max_values_seen, self.peak_bytes]),
        }

    def _pieces(self, shape: tuple[int, ...], dtype: torch.dtype, of_rows: Callable[[int, int], torch.Tensor]) -> Pieces:
        """What `of_rows` gives of rows first .. last-1, of all rows."""
        return Pieces(dtype, shape, lambda: (of_rows(first, last) for first, last in _ranges(self.num_rows)))

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave. DataError when it is a table of another shape or does not fit the budget."""
        reason = self._why_not(tensors)
        if reason:
            raise DataError(reason)
        arena = self.arena
        arena.clear()
        if "location" in tensors:
            arena.put_at(tensors["location"].numpy().view(np.uint32), lambda: _saved_blocks(tensors, _ranges(self.num_rows)))
        else:
            with self.rebuild() as rebuild:
                for block in _saved_blocks(tensors, [(0, self.num_rows)]):
                    rebuild.write(block)
        arena.last_N.copy_(tensors["last"][: len(arena.last_N)])
        arena.changes += 1
        if "most" in tensors:
            arena.raise_peak(*tensors["most"].tolist())

    def _why_not(self, tensors: dict[str, torch.Tensor]) -> str | None:
        """Why `tensors` cannot be put into this table, or None."""
        kinds = _KINDS | {"values": (getattr(torch, self.dtype), 1)}
        for name, (dtype, axes) in kinds.items():
            if name not in tensors or (tensors[name].dtype, tensors[name].dim()) != (dtype, axes):
                return f"the saved table must hold {name!r} of {dtype} in {axes} axes; use the job it was saved by"
        counts, columns, values, moments = (tensors[name] for name in ("counts", "columns", "values", "moments"))
        right = (
            len(counts) == len(tensors["last"]) == len(tensors.get("location", counts)) == self.num_rows,
            int(counts.sum()) == len(columns) == moments.shape[1],
            not len(counts) or int(counts.max()) <= self.max_count,
            not len(columns) or int(columns.max()) < self.width,
            (len(moments), tensors["scalars"].shape[1]) == self.state_shape,
            len(columns) == len(values),
            len(tensors["scalars"]) == len(counts),
        )
        if not all(right):
            return (
                f"a table of {len(counts):,} rows with {len(columns):,} values of {values.dtype} and {len(moments)} "
                f"moments cannot be put into one of {self.num_rows:,} rows, {self.width} columns of {self.dtype} and "
                f"{self.state_shape[0]} moments; use the job it was saved by"
            )
        if len(columns) > self.max_values:
            return (
                f"the saved table holds {len(columns):,} values, the budget allows {self.max_values:,}; "
                "set table.budget as it was"
            )
        return None

    def blocks(self) -> list[tuple[int, int]]:
        """Ranges of rows, each a small part of the table."""
        size = max(64, min(1 << 16, self.num_rows // 1024))
        return [(first, min(first + size, self.num_rows)) for first in range(0, self.num_rows, size)]

    def unpack(self, first: int, last: int) -> SlotBlock:
        """Copies of rows first .. last-1 and their state."""
        return self.arena.unpack(first, last)

    def rebuild(self) -> Rebuild:
        """A pass over the table that may change which columns its rows store."""
        return Rebuild(self.arena)

    def move(self, allocate: Allocate) -> None:
        """Lay rows and state into other memory, once they are trained: they are read there."""
        self.arena.move(allocate)

    def hold(self, extra_bytes: int) -> None:
        """Count memory that an exploration holds besides the table (0: nothing)."""
        self.arena.hold(extra_bytes)

    @property
    def num_values(self) -> int:
        return self.arena.num_values

    @property
    def max_values_seen(self) -> int:
        return self.arena.max_values_seen

    @property
    def value_bytes(self) -> int:
        return self.arena.value_bytes

    @property
    def index_bytes(self) -> int:
        return self.arena.index_bytes

    @property
    def state_bytes(self) -> int:
        return self.arena.state_bytes

    @property
    def peak_bytes(self) -> int:
        return self.arena.peak_bytes


def _ranges(num_rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows that a file is written and read by."""
    for first in range(0, num_rows, _SAVED_ROWS):
        yield first, min(first + _SAVED_ROWS, num_rows)


def _saved_blocks(tensors: dict[str, torch.Tensor], ranges: Iterable[tuple[int, int]]) -> Iterator[SlotBlock]:
    """Rows of `tensors`, a range at a time from the first row on."""
    counts, columns, values, moments, scalars = (tensors[name] for name in ("counts", "columns", "values", "moments", "scalars"))
    begin = 0
    for first, last in ranges:
        counts_R = counts[first:last].numpy().astype(np.int64)
        end = begin + int(counts_R.sum())
        yield SlotBlock(
            first, counts_R, columns[begin:end].numpy(), values[begin:end].float().numpy(), moments[:, begin:end].numpy(),
            scalars[first:last].numpy(),
        )  # fmt: skip
        begin = end


def in_blocks(table: SlotTable) -> Iterator[SlotBlock]:
    """Copies of all rows, block after block."""
    for first, last in table.blocks():
        yield table.unpack(first, last)


def dense_rows(tensors: dict[str, torch.Tensor], width: int) -> torch.Tensor:
    """The rows that `SlotTable.tensors` describes, float32 (N, width)."""
    counts_N = tensors["counts"].long()
    rows_ND = torch.zeros(len(counts_N), width)
    rows_X = torch.repeat_interleave(torch.arange(len(counts_N)), counts_N)
    rows_ND[rows_X, tensors["columns"].long()] = tensors["values"].float()
    return rows_ND
