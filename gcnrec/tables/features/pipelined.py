"""Features that stay in host memory while a device trains: a batch's rows come while the previous one trains.

    reads    | read t+1           | read t+2             |
    compute  | decode t, train t  | decode t+1, train t+1 |

Nothing changes the rows, so that nothing is patched or sent back. They arrive as stored and become float32 on the device.
A buffer is filled again after a mark behind its last reader, which the reads wait for and the host does not.
Letters: R rows of a batch, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import ops_for
from gcnrec.errors import DeviceError
from gcnrec.ops.slots import LINE_BYTES
from gcnrec.queues import Device, Mark, Pair, Spans
from gcnrec.rows import Ticket
from gcnrec.tables.features.table import FeatureTable
from gcnrec.tables.pipelined import Traffic
from gcnrec.tables.ring import Ring, Slot
from gcnrec.tables.staged import ROW_UNIT, RowSpans, multiples
from gcnrec.tables.window import Stay, Window

SLOTS = 3
"""Batches in memory: the first arrives, the second waits to be read, the third has been read by the time it is taken."""
_VECTOR_BYTES = 16
"""The widest of a copy's vectors."""
_PIECE = 8192
"""Values of a piece of the cache, as it is filled."""
_VALUES = {"float32": torch.float32, "float16": torch.uint16, "bfloat16": torch.uint16, "int8": torch.int8}


@dataclass(frozen=True, slots=True, eq=False)
class _Arriving:
    """Rows that are whole after `mark`: in order in a slot of the ring, or without one in the cache, where `index_R` has them
    if it came from the caller."""

    mark: Mark
    slot: Slot | None
    index_R: torch.Tensor | None


class PipelinedFeatures:
    """`host` behind a device's queues; the device keeps the first `hot` rows, of the nodes of highest degree.

    It reaches the others in the `window`, or without one where they lie. DeviceError where the hot rows do not fit.
    """

    def __init__(self, host: FeatureTable, device: Device, hot: int = 0, window: Window | None = None) -> None:
        stored = host.stored
        self.host, self._device, self._first_node = host, device, host.first_node
        self._hot = min(hot, host.num_rows)
        self._memory, self._window = host.memory, window
        if window is None:  # at once: memory that cannot be pinned is reported before training begins
            device.adopt(self._memory, len(self._memory))
        row_bytes = host.width * stored.values.itemsize
        self._pitch = host.pitch_bytes // ROW_UNIT
        self._span = min(host.pitch_bytes, -(-row_bytes // _VECTOR_BYTES) * _VECTOR_BYTES) // ROW_UNIT
        self._grid = None if stored.grid is None else tuple(device.resident(torch.from_numpy(part)) for part in stored.grid)
        self._cache = self._filled() if self._hot else None
        self._ring, self._places = Ring(device, SLOTS), multiples(1)
        self._arriving: dict[Ticket, _Arriving] = {}
        self._moved = Traffic()

    def prefetch(self, ticket: Ticket, nodes_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> None:
        """Begin to read the rows of ascending nodes."""
        self._arriving[ticket] = self._reading(nodes_R, index_R)

    def read(self, ticket: Ticket, nodes_R: NDArray[np.int64]) -> torch.Tensor:
        arriving = self._arriving.pop(ticket, None) or self._reading(nodes_R, None)  # not announced: read while everyone waits
        self._device.compute.after(arriving.mark)
        slot = arriving.slot
        if slot is None:
            index_R = self._device.place(nodes_R) if arriving.index_R is None else arriving.index_R
            return self._decoded(self._cache, self._pitch, index_R - self._first_node, len(nodes_R))
        made_RF = self._decoded(slot.buffers[0], self._span, None, len(nodes_R))
        self._ring.give_back(slot, self._device.compute.mark())
        return made_RF

    def traffic(self) -> Traffic:
        """What was moved so far."""
        return self._moved

    def _reading(self, nodes_R: NDArray[np.int64], index_R: torch.Tensor | None) -> _Arriving:
        device, reads, rows = self._device, self._device.reads, len(nodes_R)
        hot = int(np.searchsorted(nodes_R, self._first_node + self._hot))
        self._count(nodes_R[hot:], hot)
        if self._hot == self.host.num_rows:
            return _Arriving(reads.mark(), None, index_R)
        with device.within(reads):
            index_R = device.place(nodes_R) if index_R is None else index_R
            slot = self._ring.take(reads, (rows * self._span,), self._memory)
            stay = None if self._window is None else self._window.admit(nodes_R[hot:] - self._first_node)
            pairs = list(self._pairs(slot.buffers[0], index_R, hot, stay))
            device.copy(reads, pairs)  # copy: of this batch's rows, over PCIe
        mark = reads.mark()
        self._leave(stay, mark)
        return _Arriving(mark, slot, None)

    def _pairs(self, buffer: torch.Tensor, index_R: torch.Tensor, hot: int, stay: Stay | None) -> Iterator[Pair]:
        """Where the first `hot` rows come from, in the cache, and all others, at home or in the window; and where each goes."""
        rows = len(index_R)
        copies = Spans(buffer, self._places.first(rows, index_R.device), self._span, self._span)
        for memory, first, last in ((self._cache, 0, hot), (self._memory, hot, rows)):
            if memory is not None and first < last:
                home = Spans(memory, index_R, self._span, self._pitch, -self._first_node).part(first, last)
                if memory is self._memory:
                    home = self._reached(home, stay)
                yield home, copies.part(first, last)

    def _reached(self, home: Spans, stay: Stay | None) -> Spans:
        """Rows where the device reaches them: at home, or in the window for a stay."""
        if self._window is None or stay is None:
            return home
        return self._window.spans(stay, 0, RowSpans(home, home)).weights

    def _leave(self, stay: Stay | None, over: Mark) -> None:
        if self._window is not None and stay is not None:
            self._window.leave(stay, over, changed=False)

    def _decoded(self, memory: torch.Tensor | None, pitch: int, index_R: torch.Tensor | None, rows: int) -> torch.Tensor:
        assert memory is not None
        stored, ops = self.host.stored, ops_for(memory.device)
        values = memory.view(_VALUES[stored.dtype])
        placed = ops.features(values, pitch * ROW_UNIT // values.element_size(), self.host.width, stored.dtype, self._grid)
        out_RF = torch.empty(rows, self.host.width, device=memory.device)
        ops.read_features(placed, index_R, out_RF)
        return out_RF

    def _filled(self) -> torch.Tensor:
        """The rows of the cache, with the pitch that they have at home."""
        device, length = self._device, self._hot * self._pitch
        try:
            cache = device.empty(length, self._memory)
        except torch.OutOfMemoryError:
            raise DeviceError(
                f"features of {self._hot:,} nodes should be kept on the GPU, and it has no room for these {ROW_UNIT * length:,} "
                "bytes; lower table.cache_bytes, or use table.placement = 'host' instead of 'device'"
            ) from None
        with device.within(device.reads):
            if self._window is not None:
                self._fill_through(self._window, cache)
                return cache
            at = device.place(np.arange(0, length, _PIECE))
            pieces = torch.clamp(length - at, max=_PIECE)
            # copy: once, of the rows to keep
            device.copy(device.reads, [(Spans(self._memory, at, pieces), Spans(cache, at, pieces))])
        return cache

    def _fill_through(self, window: Window, cache: torch.Tensor) -> None:
        """Bring the rows of the cache in chunks that the window has places for."""
        device, chunk = self._device, max(1, window.places // 4)
        for first in range(0, self._hot, chunk):
            rows = np.arange(first, min(first + chunk, self._hot))
            own = Spans(cache, device.place(rows), self._pitch, self._pitch)
            stay = window.admit(rows)
            device.copy(device.reads, [(self._reached(own, stay), own)])  # copy: once, of the rows to keep
            self._leave(stay, device.reads.mark())

    def _count(self, cold_R: NDArray[np.int64], hot: int) -> None:
        moved = self._moved
        moved.rows += len(cold_R) + hot
        moved.cached_rows += hot
        moved.bytes += ROW_UNIT * self._span * len(cold_R)
        moved.lines += self._lines(cold_R)

    def _lines(self, cold_R: NDArray[np.int64]) -> int:
        """Lines that hold the rows of nodes, each row's counted by itself."""
        pitch, span = ROW_UNIT * self._pitch, ROW_UNIT * self._span
        if self._window is not None:  # places begin on lines
            return len(cold_R) * -(-span // LINE_BYTES)
        skip = self._memory.data_ptr() % LINE_BYTES
        if not skip and (pitch % LINE_BYTES == 0 or LINE_BYTES % pitch == 0):
            return len(cold_R) * -(-span // LINE_BYTES)
        first_R = (cold_R - self._first_node) * pitch + skip
        return int(((first_R + span - 1) // LINE_BYTES - first_R // LINE_BYTES + 1).sum())
