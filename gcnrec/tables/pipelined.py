"""A table that stays in host memory while a device trains on it: rows of the next batch come while this one trains.

For step t the rows of t+1 are read before t has changed its own, and the rows of t-1 may still be on their way back. So a row
that t+1 shares with either arrives old, or torn. Such rows are patched from the copies on the device, t-1's first, then t's,
before t+1 trains: results equal the serial run's bit for bit, and nothing ever waits for a write, the host for nothing at all.

    reads    | read t+1          | read t+2          |
    compute  | train t           | patch, train t+1  |
    writes   |         write t-1 |           write t |

Letters: N rows of the table, R rows of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DeviceError
from gcnrec.queues import Device, Mark, Pair
from gcnrec.rows import RowGrad, RowNumbers, Rows, Ticket
from gcnrec.tables.dense import Table
from gcnrec.tables.hot_rows import Part, Prefixes
from gcnrec.tables.ring import Ring, Slot
from gcnrec.tables.staged import Extent, Located, RowSpans, StagedRows
from gcnrec.tables.window import Homes, Stay, Window

_CHUNK_ROWS = 1 << 20
"""Cached rows that are filled or sent home by one call."""


class HostTable(Table, Homes, Protocol):
    """A table whose rows are spans of flat host memories."""

    @property
    def numbers(self) -> RowNumbers:
        """Which nodes its rows are."""
        ...

    @property
    def last_N(self) -> torch.Tensor:
        """int32: the step of each row's last update."""
        ...

    @property
    def changes(self) -> int:
        """A number that is another one after whole-table work that wrote rows or moved them."""
        ...

    def memories(self) -> tuple[tuple[torch.Tensor, int], ...]:
        """The flat memories of rows and of their state, and how much of each is in use."""
        ...

    def located_on(self, device: Device) -> Located:
        """Where its rows lie, as a device finds them."""
        ...

    def extent(self, rows: NDArray[np.int64] | range) -> Extent:
        """What the rows take, found by the host alone."""
        ...


@dataclass(slots=True)
class Traffic:
    """Totals of training steps: rows read (each comes back once), cached rows among them, bytes read from host memory with
    optimizer state, and the 128-byte lines of these bytes; a line that two rows share counts twice."""

    rows: int = 0
    cached_rows: int = 0
    bytes: int = 0
    lines: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Staged:
    """A batch's rows: `copies` in a slot of the ring, and `pairs` that bring them there from host memory or the cache. `stay`:
    of the rows that come from a window."""

    index_R: torch.Tensor
    rows: StagedRows
    copies: RowSpans
    pairs: tuple[Pair, ...]
    slot: Slot
    stay: Stay | None


@dataclass(frozen=True, slots=True, eq=False)
class _Arriving:
    """Rows being read: whole after `mark`; writes up to number `behind` were over before the read began. `earlier`: what the
    slot held before, to be let go when compute comes after the read."""

    staged: _Staged
    mark: Mark
    behind: int
    earlier: object


@dataclass(frozen=True, slots=True, eq=False)
class _Leaving:
    staged: _Staged
    mark: Mark
    number: int


class PipelinedTable:
    """`host` behind a device's queues. A step reads, decodes and writes the rows of one ticket; `prefetch` announces the next.

    The device keeps the `hot` rows. It reaches the others in the `window`, or without one where they lie. Whole-table work
    (export, exploration, checkpoints) is that of `drained()`. `close` gives the host memory back.
    """

    def __init__(self, host: HostTable, device: Device, hot: Prefixes | None = None, window: Window | None = None) -> None:
        self._host, self._device, self._window = host, device, window
        self._hot = hot if hot is not None and len(hot) else None
        self._adopt()  # at once: memory that cannot be pinned is reported before training begins
        self._last_N = device.resident(host.last_N)
        self._located: Located | None = None
        self._seen = -1
        self._cache: RowSpans | None = None
        self._like = torch.empty(0, dtype=host.memories()[0][0].dtype)
        self._ring = Ring(device)
        self._moved = Traffic()
        self._arriving: dict[Ticket, _Arriving] = {}
        self._leaving: deque[_Leaving] = deque()
        self._announced: dict[Ticket, torch.Tensor | None] = {}
        self._written = 0
        self._flushed = 0
        self._current: tuple[Ticket, _Staged] | None = None
        self.num_rows, self.width = host.num_rows, host.width

    @property
    def device(self) -> torch.device:
        return self._last_N.device

    @property
    def queues(self) -> Device:
        """The queues that move rows."""
        return self._device

    @property
    def hot(self) -> Prefixes | None:
        """The rows that the device keeps."""
        return self._hot

    def announcing(self) -> AbstractContextManager[Any]:
        """Uploads run in the queue of reads while a step trains; a read of rows comes after them."""
        return self._device.within(self._device.reads)

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        """Begin to read `rows_R` and their state.

        `index_R`: the same numbers on the device, brought there within `announcing`. Their memory, and that of
        whatever came with them in one piece, is kept until reads come after all work of the batch. Nothing else may write to it.
        """
        ticket = Ticket(rows_R)
        self._announced[ticket] = index_R
        self._begin()
        return ticket

    def _begin(self) -> None:
        """Begin to read what was announced, and again what the last drain interrupted."""
        for ticket, index_R in self._announced.items():
            self._arriving[ticket] = self._reading(ticket, index_R)
        self._announced.clear()

    def _reading(self, ticket: Ticket, index_R: torch.Tensor | None) -> _Arriving:
        device, reads, located, rows_R = self._device, self._device.reads, self._locate(), ticket.rows_R
        # All but the last write must be over, so that no more than two steps' rows need patching.
        behind = self._written - 1
        for leaving in self._leaving:
            if leaving.number <= behind:
                reads.after(leaving.mark)
        parts = (Part(0, len(rows_R), None),) if self._hot is None else self._hot.parts(rows_R)
        extent = self._counted(rows_R, parts)
        with device.within(reads):
            slot = self._ring.take(reads, extent[:2], self._like)
            index_R = device.place(rows_R) if index_R is None else index_R
            homes = located.spans(index_R)
            sized = zip(slot.buffers, extent[:2], strict=True)
            copies = located.packed(homes, [buffer[:size] for buffer, size in sized])
            stay = self._admitted(rows_R, parts)
            pairs = tuple(self._pairs(located, parts, index_R, homes, copies, stay))
            device.copy(reads, pairs)  # copy: of this batch's rows, over PCIe
            rows = located.staged(ticket, index_R, copies, self._last_N, extent.values)
        earlier, slot.held = slot.held, (index_R, rows, pairs)
        return _Arriving(_Staged(index_R, rows, copies, pairs, slot, stay), reads.mark(), behind, earlier)

    def _admitted(self, rows_R: NDArray[np.int64], parts: tuple[Part, ...]) -> Stay | None:
        """The stay in the window of the rows that are not cached."""
        if self._window is None:
            return None
        return self._window.admit(np.concatenate([rows_R[:0], *(rows_R[p.first : p.last] for p in parts if p.shift is None)]))

    def _counted(self, rows_R: NDArray[np.int64], parts: tuple[Part, ...]) -> Extent:
        """The extent of all rows; traffic counts what crosses the bus of it."""
        total, moved = Extent(0, 0, 0, 0), self._moved
        for part in parts:
            own = self._host.extent(rows_R[part.first : part.last])
            total = total.plus(own)
            if part.shift is None:
                moved.bytes += own.nbytes
                moved.lines += own.lines
            else:
                moved.cached_rows += part.last - part.first
        moved.rows += len(rows_R)
        return total

    def _pairs(
        self, located: Located, parts: tuple[Part, ...], index_R: torch.Tensor, homes: RowSpans, copies: RowSpans,
        stay: Stay | None,
    ) -> Iterator[Pair]:  # fmt: skip
        """Where rows come from and go back to, with the part of the copies that is theirs."""
        stayed = 0
        for part in parts:
            home = homes.part(part.first, part.last)
            if part.shift is not None and self._cache is not None:
                home = located.cached(self._cache, index_R[part.first : part.last], part.shift, home)
            elif self._window is not None and stay is not None:
                home = self._window.spans(stay, stayed, home)
                stayed += len(home.weights)
            yield from home.to(copies.part(part.first, part.last))

    def _locate(self) -> Located:
        """Where rows are; asked of the host again after whole-table work that wrote or moved them."""
        if self._located is None or self._seen != self._host.changes:
            device = self._device
            self._adopt()
            if self._window is not None:
                self._window.forget()
            if self._last_N is not self._host.last_N:
                self._last_N.copy_(self._host.last_N)  # copy: four bytes a row; a checkpoint may have been put back
                device.compute.mark().finish()  # synchronize: of whole-table work, not of steps
            self._located, self._seen = self._host.located_on(device), self._host.changes
            if self._hot is not None:
                with device.within(device.reads):
                    self._cache = self._filled(self._hot, self._located)
        return self._located

    def _adopt(self) -> None:
        if self._window is not None:
            return
        for memory, length in self._host.memories():
            self._device.adopt(memory, length)

    def _filled(self, hot: Prefixes, located: Located) -> RowSpans:
        device, extents = self._device, [self._host.extent(rows) for rows in hot.ranges]
        extent = extents[0].plus(extents[1])
        try:
            memories = [device.empty(size, self._like) for size in extent[:2]]
            cache = located.cache(hot.ranges, memories, self._last_N.device)
        except torch.OutOfMemoryError:
            raise DeviceError(
                f"{len(hot):,} rows and their state should be kept on the GPU, and it has no room for these "
                f"{extent.nbytes:,} bytes; lower table.cache_bytes, or use table.placement = 'host' instead of 'device'"
            ) from None
        for home, own, stay in self._whole(hot, located, cache):
            device.copy(device.reads, home.to(own))  # copy: the cached rows, after whole-table work that wrote them
            self._leave(stay, device.reads.mark(), changed=False)
        return cache

    def _flush(self) -> None:
        """Send the cached rows home: the cache alone has their updates."""
        if self._hot is None or self._located is None or self._cache is None:
            return
        device, writes = self._device, self._device.writes
        with device.within(writes):
            for home, own, stay in self._whole(self._hot, self._located, self._cache):
                device.copy(writes, own.to(home))  # copy: the cached rows, before whole-table work
                self._leave(stay, writes.mark(), changed=True)
        writes.mark().finish()  # synchronize: whole-table work reads host memory

    def _whole(self, hot: Prefixes, located: Located, cache: RowSpans) -> Iterator[tuple[RowSpans, RowSpans, Stay | None]]:
        """All cached rows in chunks: where they are at home, or in the window for a stay, and in the cache."""
        window, place = self._window, 0
        most = _CHUNK_ROWS if window is None else max(1, min(_CHUNK_ROWS, window.places // 4))
        own = torch.arange(min(most, len(hot)), device=self._last_N.device)
        for rows in hot.ranges:
            for first in range(rows.start, rows.stop, most):
                count = min(most, rows.stop - first)
                homes, stay = located.spans(own[:count], first), None
                if window is not None:
                    stay = window.admit(np.arange(first, first + count))
                    homes = window.spans(stay, 0, homes)
                yield homes, located.cached(cache, own[:count], place, homes), stay
                place += count

    def _leave(self, stay: Stay | None, over: Mark, changed: bool) -> None:
        if self._window is not None and stay is not None:
            self._window.leave(stay, over, changed)

    def traffic(self) -> Traffic:
        """What was moved so far."""
        return self._moved

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        """The rows of the ticket, where the device has them. Another ticket than before begins a new batch."""
        return self._at(ticket).rows.read(with_state, self._host.numbers)

    def decode(self, rows: Rows) -> torch.Tensor:
        return self._at(rows.ticket).rows.decode()

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        return self._at(ticket).rows.stored(tile_RD)

    def write(self, rows: Rows) -> None:
        """Send the current batch's rows back, after everything that was asked of them. The next use of the ticket reads anew."""
        staged, writes, updated = self._at(rows.ticket), self._device.writes, self._device.compute.mark()
        writes.after(updated)
        self._device.copy(writes, [(copy, home) for home, copy in staged.pairs])  # copy: of this batch's rows, over PCIe
        self._written += 1
        home = writes.mark()
        self._leaving.append(_Leaving(staged, home, self._written))
        self._leave(staged.stay, home, changed=True)
        self._current = None
        self._forget(updated)

    def drained(self) -> HostTable:
        """The host table with every update in it. Rows on their way are read again afterwards."""
        # synchronize: whole-table work reads host memory.
        moving: list[_Arriving | _Leaving] = [*self._arriving.values(), *self._leaving]
        for each in moving:
            each.mark.finish()
        self._device.compute.mark().finish()
        for arriving in self._arriving.values():
            self._leave(arriving.staged.stay, arriving.mark, changed=False)
        if self._current is not None:
            self._leave(self._current[1].stay, self._device.compute.mark(), changed=False)
        if self._written > self._flushed:
            self._flush()
            if self._last_N is not self._host.last_N:
                self._host.last_N.copy_(self._last_N)  # copy: four bytes a row
            self._flushed = self._written
        if self._window is not None:
            self._window.settle()
        current = [] if self._current is None else [self._current[1]]
        for staged in (*(each.staged for each in moving), *current):
            staged.slot.held = None
            self._ring.give_back(staged.slot)
        again = {ticket: arriving.staged.index_R for ticket, arriving in self._arriving.items()}
        self._announced = {**again, **self._announced}
        self._arriving.clear()
        self._leaving.clear()
        self._current = None
        return self._host

    def close(self) -> None:
        """Wait for the device and give back the host memory that it reads. The table must not be used any more."""
        self._device.close()

    def _at(self, ticket: Ticket) -> _Staged:
        if self._current is not None and ticket != self._current[0]:  # read, and never written
            used, staged = self._device.compute.mark(), self._current[1]
            self._ring.give_back(staged.slot, used)
            self._leave(staged.stay, used, changed=False)
            self._current = None
        if self._current is None:
            self._current = ticket, self._arrived(ticket)
        return self._current[1]

    def _arrived(self, ticket: Ticket) -> _Staged:
        """The rows, all as the last update left them."""
        self._begin()
        arriving = self._arriving.pop(ticket, None) or self._reading(ticket, None)  # not announced: read while everyone waits
        self._device.compute.after(arriving.mark)
        for leaving in self._leaving:
            if leaving.number > arriving.behind:
                self._patch(leaving.staged, arriving.staged)
        return arriving.staged

    def _patch(self, earlier: _Staged, later: _Staged) -> None:
        """Rows of both, from the earlier batch's copies: rows keep their lengths between explorations."""
        self._device.patch(earlier.index_R, later.index_R, earlier.copies.to(later.copies))

    def _forget(self, updated: Mark) -> None:
        """Let go what no batch on its way can have missed; the last write but one is what the next read waits for.

        `updated`: a mark of compute after all patches.
        """
        needed = min([self._written - 2, *(arriving.behind for arriving in self._arriving.values())])
        while self._leaving and self._leaving[0].number <= needed:
            leaving = self._leaving.popleft()
            self._ring.give_back(leaving.staged.slot, leaving.mark, updated)
