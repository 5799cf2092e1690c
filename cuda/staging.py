"""Rows of host memory that the device cannot reach: the host gathers and spreads them, and buffers carry them across.

Rules of order, which hold whatever the device's queues do meanwhile:

* `read` reads host memory during the call. All rows that `write` copied are there by then; no other writer may run.
* `write` returns when the rows lie in host memory. So it waits for everything that its queue was given before.
* A buffer is filled again only after the mark of its last journey, so two of them keep the host and PCIe busy at once.

So a staged copy is over no later, seen from the host, than its queue would have it, and no rule of `gcnrec.queues` is broken.
Letters: R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.queues import Mark, Spans

CopySpans = Callable[[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[np.int64], NDArray[np.int64]], None]
"""`copy_spans` of `gcnrec.ops.slots`."""
ToDevice = Callable[[torch.Tensor, Spans], Mark]
"""Begin to bring packed values from a buffer to spans on the device; after the mark the buffer may be filled again."""
ToHost = Callable[[Spans, torch.Tensor], Mark]
"""Begin to bring spans on the device to a buffer, packed; after the mark they are there."""
BUFFER_BYTES = 32 << 20


@dataclass(slots=True)
class _Buffer:
    content: torch.Tensor
    journey: Mark | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that fit into a buffer: where they lie at home (`at_R`, in host numbers), in the buffer and on the device."""

    at_R: NDArray[np.int64]
    packed_at_R: NDArray[np.int64]
    length_R: NDArray[np.int64]
    buffer: _Buffer
    packed: torch.Tensor
    on_device: Spans


class Staging:
    """Copies through a ring of two buffers, which `allocate` makes of so many bytes (uint8) when they are first needed."""

    def __init__(
        self, copy_on_host: CopySpans, to_device: ToDevice, to_host: ToHost, allocate: Callable[[int], torch.Tensor],
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:  # fmt: skip
        self._copy_on_host, self._to_device, self._to_host = copy_on_host, to_device, to_host
        self._allocate, self._buffer_bytes = allocate, buffer_bytes
        self._ring = [_Buffer(torch.empty(0, dtype=torch.uint8)) for _ in range(2)]

    def read(self, source: Spans, target: Spans) -> None:
        """Copy spans of host memory to spans of equal lengths on the device, as work of the queue that is current."""
        for part in self._parts(source, target):
            self._copy_on_host(source.memory.numpy(), part.at_R, part.packed.numpy(), part.packed_at_R, part.length_R)
            part.buffer.journey = self._to_device(part.packed, part.on_device)

    def write(self, source: Spans, target: Spans) -> None:
        """Copy spans on the device to spans of equal lengths of host memory."""
        for part in self._parts(target, source):
            self._to_host(part.on_device, part.packed).finish()  # synchronize: the host spreads the rows
            self._copy_on_host(part.packed.numpy(), part.packed_at_R, target.memory.numpy(), part.at_R, part.length_R)

    def _parts(self, home: Spans, on_device: Spans) -> Iterator[_Part]:
        """The rows in order, as many at a time as a buffer holds, or a single longer row."""
        at_R, length_R = home.starts().cpu().numpy(), home.lengths().cpu().numpy()  # synchronize: the host spreads and gathers
        end_R, room = np.cumsum(length_R), self._buffer_bytes // home.memory.element_size()
        first = 0
        while first < len(end_R):
            before = end_R[first] - length_R[first]
            last = max(first + 1, int(np.searchsorted(end_R, before + room, side="right")))
            rows, size = slice(first, last), int(end_R[last - 1] - before)
            if size:
                buffer = self._next(size * home.memory.element_size())
                packed = buffer.content[: size * home.memory.element_size()].view(home.memory.dtype)
                spans = on_device.part(first, last)
                yield _Part(at_R[rows], end_R[rows] - length_R[rows] - before, length_R[rows], buffer, packed, spans)
            first = last

    def _next(self, nbytes: int) -> _Buffer:
        """The buffer that was idle longest, large enough, with its last journey over."""
        buffer = self._ring.pop(0)
        self._ring.append(buffer)
        if buffer.journey is not None:
            buffer.journey.finish()  # synchronize: the host runs at most one buffer ahead
            buffer.journey = None
        if len(buffer.content) < nbytes:
            buffer.content = self._allocate(max(nbytes, self._buffer_bytes))
        return buffer
