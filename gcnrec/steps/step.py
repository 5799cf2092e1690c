"""One training step: read, encode, lose, pull back, update, write. Straight down, no branches on the algorithm.

What a step takes from the host is prepared by a thread while earlier steps run, and uploaded at once when its rows are announced.

    sampler thread | prepare t+2                 | prepare t+3
    main thread    | announce t+1 | train t      | announce t+2 | train t+1

Letters: V nodes of the batch, D width, N nodes of the graph.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import arrays_of, ops_for, with_tensors
from gcnrec.models.encoder import Encoded, Encoder, every_row
from gcnrec.models.objective import Objective
from gcnrec.sampling.minibatches import IN_TRAINING, Drawing, Waits, minibatches
from gcnrec.sampling.sampler import Batch, EdgeSampler
from gcnrec.steps.guards import Check, Immediate, Loss, finite
from gcnrec.tables.dense import StepTable
from gcnrec.tables.features.sides import FeatureSides
from gcnrec.tables.pipelined import Traffic
from gcnrec.tables.placement import traffic_of
from gcnrec.tables.rules import Rule


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch and what the `encoder` and the `objective` take from the host for it, `packed` as `Ops.pack` does."""

    batch: Batch
    encoder: Any
    objective: Any
    packed: Any


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A batch whose numbers are where the step's kernels read them."""

    batch: Batch
    encoder: Any
    objective: Any

    @property
    def num_rows(self) -> int:
        return len(self.batch.rows_R)


@dataclass(frozen=True)
class Step:
    """The parts of a step. `train` takes it on a batch of `batches`, calling the step on any batch.

    By `check`, a loss or gradient that is not finite updates nothing and raises DivergedError. `drawing`: on which cores batches
    are drawn ahead. `features` that the encoder reads are announced with a batch.
    """

    sampler: EdgeSampler
    encoder: Encoder
    table: StepTable
    rule: Rule
    objective: Objective
    layer_optimizer: torch.optim.Optimizer | None
    layer_rate: float = 1.0
    check: Check = field(default_factory=Immediate)
    drawing: Drawing = IN_TRAINING
    features: FeatureSides | None = None

    def __call__(self, batch: Batch, rate: float) -> float:
        """Train at one learning rate on a batch that was not announced; returns its loss."""
        known = [*self.train(self.upload(self.prepare(batch)), rate), *self.check.settled()]
        return known[-1].value

    def batches(self, epoch: int, waits: Waits, first: int = 0) -> Generator[Uploaded]:
        """The batches `first` (0, 1, ...) and later of `epoch`, prepared ahead by threads, each announced one step before."""

        def drawn(index: int) -> Prepared:
            return self.prepare(self.sampler.batch(epoch, index))

        return minibatches(drawn, self.announce, range(first, self.sampler.steps_per_epoch), waits, self.drawing)

    def prepare(self, batch: Batch) -> Prepared:
        """All that the host gives to a step on `batch`. Any thread may ask."""
        ops = ops_for(self.table.device)
        given = self.encoder.prepare(batch, ops), self.objective.prepare(batch)
        return Prepared(batch, *given, ops.pack(arrays_of((batch.rows_R, *given))))

    def announce(self, prepared: Prepared) -> Uploaded:
        """Upload a batch, and begin to read its rows."""
        with self.table.announcing():
            index_R, encoder, objective = self._uploaded(prepared)
        ticket = self.table.prefetch(prepared.batch.rows_R, index_R)
        if self.features is not None:
            self.features.prefetch(ticket, index_R)
        return Uploaded(replace(prepared.batch, ticket=ticket), encoder, objective)

    def upload(self, prepared: Prepared) -> Uploaded:
        """Upload a batch that is not announced."""
        _, encoder, objective = self._uploaded(prepared)
        return Uploaded(prepared.batch, encoder, objective)

    def train(self, uploaded: Uploaded, rate: float) -> list[Loss]:
        """Take the step at one learning rate; returns the losses that are known by now, and were not yet returned."""
        if self.layer_optimizer is not None:
            self.layer_optimizer.zero_grad()
        loss, encoded, grad_VD, grad_ego_VD = self._backward(uploaded)
        grad = encoded.pull(grad_VD, grad_ego_VD)
        gradients = {"gradient of the table's rows": [grad.values_X], "gradient of the model's layers": self._layer_gradients()}
        step = uploaded.batch.step
        known = self.check.judge(step, loss, gradients)
        if self.rule.every_row:
            grad = every_row(grad, self.table.num_rows, self.table.width)
        grad = replace(grad, bad=self.check.bad)
        rows = self.rule.update(self.table.read(grad.ticket, with_state=True), grad, step, rate)
        self.table.write(rows)
        if self.layer_optimizer is not None:
            for group in self.layer_optimizer.param_groups:
                group["lr"] = rate * self.layer_rate
            self.layer_optimizer.step()
        return known

    def traffic(self) -> Traffic | None:
        """What steps moved so far, of rows and of features; None where both are read in place."""
        return traffic_of(self.table, self.features)

    def fresh(self, epoch: int, index: int) -> Batch:
        return self.sampler.batch(epoch, index)

    def add_gradient(self, batch: Batch, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
        """Add the gradient of every cell of rows `rows_R`, stored or not, to `out_RD`; nothing is updated."""
        loss, encoded, grad_VD, grad_ego_VD = self._backward(self.upload(self.prepare(batch)))
        finite(batch.step, loss, {"gradient of the embeddings": [grad_VD, grad_ego_VD]})
        encoded.pull_whole(grad_VD, grad_ego_VD, rows_R, out_RD)

    def _uploaded(self, prepared: Prepared) -> tuple[torch.Tensor, Any, Any]:
        """The numbers of the batch's rows, and what encoder and objective take, by one copy."""
        index_R, *tensors = ops_for(self.table.device).upload(prepared.packed)
        return index_R, *with_tensors((prepared.encoder, prepared.objective), iter(tensors))

    def _backward(self, uploaded: Uploaded) -> tuple[torch.Tensor, Encoded, torch.Tensor, torch.Tensor]:
        """Loss, and its gradients with respect to the embeddings and the table rows of the batch's nodes."""
        encoded = self.encoder.encode(self.table, uploaded.batch, uploaded.encoder)
        final_VD = encoded.final_VD.requires_grad_()
        # A second leaf even where both are the same rows: each use has its own gradient.
        ego_VD = encoded.ego_VD.detach().requires_grad_()
        loss = self.objective(final_VD, ego_VD, uploaded.objective)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), encoded, _grad(final_VD), _grad(ego_VD)

    def _layer_gradients(self) -> list[torch.Tensor]:
        parameters = [] if self.encoder.layers is None else self.encoder.layers.parameters()
        return [leaf.grad for leaf in parameters if leaf.grad is not None]


def _grad(leaf: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
