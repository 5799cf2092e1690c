"""Slot tables: rows that store some of their columns, and never more values in all than the budget allows.

A row's record (8 to 512 bytes, see `gcnrec.ops.slots`) lies in a slab of records of its size; `location_N` and `count_N`
are all that a row costs beside it. Optimizer state is a second plane with the same index: slab for slab, record for record.
Rows change their columns only in `rebuild`, which copies the table forward, a block of rows at a time, through slabs that
earlier rows have left: no second copy, no holes, and rows stay in order.

Letters: N rows, R rows at hand, X stored values at hand, D width, M moments per value, C scalars per row.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import ops_for
from gcnrec.errors import DataError, UsageError
from gcnrec.graph import Csr
from gcnrec.ops import slots as ops
from gcnrec.queues import Spans
from gcnrec.rows import RowGrad, Rows, State
from gcnrec.tables.dense import Allocate, in_ram
from gcnrec.tables.staged import StagedSlots

RECORD_BYTES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Sizes of a record. Small steps keep the unused tail of a row small, whatever its count."""
MAX_COLUMNS = 256
"""Column numbers are one byte."""
REACH_BYTES = ops.UNIT << 32
"""Of values and column numbers: how far locations of 32 bits reach."""
VALUE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class SlotBlock:
    """Rows first, first + 1, ...: `counts_R` int64, and row after row `columns_X` uint8 (ascending in a row), `values_X`
    float32, `moments_MX` float32 (m, v, ...) and `scalars_RC` float32."""

    first: int
    counts_R: NDArray[np.int64]
    columns_X: NDArray[np.uint8]
    values_X: NDArray[np.float32]
    moments_MX: NDArray[np.float32]
    scalars_RC: NDArray[np.float32]

    @property
    def starts_R(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts_R) - self.counts_R

    @property
    def rows_X(self) -> NDArray[np.int64]:
        """The row of every value, counted from `first`."""
        return np.repeat(np.arange(len(self.counts_R)), self.counts_R)


class SlotTable:
    """N rows of width D of which at most `max_values` values are stored; starts empty, and `fill` or `rebuild` give it rows.

    `moments` floats of state per value and `scalars` per row. Raises UsageError for a width above 256.
    """

    def __init__(
        self, num_rows: int, width: int, max_values: int, moments: int, scalars: int, dtype: str = "float32",
        allocate: Allocate = in_ram,
    ) -> None:  # fmt: skip
        if width > MAX_COLUMNS:
            raise UsageError(f"a sparse table has at most {MAX_COLUMNS} columns, got model.width = {width}")
        self.width, self.max_values, self.dtype = width, max_values, dtype
        self._layout = _layout(num_rows, max_values, moments, scalars, VALUE_BYTES[dtype])
        layout = self._layout
        # Addresses only: the system gives memory to slabs when they are first written.
        arena = allocate(layout.max_slabs * layout.slab_bytes // 4 + 1024).numpy().view(np.uint8)
        arena = arena[-arena.ctypes.data % 128 :][: layout.max_slabs * layout.slab_bytes]
        self._state = allocate(layout.max_slabs * layout.state_slab).numpy()
        values = arena.view(np.float32) if dtype == "float32" else arena.view(np.uint16)
        self._slots = ops.Slots(np.zeros(num_rows, np.uint32), np.zeros(num_rows, np.uint8), values, arena, layout.capacity_K)
        self._last = torch.zeros(num_rows, dtype=torch.int32)
        self._free = list(range(layout.max_slabs))  # a heap: the lowest slab first, so that the arena stays dense
        self._slabs_used = 0
        self._extra = 0
        self.num_values = 0
        self.max_values_seen = 0
        self.peak_bytes = 0
        self._note_peak()

    @property
    def num_rows(self) -> int:
        return len(self._slots.count_N)

    @property
    def counts_N(self) -> NDArray[np.uint8]:
        """Values stored of every row."""
        return self._slots.count_N

    @property
    def state_shape(self) -> tuple[int, int]:
        """Moments per value and scalars per row."""
        return self._layout.moments, self._layout.scalars

    @property
    def max_count(self) -> int:
        """Values that one row can hold."""
        return min(self.width, int(self._layout.capacity_K[-1]))

    def read(self, rows_R: NDArray[np.int64], with_state: bool) -> Rows:
        weight_at, state_at, count = (np.empty(len(rows_R), np.int64) for _ in range(3))
        layout = self._layout
        ops.spans(
            self._slots, rows_R, layout.record_K, layout.state_K, layout.slab_bytes, layout.state_slab, weight_at, state_at, count
        )
        state = State(torch.from_numpy(self._state), torch.from_numpy(state_at), self._last) if with_state else None
        values, places = torch.from_numpy(self._slots.values), (torch.from_numpy(each) for each in (rows_R, weight_at, count))
        index_R, at_R, count_R = places
        return Rows(rows_R, index_R, values, at_R, count_R, state)

    def decode(self, rows: Rows) -> torch.Tensor:
        out_RD = torch.empty(len(rows.rows_R), self.width)
        ops.decode(self._slots, rows.rows_R, out_RD.numpy())
        return out_RD

    def write(self, rows: Rows) -> None:
        """Nothing to do: `read` handed out the arenas themselves."""

    def prefetch(self, rows_R: NDArray[np.int64]) -> None:
        """Nothing to do: rows are read where they lie."""

    def drained(self) -> SlotTable:
        return self

    @property
    def last_N(self) -> torch.Tensor:
        return self._last

    def memories(self) -> tuple[tuple[torch.Tensor, int], ...]:
        """Records, in units of 4 bytes, then state; the slabs in use, and a few for the next exploration."""
        layout = self._layout
        slabs = min(layout.max_slabs, self._slabs_used + self._slabs_used // 16 + len(RECORD_BYTES))
        return (self._arena(), slabs * layout.slab_bytes // 4), (torch.from_numpy(self._state), slabs * layout.state_slab)

    def index(self) -> tuple[torch.Tensor, ...]:
        """Locations (int32 bits of a uint32) and counts of all rows, and sizes by count."""
        layout = self._layout
        by_count = (torch.from_numpy(each) for each in (layout.record_K, layout.state_K, layout.capacity_K))
        return torch.from_numpy(self._slots.location_N.view(np.int32)), torch.from_numpy(self._slots.count_N), *by_count

    def spans(self, index_R: torch.Tensor, index: tuple[torch.Tensor, ...]) -> tuple[Spans, ...]:
        location_N, count_N, record_K, state_K, _ = index
        layout, count_R = self._layout, count_N[index_R].long()
        start_R, record_R = (location_N[index_R].long() & 0xFFFFFFFF) * ops.UNIT, record_K[count_R]
        slab_R, place_R = start_R // layout.slab_bytes, start_R % layout.slab_bytes // record_R.clamp_min(1)
        state_R = state_K[count_R]
        state = Spans(torch.from_numpy(self._state), slab_R * layout.state_slab + place_R * state_R, state_R)
        return Spans(self._arena(), start_R // 4, record_R // 4), state

    def sizes(self, rows_R: NDArray[np.int64]) -> tuple[int, ...]:
        counts_R = self._slots.count_N[rows_R]
        return int(self._layout.record_K[counts_R].sum()) // 4, int(self._layout.state_K[counts_R].sum())

    def staged(
        self, rows_R: NDArray[np.int64], index_R: torch.Tensor, copies: tuple[Spans, ...], index: tuple[torch.Tensor, ...],
        last_N: torch.Tensor,
    ) -> StagedSlots:  # fmt: skip
        records, state = copies
        _, count_N, _, _, capacity_K = index
        count_R, columns = count_N[index_R], records.memory.view(torch.uint8)
        values = records.memory if self.dtype == "float32" else records.memory.view(torch.uint16)
        location_R = (records.at_R // (ops.UNIT // 4)).int()
        slots = ops_for(index_R.device).slots(location_R, count_R, values, columns, capacity_K)
        at_R = records.at_R if self.dtype == "float32" else records.at_R * 2
        num_values = int(self._slots.count_N[rows_R].sum(dtype=np.int64))
        return StagedSlots(rows_R, index_R, self.width, slots, values, at_R, count_R.long(), num_values, state, last_N)

    def _arena(self) -> torch.Tensor:
        """All records as flat float32, whatever they hold."""
        return torch.from_numpy(self._slots.columns.view(np.float32))

    def columns(self, first: int, last: int) -> torch.Tensor:
        out_NC = torch.empty(self.num_rows, last - first)  # copy: columns lie scattered over the records
        ops.decode_columns(self._slots, first, last, out_NC.numpy())
        return out_NC

    def stored(self, rows_R: NDArray[np.int64], tile_RD: torch.Tensor) -> RowGrad:
        """The gradient of the stored values, picked from that of whole rows."""
        count_R = self._slots.count_N[rows_R].astype(np.int64)
        at_R = np.cumsum(count_R) - count_R
        values_X = np.empty(int(count_R.sum()), np.float32)
        ops.pick(self._slots, rows_R, tile_RD.numpy(), at_R, values_X)
        return RowGrad(rows_R, torch.from_numpy(values_X), torch.from_numpy(at_R))

    def empty_gradient(self) -> RowGrad:
        """Zero for every stored value of every row, to be added to."""
        count_N = self._slots.count_N.astype(np.int64)
        at_N = np.cumsum(count_N) - count_N
        return RowGrad(np.arange(self.num_rows), torch.zeros(self.num_values), torch.from_numpy(at_N))

    def add_rows(self, grad: RowGrad, rows_R: NDArray[np.int64], tile_RD: torch.Tensor) -> None:
        """Add the gradient of different whole rows to `grad` of `empty_gradient`."""
        ops.add_at_rows(self._slots, rows_R, tile_RD.numpy(), grad.at_R.numpy(), grad.values_X.numpy())

    def add_columns(self, grad: RowGrad, first: int, last: int, plane_NC: torch.Tensor) -> None:
        """Add the gradient of columns first .. last-1 of every row."""
        ops.add_columns(self._slots, first, last, plane_NC.numpy(), grad.at_R.numpy(), grad.values_X.numpy())

    def propagate_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        out_VD: torch.Tensor,
    ) -> None:  # fmt: skip
        """out[v] = row_scale * sum over c in row rows_V[v] of `csr` of column_scale[c] * row first_row + c of this table."""
        ops.propagate_rows(
            csr.indptr, csr.indices, rows_V, self._slots, first_row, row_scale_R.numpy(), column_scale_C.numpy(), out_VD.numpy(),
            numba.get_num_threads(),
        )  # fmt: skip

    def scatter_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        grad_VD: torch.Tensor, grad: RowGrad,
    ) -> None:  # fmt: skip
        """The transpose of `propagate_rows`, added to `grad` of `empty_gradient`."""
        ops.scatter_rows(
            csr.indptr, csr.indices, csr.columns, grad_VD.numpy(), rows_V, self._slots, first_row, row_scale_R.numpy(),
            column_scale_C.numpy(), grad.at_R.numpy(), grad.values_X.numpy(), numba.get_num_threads(),
        )  # fmt: skip

    def tensors(self) -> dict[str, torch.Tensor]:
        """Slots, not dense rows; copies, row after row."""
        block = self.unpack(0, self.num_rows)
        return {
            "counts": torch.from_numpy(self._slots.count_N.copy()),
            "columns": torch.from_numpy(block.columns_X),
            "values": torch.from_numpy(block.values_X).to(getattr(torch, self.dtype)),
            "moments": torch.from_numpy(block.moments_MX),
            "scalars": torch.from_numpy(block.scalars_RC),
            "last": self._last.clone(),
            "location": torch.from_numpy(self._slots.location_N.view(np.int32).copy()),
            "most": torch.tensor([self.max_values_seen, self.peak_bytes]),
        }

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave. DataError when it is a table of another shape or does not fit the budget."""
        counts = tensors["counts"].numpy().astype(np.int64)
        columns, moments = tensors["columns"].numpy(), tensors["moments"].numpy()
        layout = self._layout
        fits = len(counts) == self.num_rows and int(counts.sum()) == len(columns) == moments.shape[1]
        fits = (
            fits
            and int(counts.max(initial=0)) <= self.max_count
            and (len(moments), tensors["scalars"].shape[1]) == (layout.moments, layout.scalars)
        )
        if (
            not fits
            or (len(columns) and int(columns.max()) >= self.width)
            or str(tensors["values"].dtype) != f"torch.{self.dtype}"
        ):
            raise DataError(
                f"a table of {len(counts):,} rows with {len(columns):,} values of {tensors['values'].dtype} and {len(moments)} "
                f"moments cannot be put into one of {self.num_rows:,} rows, {self.width} columns of {self.dtype} and "
                f"{layout.moments} moments; use the job it was saved by"
            )
        if len(columns) > self.max_values:
            raise DataError(
                f"the saved table holds {len(columns):,} values, the budget allows {self.max_values:,}; "
                "set table.budget as it was"
            )
        self._clear()
        block = SlotBlock(0, counts, columns, tensors["values"].float().numpy(), moments, tensors["scalars"].numpy())
        if "location" in tensors:
            self._put_at(tensors["location"].numpy().view(np.uint32), block)
        else:
            with self.rebuild() as rebuild:
                rebuild.write(block)
        self._last.copy_(tensors["last"])
        if "most" in tensors:
            values, size = tensors["most"].tolist()
            self.max_values_seen, self.peak_bytes = max(self.max_values_seen, values), max(self.peak_bytes, size)

    def _put_at(self, location_N: NDArray[np.uint32], block: SlotBlock) -> None:
        """Fill an empty table with all rows, each where it lay: the same slabs are in use, and later ones will be."""
        layout = self._layout
        slabs_R = location_N[block.counts_R > 0].astype(np.int64) * ops.UNIT // layout.slab_bytes
        used = np.unique(slabs_R)
        if len(used) and used[-1] >= layout.max_slabs:
            raise DataError("rows of the saved table lie outside of this one; use the job it was saved by")
        self._slots.location_N[:] = location_N
        self._free = np.setdiff1d(np.arange(layout.max_slabs), used).tolist()  # ascending, and so a heap
        self._slabs_used = len(used)
        self._store(block)

    def _store(self, block: SlotBlock) -> None:
        """Write a block of rows, which have no slots, to where `location_N` has them."""
        slots, layout = self._slots, self._layout
        first, last = block.first, block.first + len(block.counts_R)
        slots.count_N[first:last] = block.counts_R
        self.num_values += int(block.counts_R.sum())
        starts_R, rows_R = block.starts_R, np.arange(first, last)
        ops.pack(slots, first, starts_R, block.columns_X, block.values_X)
        at_R = self.read(rows_R, with_state=True).state.at_R.numpy()  # type: ignore[union-attr]
        for moment in range(layout.moments):
            ops.copy_spans(block.moments_MX[moment], starts_R, self._state, at_R + moment * block.counts_R, block.counts_R)
        if layout.scalars:
            stored = np.minimum(block.counts_R, 1) * layout.scalars
            tail = np.arange(len(rows_R)) * layout.scalars
            ops.copy_spans(block.scalars_RC.reshape(-1), tail, self._state, at_R + layout.moments * block.counts_R, stored)
        self._note_peak()

    def _clear(self) -> None:
        """Drop every slot."""
        self._slots.count_N[:] = 0
        self._free = list(range(self._layout.max_slabs))
        self._slabs_used = self.num_values = 0

    def blocks(self) -> list[tuple[int, int]]:
        """Ranges of rows, each a small part of the table."""
        size = max(64, min(1 << 16, self.num_rows // 1024))
        return [(first, min(first + size, self.num_rows)) for first in range(0, self.num_rows, size)]

    def unpack(self, first: int, last: int) -> SlotBlock:
        """Copies of rows first .. last-1 and their state."""
        rows_R = np.arange(first, last)
        counts_R = self._slots.count_N[first:last].astype(np.int64)
        starts_R, size = np.cumsum(counts_R) - counts_R, int(counts_R.sum())
        layout = self._layout
        block = SlotBlock(
            first, counts_R, np.empty(size, np.uint8), np.empty(size, np.float32),
            np.empty((layout.moments, size), np.float32), np.zeros((len(rows_R), layout.scalars), np.float32),
        )  # fmt: skip
        ops.unpack(self._slots, first, starts_R, block.columns_X, block.values_X)
        at_R = self.read(rows_R, with_state=True).state.at_R.numpy()  # type: ignore[union-attr]
        for moment in range(layout.moments):
            ops.copy_spans(self._state, at_R + moment * counts_R, block.moments_MX[moment], starts_R, counts_R)
        if layout.scalars:
            stored = np.minimum(counts_R, 1) * layout.scalars
            tail = np.arange(len(rows_R)) * layout.scalars
            ops.copy_spans(self._state, at_R + layout.moments * counts_R, block.scalars_RC.reshape(-1), tail, stored)
        return block

    def rebuild(self) -> Rebuild:
        """A pass over the table that may change which columns its rows store."""
        return Rebuild(self)

    def hold(self, extra_bytes: int) -> None:
        """Count memory that an exploration holds beside the table (0: nothing)."""
        self._extra = extra_bytes
        self._note_peak()

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.table_bytes + self._extra)
        self.max_values_seen = max(self.max_values_seen, self.num_values)

    @property
    def value_bytes(self) -> int:
        return self.num_values * VALUE_BYTES[self.dtype]

    @property
    def index_bytes(self) -> int:
        """What finding values costs: locations, counts, columns, and what records and slabs leave unused."""
        rows = self._slots.location_N.nbytes + self._slots.count_N.nbytes
        return rows + self._slabs_used * self._layout.slab_bytes - self.value_bytes

    @property
    def state_bytes(self) -> int:
        return 4 * self._slabs_used * self._layout.state_slab + self._last.numel() * 4

    @property
    def table_bytes(self) -> int:
        """Everything: values, index and state."""
        return self.value_bytes + self.index_bytes + self.state_bytes


class Rebuild:
    """One pass in row order: `read` a block, `write` what is to become of it, for every row (a fresh table: only write).

    Raises DataError at a write that would pass the budget, before it is made.
    """

    def __init__(self, table: SlotTable) -> None:
        self._table = table
        slots, layout = table._slots, table._layout
        self._live = np.zeros(layout.max_slabs, np.int64)
        ops.count_records(slots, layout.slab_bytes, self._live)
        self._open = {size: _OpenSlab(0, layout.slab_bytes // size) for size in RECORD_BYTES}

    def __enter__(self) -> Rebuild:
        return self

    def __exit__(self, *problem: object) -> None:
        return None

    def read(self, first: int, last: int) -> SlotBlock:
        """Copies of rows first .. last-1, which are gone from the table until they are written."""
        table = self._table
        slots, layout = table._slots, table._layout
        block = table.unpack(first, last)
        slabs, left = np.unique(
            (slots.location_N[first:last].astype(np.int64) * ops.UNIT // layout.slab_bytes)[block.counts_R > 0],
            return_counts=True,
        )
        self._live[slabs] -= left
        for slab in slabs[self._live[slabs] == 0].tolist():
            heapq.heappush(table._free, slab)
            table._slabs_used -= 1
        slots.count_N[first:last] = 0
        table.num_values -= int(block.counts_R.sum())
        return block

    def write(self, block: SlotBlock) -> None:
        table = self._table
        size = int(block.counts_R.sum())
        if table.num_values + size > table.max_values:
            raise DataError(
                f"{table.num_values + size:,} values would pass the budget of {table.max_values:,}; prune before growing"
            )
        self._place(block.first, block.counts_R)
        table._store(block)

    def _place(self, first: int, counts_R: NDArray[np.int64]) -> None:
        """Locations for rows first ..., each class of record in its open slab and then in free ones."""
        table = self._table
        layout = table._layout
        sizes_R = layout.record_K[counts_R]
        for size in np.unique(sizes_R[sizes_R > 0]).tolist():
            rows = np.flatnonzero(sizes_R == size)
            room, place = self._open[size], np.empty(len(rows), np.int64)
            per_slab, done = layout.slab_bytes // size, 0
            while done < len(rows):
                if room.used == per_slab:
                    room = self._open[size] = _OpenSlab(heapq.heappop(table._free), 0)
                    if (room.slab + 1) * layout.slab_bytes > REACH_BYTES:
                        raise UsageError(
                            "locations of records reach 32 GiB of values and columns, and this table needs more; "
                            "lower table.budget, or set table.dtype = 'bfloat16'"
                        )
                    table._slabs_used += 1
                taken = min(per_slab - room.used, len(rows) - done)
                place[done : done + taken] = room.slab * layout.slab_bytes + (room.used + np.arange(taken)) * size
                room.used += taken
                done += taken
            table._slots.location_N[first + rows] = place // ops.UNIT


@dataclass(slots=True)
class _OpenSlab:
    """The slab that records of one size are being written to, and how many it holds."""

    slab: int
    used: int


@dataclass(frozen=True)
class _Layout:
    """Sizes that follow from the number of rows, the budget and the update rule. Tables `_K` are indexed by a row's count."""

    moments: int
    scalars: int
    slab_bytes: int
    state_slab: int
    max_slabs: int
    record_K: NDArray[np.int64]
    capacity_K: NDArray[np.int64]
    state_K: NDArray[np.int64]


def _layout(num_rows: int, budget: int, moments: int, scalars: int, value_bytes: int) -> _Layout:
    capacities = np.array([size // (value_bytes + 1) for size in RECORD_BYTES])
    choice = np.searchsorted(capacities, np.arange(capacities[-1] + 1))
    record_K, capacity_K = np.array(RECORD_BYTES)[choice], capacities[choice]
    record_K[0] = capacity_K[0] = 0
    state_K = np.where(capacity_K > 0, moments * capacity_K + scalars, 0)
    # Slabs of about a four-thousandth of the table, so that open and just emptied ones do not matter.
    wanted = (budget * (value_bytes + 1) + 8 * num_rows) // 4096
    slab_bytes = 1 << int(np.clip(int(wanted).bit_length(), 11, 20))
    per_slab = slab_bytes // np.array(RECORD_BYTES)
    state_slab = int((per_slab * (moments * capacities + scalars)).max())
    # The fullest arena: a row of k values takes `share` * k * (value_bytes + 1) bytes and a constant at most, slabs' own tails
    # counted; and there are open slabs of old and new.
    share = 1.25
    used_K, taken_K = share * (value_bytes + 1) * np.arange(len(choice)), (slab_bytes / per_slab)[choice]
    most = share * (value_bytes + 1) * budget + num_rows * float((taken_K - used_K)[1:].max())
    max_slabs = int(most / slab_bytes) + 4 * len(RECORD_BYTES)
    return _Layout(moments, scalars, slab_bytes, state_slab, max_slabs, record_K, capacity_K, state_K)


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
