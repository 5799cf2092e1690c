"""The queues of a device that does everything at once, in host memory: a dry run has them in place of streams."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.ops.spans import copy_pairs, patch
from gcnrec.queues import Pair


class PlainQueue:
    """A queue, and its own mark: every piece of work is done at once."""

    def mark(self) -> PlainQueue:
        return self

    def after(self, mark: PlainQueue) -> None:
        """Return: the mark is passed."""

    def finish(self) -> None:
        """Return: no work is open."""


class PlainDevice:
    """`gcnrec.queues.Device` on the CPU."""

    def __init__(self) -> None:
        self.compute = self.reads = self.writes = PlainQueue()

    def adopt(self, memory: torch.Tensor, length: int) -> None:
        """Return: the device computes in host memory."""

    def within(self, queue: PlainQueue) -> AbstractContextManager[Any]:
        return nullcontext()

    def place(self, values: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values)

    def empty(self, length: int, like: torch.Tensor) -> torch.Tensor:
        return torch.empty(length, dtype=like.dtype)

    def resident(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def copy(self, queue: PlainQueue, pairs: Sequence[Pair]) -> None:
        copy_pairs(pairs)

    def patch(self, earlier_E: torch.Tensor, later_L: torch.Tensor, pairs: Sequence[Pair]) -> None:
        patch(earlier_E, later_L, pairs)

    def close(self) -> None:
        """Return: nothing is held."""
