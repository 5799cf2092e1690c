"""A table that stays in host memory while a device trains on it: rows of the next batch come while this one trains.

For step t the rows of t+1 are read before t has changed its own, and the rows of t-1 may still be on their way back. So a row
that t+1 shares with either arrives old, or torn. Such rows are patched from the copies on the device, t-1's first, then t's,
before t+1 trains: results equal the serial run's bit for bit, and nothing ever waits for a write.

    reads    | read t+1          | read t+2          |
    compute  | train t           | patch, train t+1  |
    writes   |         write t-1 |           write t |

Letters: N rows of the table, R rows of a batch, D width.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DeviceError
from gcnrec.queues import Device, Mark, Spans
from gcnrec.rows import RowGrad, Rows, Ticket
from gcnrec.tables.dense import Table
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.staged import Located, RowSpans, StagedRows

ROW_UNIT = 4
"""Bytes of what `HostTable.sizes` and spans count in."""
_LINE_BYTES = 128


class HostTable(Table, Protocol):
    """A table whose rows are spans of flat host memories."""

    @property
    def last_N(self) -> torch.Tensor:
        """int32: the step of each row's last update."""
        ...

    def memories(self) -> tuple[tuple[torch.Tensor, int], ...]:
        """The flat memories, and how much of each is in use."""
        ...

    def located_on(self, device: Device) -> Located:
        """Where its rows lie, as a device finds them."""
        ...

    def sizes(self, rows_R: NDArray[np.int64]) -> tuple[int, ...]:
        """Lengths of all `spans` together, one number a memory, known to the host."""
        ...


@dataclass(frozen=True, slots=True)
class _Staged:
    """A batch's rows: `copies`, and where each part of them is at home: in host memory or in the cache."""

    ticket: Ticket
    rows: StagedRows
    copies: RowSpans
    homes: tuple[tuple[Spans, Spans], ...]


@dataclass(slots=True)
class Traffic:
    """Totals of training steps: rows read (each comes back once), cached rows among them, bytes read from host memory with
    optimizer state, and the 128-byte lines of these bytes; a line that two rows share counts twice."""

    rows: int = 0
    cached_rows: int = 0
    bytes: int = 0
    lines: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Arriving:
    """Rows being read: whole after `mark`; writes up to number `behind` were over before the read began."""

    staged: _Staged
    mark: Mark
    behind: int


@dataclass(frozen=True, slots=True)
class _Leaving:
    staged: _Staged
    mark: Mark
    number: int


class PipelinedTable:
    """`host` behind a device's queues. A step reads, decodes and writes the rows of one ticket; `prefetch` announces the next.

    Whole-table work (export, exploration, checkpoints) is that of `drained()`.
    """

    def __init__(self, host: HostTable, device: Device, hot: Prefixes | None = None) -> None:
        self._host, self._device = host, device
        self._hot = hot if hot is not None and len(hot.rows_H) else None
        self._adopt()  # at once: memory that cannot be pinned is reported before training begins
        self._last_N = device.resident(host.last_N)
        self._located: Located | None = None
        self._cache: RowSpans | None = None
        self._moved = Traffic()
        self._lines = device.resident(torch.zeros((), dtype=torch.int64))
        self._arriving: dict[Ticket, _Arriving] = {}
        self._leaving: deque[_Leaving] = deque()
        self._announced: list[Ticket] = []
        self._written = 0
        self._current: _Staged | None = None
        self.num_rows, self.width = host.num_rows, host.width

    def prefetch(self, rows_R: NDArray[np.int64]) -> Ticket:
        """Begin to read `rows_R` and their state."""
        ticket = Ticket(rows_R)
        self._announced.append(ticket)
        self._begin()
        return ticket

    def _begin(self) -> None:
        """Begin to read what was announced, and again what the last drain interrupted."""
        for ticket in self._announced:
            self._arriving[ticket] = self._reading(ticket)
        self._announced.clear()

    def _reading(self, ticket: Ticket) -> _Arriving:
        device, reads, located, rows_R = self._device, self._device.reads, self._locate(), ticket.rows_R
        # All but the last write must be over, so that no more than two steps' rows need patching.
        behind = self._written - 1
        for leaving in self._leaving:
            if leaving.number <= behind:
                reads.after(leaving.mark)
        with device.within(reads):
            index_R = device.place(rows_R)
            host = located.spans(index_R)
            copies = self._room_for(host, self._host.sizes(rows_R))
            homes = self._homes(rows_R, host, copies)
            for home, copy in homes:
                device.copy(reads, home, copy)  # copy: of this batch's rows, over PCIe
            rows = located.staged(ticket, index_R, copies, self._last_N)
        return _Arriving(_Staged(ticket, rows, copies, homes), reads.mark(), behind)

    def _room_for(self, host: RowSpans, sizes: tuple[int, ...]) -> RowSpans:
        """Fresh memory of the device for copies of `host`."""
        empty = [self._device.empty(size, span.memory) for size, span in zip(sizes, host, strict=True)]
        return RowSpans(*(span.packed_in(memory) for span, memory in zip(host, empty, strict=True)))

    def _homes(self, rows_R: NDArray[np.int64], host: RowSpans, copies: RowSpans) -> tuple[tuple[Spans, Spans], ...]:
        """Where rows come from and go back to, with the part of the copies that is theirs."""
        pairs = tuple(zip(host, copies, strict=True))
        self._moved.rows += len(rows_R)
        cold_R = rows_R
        cached: tuple[tuple[Spans, Spans], ...] = ()
        if self._hot is not None and self._cache is not None:
            hot, places, cold = self._hot.split(rows_R)
            cold_R = rows_R[cold]
            self._moved.cached_rows += len(hot)
            at_hot, at_places, at_cold = (self._device.place(each) for each in (hot, places, cold))
            cached = tuple((cache.take(at_places), copy.take(at_hot)) for cache, copy in zip(self._cache, copies, strict=True))
            pairs = tuple((home.take(at_cold), copy.take(at_cold)) for home, copy in pairs)
        self._moved.bytes += ROW_UNIT * sum(self._host.sizes(cold_R))
        for home, _ in pairs:
            self._lines += _lines(home)
        return pairs + cached

    def _locate(self) -> Located:
        """Where rows are; asked of the host again after whole-table work, which may have moved them."""
        if self._located is None:
            device, reads = self._device, self._device.reads
            self._adopt()
            if self._last_N is not self._host.last_N:
                self._last_N.copy_(self._host.last_N)  # copy: four bytes a row; a checkpoint may have been put back
                device.compute.mark().finish()
            self._located = self._host.located_on(device)
            if self._hot is not None:
                with device.within(reads):
                    self._cache = self._filled(self._hot, self._located)
        return self._located

    def _adopt(self) -> None:
        for memory, length in self._host.memories():
            self._device.adopt(memory, length)

    def _filled(self, hot: Prefixes, located: Located) -> RowSpans:
        device, rows_H = self._device, hot.rows_H
        host, sizes = located.spans(device.place(rows_H)), self._host.sizes(rows_H)
        try:
            cache = self._room_for(host, sizes)
        except torch.OutOfMemoryError:
            raise DeviceError(
                f"{len(rows_H):,} rows and their state should be kept on the GPU, and it has no room for these "
                f"{ROW_UNIT * sum(sizes):,} bytes; lower table.cache_bytes, or use table.placement = 'host' instead of 'device'"
            ) from None
        for span, copy in zip(host, cache, strict=True):
            device.copy(device.reads, span, copy)  # copy: the cached rows, after every whole-table work
        return cache

    def _flush(self) -> None:
        """Send the cached rows home: the cache alone has their updates."""
        if self._hot is None or self._located is None or self._cache is None:
            return
        device, writes = self._device, self._device.writes
        with device.within(writes):
            host = self._located.spans(device.place(self._hot.rows_H))
            for span, copy in zip(host, self._cache, strict=True):
                device.copy(writes, copy, span)  # copy: the cached rows, before every whole-table work
        writes.mark().finish()

    def traffic(self) -> Traffic:
        """What was moved so far."""
        self._device.reads.mark().finish()  # synchronize: asked for once an epoch
        self._moved.lines = int(self._lines)
        return self._moved

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        """The rows of the ticket, where the device has them. Another ticket than before begins a new batch."""
        return self._at(ticket).rows.read(with_state)

    def decode(self, rows: Rows) -> torch.Tensor:
        return self._at(rows.ticket).rows.decode()

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        return self._at(ticket).rows.stored(tile_RD)

    def write(self, rows: Rows) -> None:
        """Send the current batch's rows back, after everything that was asked of them."""
        staged, writes = self._at(rows.ticket), self._device.writes
        writes.after(self._device.compute.mark())
        for home, copy in staged.homes:
            self._device.copy(writes, copy, home)  # copy: of this batch's rows, over PCIe
        self._written += 1
        self._leaving.append(_Leaving(staged, writes.mark(), self._written))
        self._forget()

    def drained(self) -> HostTable:
        """The host table with every update in it. Rows on their way are read again afterwards."""
        # synchronize: whole-table work reads host memory.
        for arriving in self._arriving.values():
            arriving.mark.finish()
        for leaving in self._leaving:
            leaving.mark.finish()
        self._device.compute.mark().finish()
        self._flush()
        self._announced = [*self._arriving, *self._announced]
        self._arriving.clear()
        self._leaving.clear()
        self._current = self._located = self._cache = None
        if self._last_N is not self._host.last_N:
            self._host.last_N.copy_(self._last_N)  # copy: four bytes a row
        return self._host

    def _at(self, ticket: Ticket) -> _Staged:
        if self._current is None or ticket != self._current.ticket:
            self._current = self._arrived(ticket)
        return self._current

    def _arrived(self, ticket: Ticket) -> _Staged:
        """The rows, all as the last update left them."""
        self._begin()
        arriving = self._arriving.pop(ticket, None) or self._reading(ticket)  # not announced: read while everyone waits
        staged = arriving.staged
        self._device.compute.after(arriving.mark)
        for leaving in self._leaving:
            if leaving.number > arriving.behind:
                self._patch(leaving.staged, staged)
        self._forget()
        return staged

    def _patch(self, earlier: _Staged, later: _Staged) -> None:
        """Rows of both, from the earlier batch's copies: rows keep their lengths between explorations."""
        _, here, there = np.intersect1d(earlier.ticket.rows_R, later.ticket.rows_R, assume_unique=True, return_indices=True)
        device = self._device
        places = device.place(here), device.place(there)
        for source, target in zip(earlier.copies, later.copies, strict=True):
            device.copy(device.compute, source.take(places[0]), target.take(places[1]))

    def _forget(self) -> None:
        """Drop what no batch on its way can have missed; the last write but one is what the next read waits for."""
        needed = min([self._written - 2, *(arriving.behind for arriving in self._arriving.values())])
        while self._leaving and self._leaving[0].number <= needed:
            self._leaving.popleft()


def _lines(home: Spans) -> torch.Tensor:
    """Lines that hold the spans, each span's counted by itself."""
    first, last = home.at_R * ROW_UNIT, (home.at_R + home.length_R) * ROW_UNIT - 1
    return torch.where(home.length_R > 0, last // _LINE_BYTES - first // _LINE_BYTES + 1, 0).sum()
