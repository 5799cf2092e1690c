"""A GPU as `gcnrec.queues` has it: streams for queues, zero-copy kernels between pinned host memory and the device.

The host copies rows of memory that cannot be pinned (`gcnrec.cuda.staging`): correct, but next to nothing overlaps.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.cuda.hostmemory import adopt
from gcnrec.cuda.pinned import PinnedMemory, StagedMemory, pin_or_stage
from gcnrec.cuda.spans import copy_pairs, patch
from gcnrec.cuda.staging import CopySpans, Staging
from gcnrec.queues import Mark, Pair, Queue, Spans


@dataclass(frozen=True, slots=True)
class EventMark:
    """A recorded CUDA event."""

    event: torch.cuda.Event

    def finish(self) -> None:
        self.event.synchronize()  # synchronize: asked for


@dataclass(frozen=True, slots=True)
class StreamQueue:
    """A CUDA stream."""

    stream: torch.cuda.Stream

    def mark(self) -> EventMark:
        event = torch.cuda.Event()
        event.record(self.stream)
        return EventMark(event)

    def after(self, mark: Mark) -> None:
        self.stream.wait_event(cast(EventMark, mark).event)  # marks come from the queues of this device


@dataclass(frozen=True, slots=True)
class Carrier:
    """Journeys of packed values between pinned buffers and spans on a GPU, on torch's current stream.

    An object of its own: `Staging` holds it, and would keep the device that holds `Staging` alive, and with it pinned memory.
    """

    device: torch.device
    max_blocks: int

    def to_device(self, packed: torch.Tensor, target: Spans) -> EventMark:
        arrived = packed.to(self.device, non_blocking=True)  # copy: the rows, gathered by the host
        mark = self._mark()
        copy_pairs([(target.packed_in(arrived), target)], self.max_blocks)
        return mark

    def to_host(self, source: Spans, packed: torch.Tensor) -> EventMark:
        leaving = source.packed_in(torch.empty(len(packed), dtype=packed.dtype, device=self.device))
        copy_pairs([(source, leaving)], self.max_blocks)
        packed.copy_(leaving.memory, non_blocking=True)  # copy: the rows, to be spread by the host
        return self._mark()

    def _mark(self) -> EventMark:
        return StreamQueue(torch.cuda.current_stream(self.device)).mark()


class CudaDevice:
    """Streams of one GPU, and the host memory that it adopted. `close` releases the memory, as the end of the object does.

    `copy_on_host` is `copy_spans` of `gcnrec.ops.slots`; `max_blocks` caps transfers; `on_file`: the memory belongs to
    mapped files, which pinning would make resident; `warn` receives the reason for each memory that cannot be pinned.
    """

    def __init__(
        self, device: torch.device, copy_on_host: CopySpans, max_blocks: int, on_file: bool, warn: Callable[[str], object]
    ) -> None:
        self._device, self._max_blocks, self._on_file, self._warn = device, max_blocks, on_file, warn
        self.compute = StreamQueue(torch.cuda.current_stream(device))
        # both before compute: a read waits for a write, and a long grid of training would hold the bus back
        self.reads, self.writes = (StreamQueue(torch.cuda.Stream(device, priority=-1)) for _ in range(2))
        self._pinned: dict[int, list[PinnedMemory]] = {}
        self._lengths: dict[int, int] = {}
        self._staged: dict[int, StagedMemory] = {}
        carrier = Carrier(device, max_blocks)
        self._staging = Staging(copy_on_host, carrier.to_device, carrier.to_host, _pinned_bytes)

    def adopt(self, memory: torch.Tensor, length: int) -> None:
        """Pin the first `length` values; only what was not pinned before."""
        start = memory.data_ptr()
        done = self._lengths.get(start, 0)
        if length <= done or start in self._staged:
            return
        length = whole_pages(memory, length)
        outcome = pin_or_stage(replace(adopt(memory[done:length]), on_file=self._on_file))
        if isinstance(outcome, StagedMemory):
            self._staged[start] = outcome
            self._warn(outcome.reason)
            return
        self._pinned.setdefault(start, []).append(outcome)
        self._lengths[start] = length

    def within(self, queue: Queue) -> AbstractContextManager[Any]:
        return torch.cuda.stream(_stream(queue))

    def place(self, values: NDArray[np.int64]) -> torch.Tensor:
        # copy: through pinned memory, which torch keeps until the copy is over
        return torch.from_numpy(values).pin_memory().to(self._device, non_blocking=True)

    def empty(self, length: int, like: torch.Tensor) -> torch.Tensor:
        memory = torch.empty(length, dtype=like.dtype, device=self._device)
        for queue in (self.compute, self.reads, self.writes):
            memory.record_stream(queue.stream)  # the allocator reuses the memory only after all of them
        return memory

    def resident(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._device)  # copy: once, and after explorations

    def copy(self, queue: Queue, pairs: Sequence[Pair]) -> None:
        direct = []
        with torch.cuda.stream(_stream(queue)):
            for source, target in pairs:
                if source.memory.data_ptr() in self._staged:
                    self._staging.read(source, target)
                elif target.memory.data_ptr() in self._staged:
                    self._staging.write(source, target)
                else:
                    direct.append((source, target))
            copy_pairs(direct, self._max_blocks, by_target=queue is self.writes)

    def patch(self, earlier_E: torch.Tensor, later_L: torch.Tensor, pairs: Sequence[Pair]) -> None:
        patch(earlier_E, later_L, pairs)

    def close(self) -> None:
        """Wait for all work and unregister."""
        torch.cuda.synchronize(self._device)  # synchronize: kernels must not read memory that is given back
        for pieces in self._pinned.values():
            for piece in pieces:
                piece.close()
        self._pinned.clear()
        self._lengths.clear()


def whole_pages(memory: torch.Tensor, length: int) -> int:
    """`length` and the values up to the end of its last page: the driver pins whole pages, and pins none of them twice."""
    start, size = memory.data_ptr(), memory.element_size()
    end = -(-(start + length * size) // mmap.PAGESIZE) * mmap.PAGESIZE
    return min(len(memory), (end - start) // size)


def _pinned_bytes(nbytes: int) -> torch.Tensor:
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


def _stream(queue: Queue) -> torch.cuda.Stream:
    return cast(StreamQueue, queue).stream  # queues come from this device
