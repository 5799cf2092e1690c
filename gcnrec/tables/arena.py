"""Where slots lie: records in slabs, a heap of free slabs, and the location and count of every row.

A row's record (8 to 512 bytes, see `gcnrec.ops.slots`) lies in a slab of records of its size; `location_N` and `count_N`
are all that a row costs besides. Optimizer state is a second plane: with moments slab for slab, record for record; scalars alone
lie row for row, since slabs of small records have room for more rows than others, and each would have as much state.
Rows change their columns only in a `Rebuild`, which copies the arena forward, a block of rows at a time, through slabs that
earlier rows have left: no second copy, no holes, and rows stay in order.

Letters: N rows, R rows of a block, X their stored values, M moments per value, C scalars per row.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.ops import slots as ops
from gcnrec.ops.arrays import Number
from gcnrec.tables.dense import Allocate

RECORD_BYTES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Sizes of a record. Small steps keep the unused tail of a row small, whatever its count."""
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


class Arena:
    """Records and state of `num_rows` rows that hold at most `max_values` values together; starts empty.

    `moments` floats of state per value and `scalars` per row.
    """

    def __init__(self, num_rows: int, max_values: int, moments: int, scalars: int, dtype: str, allocate: Allocate) -> None:
        self.max_values, self.dtype = max_values, dtype
        self.layout = layout = _layout(num_rows, max_values, moments, scalars, VALUE_BYTES[dtype])
        # Addresses only: the system gives memory to slabs when they are first written.
        records = _aligned(allocate, layout.max_slabs * layout.sizes.slab_bytes)
        self.slots = self._slots(np.zeros(num_rows, np.uint32), np.zeros(num_rows, np.uint8), records)
        self.state = allocate(layout.state_floats(num_rows, layout.max_slabs)).numpy()
        # Moments decay by the steps since a row's last update; nothing else asks for them.
        self.last_N = torch.zeros(num_rows if moments else 0, dtype=torch.int32)
        self._extra = self.max_values_seen = self.peak_bytes = self.changes = 0
        self.clear()
        self._note_peak()

    def _slots(self, location_N: NDArray[np.uint32], count_N: NDArray[np.uint8], records: NDArray[np.uint8]) -> ops.Slots:
        values = records.view(np.float32) if self.dtype == "float32" else records.view(np.uint16)
        return ops.Slots(location_N, count_N, values, records, self.layout.capacity_K)

    def move(self, allocate: Allocate) -> None:
        """Lay all that is stored into other memory, to be read there; no row may change its columns any more."""
        slots, layout, num_rows = self.slots, self.layout, len(self.slots.count_N)
        last = int(slots.location_N.max(initial=0)) * ops.UNIT // layout.sizes.slab_bytes + 1
        records = _moved(slots.columns[: last * layout.sizes.slab_bytes], allocate)
        self.slots = self._slots(_moved(slots.location_N, allocate), _moved(slots.count_N, allocate), records)
        self.state = _moved(self.state[: layout.state_floats(num_rows, last)], allocate)
        self.changes += 1

    def clear(self) -> None:
        """Drop every record."""
        self.changes += 1
        self.slots.count_N[:] = 0
        self._free = list(range(self.layout.max_slabs))  # a heap: the lowest slab first, so that the arena stays dense
        self.slabs_used = self.num_values = 0

    def places(self, rows_R: NDArray[np.int64]) -> ops.Places:
        """Where values and state of rows lie, and how many values each has."""
        return ops.spans(self.slots, rows_R, self.layout.sizes)

    def extent(self, rows_R: NDArray[np.int64]) -> tuple[int, int, int, int]:
        """Floats of records and of state, values, and lines of all rows; see `gcnrec.tables.staged.Extent`."""
        extent: tuple[int, int, int, int] = ops.extent(self.slots, rows_R, self.layout.sizes)
        return extent

    def slabs_of(self, location_R: NDArray[np.uint32]) -> NDArray[np.int64]:
        slabs_R: NDArray[np.int64] = location_R.astype(np.int64) * ops.UNIT // self.layout.sizes.slab_bytes
        return slabs_R

    def take_slab(self) -> int:
        """A slab that no record uses, the lowest."""
        slab = heapq.heappop(self._free)
        if (slab + 1) * self.layout.sizes.slab_bytes > REACH_BYTES:
            raise UsageError(
                "locations of records reach 32 GiB of values and columns, and this table needs more; "
                "lower table.budget, or set table.dtype = 'bfloat16'"
            )
        self.slabs_used += 1
        return slab

    def release_slabs(self, slabs: NDArray[np.int64]) -> None:
        for slab in slabs.tolist():
            heapq.heappush(self._free, slab)
        self.slabs_used -= len(slabs)

    def put_at(self, location_N: NDArray[np.uint32], blocks: Callable[[], Iterator[SlotBlock]]) -> None:
        """Fill an empty arena with all rows, each where it lay: the same slabs are in use, and later ones will be."""
        is_used = np.zeros(self.layout.max_slabs, np.bool_)
        for block in blocks():
            slabs = self.slabs_of(location_N[block.first : block.first + len(block.counts_R)][block.counts_R > 0])
            if slabs.max(initial=0) >= len(is_used):
                raise DataError("rows of the saved table lie outside of this one; use the job it was saved by")
            is_used[slabs] = True
        self.slots.location_N[:] = location_N
        self._free = np.flatnonzero(~is_used).tolist()  # ascending, and so a heap
        self.slabs_used = int(is_used.sum())
        for block in blocks():
            self.store(block)

    def store(self, block: SlotBlock) -> None:
        """Write a block of rows, which have no slots, to where `location_N` has them."""
        self.changes += 1
        slots, layout = self.slots, self.layout
        first, last = block.first, block.first + len(block.counts_R)
        slots.count_N[first:last] = block.counts_R
        self.num_values += int(block.counts_R.sum())
        starts_R = block.starts_R
        ops.pack(slots, first, starts_R, block.columns_X, block.values_X)
        at_R = self.places(np.arange(first, last)).state_at_R
        for moment in range(layout.moments):
            ops.copy_spans(block.moments_MX[moment], starts_R, self.state, at_R + moment * block.counts_R, block.counts_R)
        if layout.scalars:
            stored = np.minimum(block.counts_R, 1) * layout.scalars
            tail = np.arange(last - first) * layout.scalars
            ops.copy_spans(block.scalars_RC.reshape(-1), tail, self.state, at_R + layout.moments * block.counts_R, stored)
        self._note_peak()

    def overwrite(self, block: SlotBlock) -> None:
        """Give rows other values and state, each where it lies: it stores as many values as `block` has of it."""
        self.num_values -= int(block.counts_R.sum())
        self.store(block)

    def unpack(self, first: int, last: int) -> SlotBlock:
        """Copies of rows first .. last-1 and their state."""
        counts_R, columns_X, values_X = self.values(first, last)
        moments_MX = np.empty((self.layout.moments, len(values_X)), np.float32)
        for moment in range(self.layout.moments):
            moments_MX[moment] = self.moment(moment, first, last)
        return SlotBlock(first, counts_R, columns_X, values_X, moments_MX, self.scalars(first, last))

    def values(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float32]]:
        """Counts (R), columns (X) and values (X) of rows first .. last-1, as a `SlotBlock` has them."""
        counts_R = self.slots.count_N[first:last].astype(np.int64)
        starts_R, size = np.cumsum(counts_R) - counts_R, int(counts_R.sum())
        columns_X, values_X = np.empty(size, np.uint8), np.empty(size, np.float32)
        ops.unpack(self.slots, first, starts_R, columns_X, values_X)
        return counts_R, columns_X, values_X

    def moment(self, number: int, first: int, last: int) -> NDArray[np.float32]:
        """Moment `number` of the values of rows first .. last-1, float32 (X)."""
        places = self.places(np.arange(first, last))
        out_X = np.empty(int(places.count_R.sum()), np.float32)
        starts_R = np.cumsum(places.count_R) - places.count_R
        ops.copy_spans(self.state, places.state_at_R + number * places.count_R, out_X, starts_R, places.count_R)
        return out_X

    def scalars(self, first: int, last: int) -> NDArray[np.float32]:
        """Scalars of rows first .. last-1, float32 (R, C), zero where a row stores nothing."""
        count, places = self.layout.scalars, self.places(np.arange(first, last))
        out_RC = np.zeros((last - first, count), np.float32)
        at_R = places.state_at_R + self.layout.moments * places.count_R
        ops.copy_spans(
            self.state, at_R, out_RC.reshape(-1), np.arange(last - first) * count, np.minimum(places.count_R, 1) * count
        )
        return out_RC

    def remove(self, first: int, last: int) -> None:
        """Rows first .. last-1 store nothing any more; their slabs are released by the caller."""
        self.changes += 1
        self.num_values -= int(self.slots.count_N[first:last].sum(dtype=np.int64))
        self.slots.count_N[first:last] = 0

    def hold(self, extra_bytes: int) -> None:
        """Count memory that an exploration holds besides the arena (0: nothing)."""
        self._extra = extra_bytes
        self._note_peak()

    def raise_peak(self, values: int, size: int) -> None:
        """Take over what a saved table has seen."""
        self.max_values_seen, self.peak_bytes = max(self.max_values_seen, values), max(self.peak_bytes, size)

    def _note_peak(self) -> None:
        self.raise_peak(self.num_values, self.value_bytes + self.index_bytes + self.state_bytes + self._extra)

    @property
    def value_bytes(self) -> int:
        return self.num_values * VALUE_BYTES[self.dtype]

    @property
    def index_bytes(self) -> int:
        """What finding values costs: locations, counts, columns, and what records and slabs leave unused."""
        rows = self.slots.location_N.nbytes + self.slots.count_N.nbytes
        return rows + self.slabs_used * self.layout.sizes.slab_bytes - self.value_bytes

    @property
    def state_bytes(self) -> int:
        return 4 * self.layout.state_floats(len(self.slots.count_N), self.slabs_used) + self.last_N.nbytes


def _aligned(allocate: Allocate, nbytes: int) -> NDArray[np.uint8]:
    """So many bytes, from a multiple of 128 on."""
    memory: NDArray[np.uint8] = allocate(nbytes // 4 + 1024).numpy().view(np.uint8)
    return memory[-memory.ctypes.data % 128 :][:nbytes]


def _moved(array: NDArray[Number], allocate: Allocate) -> NDArray[Number]:
    """A copy of `array` in memory of `allocate`."""
    copy = _aligned(allocate, -(-array.nbytes // 4) * 4)[: array.nbytes].view(array.dtype)
    copy[:] = array  # copy: to where it is read from now on
    return copy


class Rebuild:
    """One pass in row order: `read` a block, `write` what is to become of it, for every row (a fresh table: only write).

    Raises DataError at a write that would pass the budget, before it is made.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena, slab_bytes = arena, arena.layout.sizes.slab_bytes
        self._live = np.zeros(arena.layout.max_slabs, np.int64)
        ops.count_records(arena.slots, slab_bytes, self._live)
        self._open = {size: _OpenSlab(0, slab_bytes // size) for size in RECORD_BYTES}

    def __enter__(self) -> Rebuild:
        return self

    def __exit__(self, *problem: object) -> None:
        return None

    def read(self, first: int, last: int) -> SlotBlock:
        """Copies of rows first .. last-1, which are gone from the table until they are written."""
        arena = self._arena
        block = arena.unpack(first, last)
        slabs_R = arena.slabs_of(arena.slots.location_N[first:last])
        slabs, left = np.unique(slabs_R[block.counts_R > 0], return_counts=True)
        self._live[slabs] -= left
        arena.release_slabs(slabs[self._live[slabs] == 0])
        arena.remove(first, last)
        return block

    def write(self, block: SlotBlock) -> None:
        arena = self._arena
        values = arena.num_values + int(block.counts_R.sum())
        if values > arena.max_values:
            raise DataError(f"{values:,} values would pass the budget of {arena.max_values:,}; prune before growing")
        self._place(block.first, block.counts_R)
        arena.store(block)

    def _place(self, first: int, counts_R: NDArray[np.int64]) -> None:
        """Locations for rows first ..., each class of record in its open slab and then in free ones."""
        arena, slab_bytes = self._arena, self._arena.layout.sizes.slab_bytes
        sizes_R = arena.layout.sizes.record_K[counts_R]
        for size in np.unique(sizes_R[sizes_R > 0]).tolist():
            rows = np.flatnonzero(sizes_R == size)
            room, place = self._open[size], np.empty(len(rows), np.int64)
            per_slab, done = slab_bytes // size, 0
            while done < len(rows):
                if room.used == per_slab:
                    room = self._open[size] = _OpenSlab(arena.take_slab(), 0)
                taken = min(per_slab - room.used, len(rows) - done)
                place[done : done + taken] = room.slab * slab_bytes + (room.used + np.arange(taken)) * size
                room.used += taken
                done += taken
            arena.slots.location_N[first + rows] = place // ops.UNIT


@dataclass(slots=True)
class _OpenSlab:
    """The slab that records of one size are being written to, and how many it holds."""

    slab: int
    used: int


@dataclass(frozen=True)
class Layout:
    """Sizes that follow from the number of rows, the budget and the update rule; `capacity_K` is indexed by a row's count."""

    moments: int
    scalars: int
    max_slabs: int
    capacity_K: NDArray[np.int64]
    sizes: ops.Sizes

    def state_floats(self, num_rows: int, slabs: int) -> int:
        """Floats of state of so many rows, in the first `slabs` slabs."""
        return num_rows * self.sizes.state_row + slabs * self.sizes.state_slab


def _layout(num_rows: int, budget: int, moments: int, scalars: int, value_bytes: int) -> Layout:
    capacities = np.array([size // (value_bytes + 1) for size in RECORD_BYTES])
    choice = np.searchsorted(capacities, np.arange(capacities[-1] + 1))
    record_K, capacity_K = np.array(RECORD_BYTES)[choice], capacities[choice]
    record_K[0] = capacity_K[0] = 0
    state_K = np.where(capacity_K > 0, moments * capacity_K + scalars, 0)
    # Slabs of about a four-thousandth of the table, so that open and just emptied ones do not matter.
    wanted = (budget * (value_bytes + 1) + 8 * num_rows) // 4096
    slab_bytes = 1 << int(np.clip(int(wanted).bit_length(), 11, 20))
    per_slab = slab_bytes // np.array(RECORD_BYTES)
    state: tuple[int, int, NDArray[np.int64]] = scalars, 0, np.zeros_like(state_K)
    if moments:
        state = 0, int((per_slab * (moments * capacities + scalars)).max()), state_K
    # The fullest arena: a row of k values takes `share` * k * (value_bytes + 1) bytes and a constant at most, slabs' own tails
    # counted; and there are open slabs of old and new.
    share = 1.25
    used_K, taken_K = share * (value_bytes + 1) * np.arange(len(choice)), (slab_bytes / per_slab)[choice]
    most = share * (value_bytes + 1) * budget + num_rows * float((taken_K - used_K)[1:].max())
    max_slabs = int(most / slab_bytes) + 4 * len(RECORD_BYTES)
    return Layout(moments, scalars, max_slabs, capacity_K, ops.Sizes(slab_bytes, record_K, state_K, *state))
