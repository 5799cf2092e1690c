"""What a device offers for overlapping transfers with training: three in-order queues, and copies of spans between memories.

On CUDA a queue is a stream. Work of one queue runs in the order in which it was given; between queues nothing holds but
`after`. So whoever uses a queue says what must be over before, and may not assume more.
Letters: R rows.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Spans:
    """Pieces of a flat memory: row r's is memory[at_R[r] : at_R[r] + length_R[r]]. `at_R` and `length_R` int64, on the device."""

    memory: torch.Tensor
    at_R: torch.Tensor
    length_R: torch.Tensor

    def take(self, places: torch.Tensor) -> Spans:
        """The pieces at `places`."""
        return Spans(self.memory, self.at_R[places], self.length_R[places])

    def packed_in(self, memory: torch.Tensor) -> Spans:
        """Pieces of the same lengths, one after the other in `memory`."""
        return Spans(memory, self.length_R.cumsum(0) - self.length_R, self.length_R)


class Mark(Protocol):
    """A point in a queue."""

    def finish(self) -> None:
        """Block the calling thread until everything before the mark is done."""
        ...


class Queue(Protocol):
    """Work in order."""

    def mark(self) -> Mark:
        """The point after everything that was given so far."""
        ...

    def after(self, mark: Mark) -> None:
        """Hold back what is given from now on until `mark` of another queue is passed."""
        ...


class Device(Protocol):
    """`compute` runs what the calling thread asks torch for; `reads` and `writes` run concurrently."""

    @property
    def compute(self) -> Queue: ...

    @property
    def reads(self) -> Queue: ...

    @property
    def writes(self) -> Queue: ...

    def adopt(self, memory: torch.Tensor, length: int) -> None:
        """Make the first `length` values of a host memory readable and writable for `copy`; asked again, what was added."""
        ...

    def within(self, queue: Queue) -> AbstractContextManager[Any]:
        """What the calling thread asks torch for inside is work of `queue`."""
        ...

    def place(self, values: NDArray[np.int64]) -> torch.Tensor:
        """Host numbers on the device, for work that is given next."""
        ...

    def empty(self, length: int, like: torch.Tensor) -> torch.Tensor:
        """Uninitialised flat memory on the device, of the dtype of `like`, usable from every queue as long as it is referenced
        when work on it is given."""
        ...

    def resident(self, values: torch.Tensor) -> torch.Tensor:
        """A copy on the device of a whole tensor; the tensor itself where the device computes in host memory."""
        ...

    def copy(self, queue: Queue, source: Spans, target: Spans) -> None:
        """Copy spans of equal lengths, as work of `queue`; host memory is read and written where it lies."""
        ...
