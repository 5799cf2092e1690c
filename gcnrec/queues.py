"""What a device offers for overlapping transfers with training: three in-order queues, and copies of spans between memories.

On CUDA a queue is a stream. Work of one queue runs in the order in which it was given; between queues nothing holds but
`after`. So whoever uses a queue says what must be over before, and may not assume more. Memory follows the same rule: what work
of another queue than its own still reads must stay referenced until that work is over (`gcnrec.tables.ring`).
Letters: R pieces, E rows of an earlier batch, L rows of a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Spans:
    """Pieces of a flat memory: piece r starts at value (at_R[r] + shift) * pitch and has `length_R[r]` values.

    `at_R` and `length_R` int64, on the device; `length_R` is a number where all pieces have one length.
    """

    memory: torch.Tensor
    at_R: torch.Tensor
    length_R: torch.Tensor | int
    pitch: int = 1
    shift: int = 0

    def __len__(self) -> int:
        return len(self.at_R)

    def part(self, first: int, last: int) -> Spans:
        """Pieces first .. last-1, without a copy."""
        if first == 0 and last == len(self.at_R):
            return self
        lengths = self.length_R if isinstance(self.length_R, int) else self.length_R[first:last]
        return replace(self, at_R=self.at_R[first:last], length_R=lengths)

    def starts(self) -> torch.Tensor:
        """The first value of each piece, int64 (R)."""
        return (self.at_R + self.shift) * self.pitch

    def lengths(self) -> torch.Tensor:
        """The number of values of each piece, int64 (R)."""
        return torch.full_like(self.at_R, self.length_R) if isinstance(self.length_R, int) else self.length_R

    def packed_in(self, memory: torch.Tensor) -> Spans:
        """Pieces of the same lengths, one after the other in `memory`."""
        if isinstance(self.length_R, int):
            return Spans(memory, torch.arange(len(self.at_R), device=self.at_R.device), self.length_R, self.length_R)
        return Spans(memory, self.length_R.cumsum(0) - self.length_R, self.length_R)


Pair = tuple[Spans, Spans]
"""A source and a target: as many pieces of equal lengths, of one dtype."""


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
        """What the calling thread asks torch for inside is work of `queue`, and memory that it takes is memory of `queue`."""
        ...

    def place(self, values: NDArray[np.int64]) -> torch.Tensor:
        """Host numbers on the device, copied as work of the queue that is current."""
        ...

    def empty(self, length: int, like: torch.Tensor) -> torch.Tensor:
        """Uninitialised flat memory on the device, of the dtype of `like`, to be kept for many batches. Once no reference is
        left, it is reused only after all work of all queues that was given before."""
        ...

    def resident(self, values: torch.Tensor) -> torch.Tensor:
        """A copy on the device of a whole tensor; the tensor itself where the device computes in host memory."""
        ...

    def copy(self, queue: Queue, pairs: Sequence[Pair]) -> None:
        """Copy every source to its target, as work of `queue`; host memory is read and written where it lies. No order holds
        among the pieces of a call."""
        ...

    def patch(self, earlier_E: torch.Tensor, later_L: torch.Tensor, pairs: Sequence[Pair]) -> None:
        """Copy, as work of `compute`, piece e of each source to piece l of its target wherever earlier[e] == later[l].

        Row numbers int64 on the device, ascending, unique. Sources have E pieces and targets L, all of them on the device.
        """
        ...

    def close(self) -> None:
        """Wait for all work and release the host memory."""
        ...
