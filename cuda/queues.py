"""A GPU as `gcnrec.queues` has it: streams for queues, zero-copy kernels between pinned host memory and the device.

Tables that cannot be pinned are copied by the host, row by row through pinned buffers: right, but nothing overlaps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.cuda.hostmemory import adopt
from gcnrec.cuda.pinned import PinnedMemory, StagedMemory, pin_or_stage
from gcnrec.cuda.slots import copy_spans
from gcnrec.queues import Mark, Queue, Spans

CopySpans = Callable[[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[np.int64], NDArray[np.int64]], None]
TRANSFER_BLOCKS = 24
"""Blocks of a transfer kernel, of 256 threads each: enough lines in flight for PCIe 5 (512 KiB), few enough to leave the
multiprocessors to training."""


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


class CudaDevice:
    """Streams of one GPU, and the host memory that it was given. `close` releases the memory, as the end of the object does.

    `copy_on_host` is `copy_spans` of `gcnrec.ops.slots`; `reasons` says of each memory that could not be pinned why.
    """

    def __init__(self, device: torch.device, copy_on_host: CopySpans, max_blocks: int = TRANSFER_BLOCKS) -> None:
        self._device, self._copy_on_host, self._max_blocks = device, copy_on_host, max_blocks
        self.compute = StreamQueue(torch.cuda.current_stream(device))
        self.reads = StreamQueue(torch.cuda.Stream(device, priority=-1))
        self.writes = StreamQueue(torch.cuda.Stream(device))
        self._pinned: dict[int, list[PinnedMemory]] = {}
        self._lengths: dict[int, int] = {}
        self._staged: dict[int, StagedMemory] = {}

    @property
    def reasons(self) -> list[str]:
        return [staged.reason for staged in self._staged.values()]

    def adopt(self, memory: torch.Tensor, length: int) -> None:
        """Pin the first `length` values; only what was not pinned before."""
        start = memory.data_ptr()
        done = self._lengths.get(start, 0)
        if length <= done or start in self._staged:
            return
        outcome = pin_or_stage(adopt(memory[done:length]))
        if isinstance(outcome, StagedMemory):
            self._staged[start] = outcome
            return
        self._pinned.setdefault(start, []).append(outcome)
        self._lengths[start] = length

    def within(self, queue: Queue) -> AbstractContextManager[Any]:
        return torch.cuda.stream(_stream(queue))

    def place(self, values: NDArray[np.int64]) -> torch.Tensor:
        # copy: through pinned memory, which torch keeps until the copy is over
        placed = torch.from_numpy(values).pin_memory().to(self._device, non_blocking=True)
        return self._shared(placed)

    def empty(self, length: int, like: torch.Tensor) -> torch.Tensor:
        return self._shared(torch.empty(length, dtype=like.dtype, device=self._device))

    def resident(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._device)  # copy: once, and after explorations

    def copy(self, queue: Queue, source: Spans, target: Spans) -> None:
        with torch.cuda.stream(_stream(queue)):
            if source.memory.data_ptr() in self._staged:
                self._read_staged(source, target)
            elif target.memory.data_ptr() in self._staged:
                self._write_staged(source, target)
            else:
                parts = (source.memory, source.at_R, target.memory, target.at_R, source.length_R)
                copy_spans(*parts, max_blocks=self._max_blocks)

    def close(self) -> None:
        """Wait for all work and unregister."""
        torch.cuda.synchronize(self._device)  # synchronize: kernels must not read memory that is given back
        for pieces in self._pinned.values():
            for piece in pieces:
                piece.close()
        self._pinned.clear()

    def _shared(self, tensor: torch.Tensor) -> torch.Tensor:
        """Tell the allocator that every queue may use the memory, so that it is reused only after all of them."""
        for queue in (self.compute, self.reads, self.writes):
            tensor.record_stream(queue.stream)
        return tensor

    def _read_staged(self, source: Spans, target: Spans) -> None:
        self.writes.stream.synchronize()  # synchronize: the host reads what the last write put there
        lengths, at = source.length_R.cpu().numpy(), source.at_R.cpu().numpy()
        packed = torch.empty(len(target.memory), dtype=target.memory.dtype).pin_memory()
        self._copy_on_host(source.memory.numpy(), at, packed.numpy(), np.cumsum(lengths) - lengths, lengths)
        target.memory.copy_(packed, non_blocking=True)  # copy: the rows, gathered by the host

    def _write_staged(self, source: Spans, target: Spans) -> None:
        packed = source.memory.cpu()  # synchronize: the host spreads the rows
        lengths, at = source.length_R.cpu().numpy(), target.at_R.cpu().numpy()
        self._copy_on_host(packed.numpy(), source.at_R.cpu().numpy(), target.memory.numpy(), at, lengths)


def _stream(queue: Queue) -> torch.cuda.Stream:
    return cast(StreamQueue, queue).stream  # queues come from this device
