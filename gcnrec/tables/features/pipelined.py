"""Features that stay in host memory while a device trains: a batch's rows come while the previous one trains.

    reads    | read t+1           | read t+2             |
    compute  | decode t, train t  | decode t+1, train t+1 |

Nothing changes the rows, so that nothing is patched or sent back. They arrive as stored and become float32 on the device.
A buffer is filled again after a mark behind its last reader, which the reads wait for and the host does not.
Letters: R rows of a batch, F features, X stored values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import ops_for
from gcnrec.errors import DeviceError
from gcnrec.queues import Device, Mark, Spans
from gcnrec.rows import Ticket
from gcnrec.tables.dense import LINE_BYTES
from gcnrec.tables.features.table import FeatureTable
from gcnrec.tables.pipelined import ROW_UNIT, Traffic

_VECTOR_BYTES = 16
"""The widest of a copy's vectors."""
_PIECE = 8192
"""Values of a piece of the cache, as it is filled."""
_SLACK = 1.125
"""Room of a new buffer over what its first batch needs: later batches are about as large."""
_VALUES = {"float32": torch.float32, "float16": torch.uint16, "bfloat16": torch.uint16, "int8": torch.int8}


@dataclass(slots=True, eq=False)
class _Buffer:
    """Memory of the device for a batch's rows; `used` is behind its last reader."""

    memory: torch.Tensor
    used: Mark | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Arriving:
    """Rows that are whole after `mark`: in order in `buffer`, or without one at `index_R` of the cache."""

    mark: Mark
    buffer: _Buffer | None
    index_R: torch.Tensor | None


class PipelinedFeatures:
    """`host` behind a device's queues; the device keeps the first `hot` rows, those of the nodes of highest degree.

    DeviceError where they do not fit there.
    """

    def __init__(self, host: FeatureTable, device: Device, hot: int = 0) -> None:
        stored = host.stored
        self.host, self.width = host, host.width
        self._device, self._hot = device, min(hot, host.num_rows)
        self._memory = host.memory
        device.adopt(self._memory, len(self._memory))  # at once: memory that cannot be pinned is reported before training begins
        row_bytes, pitch_bytes = host.width * stored.values.itemsize, stored.pitch * stored.values.itemsize
        self._pitch = pitch_bytes // ROW_UNIT
        self._span = min(pitch_bytes, -(-row_bytes // _VECTOR_BYTES) * _VECTOR_BYTES) // ROW_UNIT
        self._grid = None if stored.grid is None else tuple(device.resident(torch.from_numpy(part)) for part in stored.grid)
        self._cache = self._filled() if self._hot else None
        self._arriving: dict[Ticket, _Arriving] = {}
        self._free: list[_Buffer] = []
        self._moved = Traffic()

    def prefetch(self, ticket: Ticket, index_R: NDArray[np.int64]) -> None:
        """Begin to read ascending rows."""
        self._arriving[ticket] = self._reading(index_R)

    def read(self, ticket: Ticket, index_R: NDArray[np.int64]) -> torch.Tensor:
        arriving = self._arriving.pop(ticket, None) or self._reading(index_R)  # not announced: read while everyone waits
        self._device.compute.after(arriving.mark)
        buffer = arriving.buffer
        if buffer is None:
            return self._decoded(self._cache, self._pitch, arriving.index_R, len(index_R))
        made_RF = self._decoded(buffer.memory, self._span, None, len(index_R))
        buffer.used = self._device.compute.mark()
        self._free.append(buffer)
        return made_RF

    def traffic(self) -> Traffic:
        """What was moved so far."""
        return self._moved

    def _reading(self, index_R: NDArray[np.int64]) -> _Arriving:
        device, reads, rows = self._device, self._device.reads, len(index_R)
        hot = int(np.searchsorted(index_R, self._hot))
        self._count(index_R[hot:], hot)
        if self._hot == self.host.num_rows:
            with device.within(reads):
                places_R = device.place(index_R)
            return _Arriving(reads.mark(), None, places_R)
        buffer = self._buffer(rows * self._span)
        if buffer.used is not None:
            reads.after(buffer.used)
        with device.within(reads):
            at_R = device.place(index_R) * self._pitch
            length_R = torch.full_like(at_R, self._span)
            copies = Spans(buffer.memory, torch.arange(rows, device=at_R.device) * self._span, length_R)
            if self._cache is not None and hot:
                device.copy(reads, _part(Spans(self._cache, at_R, length_R), 0, hot), _part(copies, 0, hot))
            # copy: of this batch's rows, over PCIe
            device.copy(reads, _part(Spans(self._memory, at_R, length_R), hot, rows), _part(copies, hot, rows))
        return _Arriving(reads.mark(), buffer, None)

    def _buffer(self, length: int) -> _Buffer:
        """A buffer that no batch holds; one that is too small is dropped."""
        while self._free:
            buffer = self._free.pop(0)
            if len(buffer.memory) >= length:
                return buffer
        return _Buffer(self._device.empty(int(length * _SLACK), self._memory))

    def _decoded(self, memory: torch.Tensor | None, pitch: int, index_R: torch.Tensor | None, rows: int) -> torch.Tensor:
        assert memory is not None
        stored, ops = self.host.stored, ops_for(memory.device)
        values = memory.view(_VALUES[stored.dtype])
        placed: Any = ops.features(values, pitch * ROW_UNIT // values.element_size(), self.width, stored.dtype, self._grid)
        out_RF = torch.empty(rows, self.width, device=memory.device)
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
            at = device.place(np.arange(0, length, _PIECE))
            pieces = torch.clamp(length - at, max=_PIECE)
            device.copy(device.reads, Spans(self._memory, at, pieces), Spans(cache, at, pieces))  # copy: once, of the hot rows
        return cache

    def _count(self, cold_R: NDArray[np.int64], hot: int) -> None:
        moved = self._moved
        moved.rows += len(cold_R) + hot
        moved.cached_rows += hot
        moved.bytes += ROW_UNIT * self._span * len(cold_R)
        moved.lines += self._lines(cold_R)

    def _lines(self, cold_R: NDArray[np.int64]) -> int:
        """Lines that hold the rows, each row's counted by itself."""
        pitch, span = ROW_UNIT * self._pitch, ROW_UNIT * self._span
        skip = self._memory.data_ptr() % LINE_BYTES
        if not skip and (pitch % LINE_BYTES == 0 or LINE_BYTES % pitch == 0):
            return len(cold_R) * -(-span // LINE_BYTES)
        first_R = cold_R * pitch + skip
        return int(((first_R + span - 1) // LINE_BYTES - first_R // LINE_BYTES + 1).sum())


def _part(spans: Spans, first: int, last: int) -> Spans:
    return Spans(spans.memory, spans.at_R[first:last], spans.length_R[first:last])
