"""What epochs, explorations, checkpoints and exports need of a step, whether one process takes it or several."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.models.encoder import Encoder
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.guards import Check, Loss
from gcnrec.tables.dense import StepTable
from gcnrec.tables.pipelined import Traffic


class DrawnBatch(Protocol):
    """A batch by its number (1 ..) and the rows that it reads, ascending and unique."""

    @property
    def step(self) -> int: ...

    @property
    def rows_R(self) -> NDArray[np.int64]: ...


class AnnouncedBatch(Protocol):
    """A batch that can be trained. `num_rows`: rows that all workers together read for it."""

    @property
    def batch(self) -> DrawnBatch: ...

    @property
    def num_rows(self) -> int: ...


class Sampling(Protocol):
    """What draws batches."""

    @property
    def graph(self) -> BipartiteGraph: ...

    @property
    def steps_per_epoch(self) -> int: ...


class TrainingStep(Protocol):
    """A step of training, and what it changes."""

    @property
    def sampler(self) -> Sampling: ...

    @property
    def encoder(self) -> Encoder: ...

    @property
    def table(self) -> StepTable: ...

    @property
    def layer_optimizer(self) -> torch.optim.Optimizer | None: ...

    @property
    def check(self) -> Check: ...

    def batches(self, epoch: int, waits: Waits, first: int = 0) -> Generator[Any]:
        """The batches `first` (0, 1, ...) and later of `epoch`, each to be trained before the next is asked for."""
        ...

    def train(self, uploaded: Any, rate: float) -> list[Loss]:
        """Take the step at one learning rate; returns the losses that are known by now, and were not yet returned."""
        ...

    def traffic(self) -> Traffic | None:
        """What steps moved so far, of rows and of features; None where both are read in place."""
        ...

    def fresh(self, epoch: int, index: int) -> Any:
        """Batch `index` of `epoch`, for `add_gradient` alone."""
        ...

    def add_gradient(self, batch: Any, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
        """Add the gradient of every cell of rows `rows_R`, stored or not, to `out_RD`; nothing is updated."""
        ...
