"""A step that several workers take together: what the leader says before its share, and how the others follow.

epoch, next, train, close   the steps of an epoch
deal, collect               the leader's whole table to its workers, and back
fresh, gradient             the batches of an exploration, and their gradients
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DivergedError
from gcnrec.models.encoder import Encoder
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.guards import Loss
from gcnrec.steps.protocol import Sampling
from gcnrec.tables.dealt.table import DealtTable
from gcnrec.tables.pipelined import Traffic
from gcnrec.workers.world import World


class SharedStep(ABC):
    """`gcnrec.steps.protocol.TrainingStep` of which `world`'s worker takes a share.

    The leader calls `batches`, `train`, `fresh` and `add_gradient`, which publish commands. Every worker calls the methods below
    these, in the same order.
    """

    sampler: Sampling
    encoder: Encoder
    table: DealtTable
    world: World

    def batches(self, epoch: int, waits: Waits, first: int = 0) -> Generator[Any]:
        """The batches `first` (0, 1, ...) and later of `epoch`, prepared ahead by a thread, each announced one step before."""
        self._agree()  # owners begin to read rows when they are announced
        self.world.publish({"do": "epoch", "epoch": epoch, "first": first})
        try:
            with closing(self.announced(epoch, waits, first)) as announced:
                for _ in range(first, self.sampler.steps_per_epoch):
                    self.world.publish({"do": "next"})
                    yield next(announced)
        finally:
            self.world.publish({"do": "close"})

    def train(self, uploaded: Any, rate: float) -> list[Loss]:
        self._agree()
        self.world.publish({"do": "train", "rate": rate})
        return [self.trained(uploaded, rate)]

    def fresh(self, epoch: int, index: int) -> Any:
        self.world.publish({"do": "fresh", "epoch": epoch, "index": index})
        return self.drawn_with_rows(epoch, index)

    def add_gradient(self, batch: Any, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
        self._agree()
        self.world.publish({"do": "gradient"})
        rows, tile = self.whole_gradient(batch)
        out_RD.index_add_(0, torch.from_numpy(np.searchsorted(rows_R, rows)), tile)

    def traffic(self) -> Traffic | None:
        """Not counted: a table that is dealt out again counts from zero."""
        return None

    def _agree(self) -> None:
        """Where the leader's table was written whole, all workers get their shares, the layers and their optimizer of it."""
        if self.table.stale:
            self.world.publish({"do": "deal"})
            self.deal()

    @abstractmethod
    def deal(self) -> None:
        """Take over table and layers from the leader."""

    @abstractmethod
    def announced(self, epoch: int, waits: Waits, first: int) -> Generator[Any]:
        """This worker's share of `batches`."""

    @abstractmethod
    def trained(self, uploaded: Any, rate: float) -> Loss:
        """Take the step; DivergedError on all workers where a loss or gradient is not finite, and nothing is updated."""

    @abstractmethod
    def drawn_with_rows(self, epoch: int, index: int) -> Any:
        """This worker's share of a batch for `whole_gradient`; on the leader with all rows that the batch reads."""

    @abstractmethod
    def whole_gradient(self, batch: Any) -> tuple[NDArray[np.int64], torch.Tensor]:
        """On the leader: the gradient of every cell of the rows that the batch reads, and their numbers. Nothing is updated."""


class Follower:
    """Takes the steps that the leader publishes, on this worker's share of them."""

    def __init__(self, step: SharedStep) -> None:
        self.step = step
        self._batches: Generator[Any] | None = None
        self._current: Any = None
        self._fresh: deque[Any] = deque()

    def follow(self) -> dict[str, Any]:
        """Until something is published that is no part of a step, which it returns."""
        while True:
            command = self.step.world.awaited()
            if not self._done(command):
                return command

    def _done(self, command: dict[str, Any]) -> bool:
        """Do what belongs to a step; whether it does."""
        step = self.step
        match command["do"]:
            case "deal":
                step.deal()
            case "collect":
                step.table.collect()
            case "epoch":
                self._batches = step.announced(command["epoch"], Waits(), command["first"])
            case "next" if self._batches is not None:
                self._current = next(self._batches)
            case "train" if self._current is not None:
                with suppress(DivergedError):  # nothing was updated, and the leader raises it too
                    step.trained(self._current, command["rate"])
            case "close":
                if self._batches is not None:
                    self._batches.close()
                self._batches = self._current = None
            case "fresh":
                self._fresh.append(step.drawn_with_rows(command["epoch"], command["index"]))
            case "gradient":
                with suppress(DivergedError):
                    step.whole_gradient(self._fresh.popleft())
            case _:
                return False
        return True
