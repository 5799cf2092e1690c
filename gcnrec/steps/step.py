"""One training step: read, encode, lose, pull back, update, write. Straight down, no branches on the algorithm.

Letters: V nodes of the batch, D width, N nodes of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.models.encoder import Encoded, Encoder, every_row
from gcnrec.models.objective import Objective
from gcnrec.sampling.sampler import Batch, EdgeSampler
from gcnrec.steps.guards import finite
from gcnrec.tables.dense import StepTable
from gcnrec.tables.rules import Rule


@dataclass(frozen=True)
class Step:
    """The parts of a step. Calling it trains on one batch at one learning rate and returns the loss.

    A loss or gradient that is not finite raises DivergedError before the table is touched.
    """

    sampler: EdgeSampler
    encoder: Encoder
    table: StepTable
    rule: Rule
    objective: Objective
    layer_optimizer: torch.optim.Optimizer | None
    layer_rate: float = 1.0

    def __call__(self, batch: Batch, rate: float) -> float:
        if self.layer_optimizer is not None:
            self.layer_optimizer.zero_grad()
        loss, encoded, grad_VD, grad_ego_VD = self._backward(batch)
        grad = encoded.pull(grad_VD, grad_ego_VD)
        gradients = {"gradient of the table's rows": [grad.values_X], "gradient of the model's layers": self._layer_gradients()}
        value = finite(batch.step, loss, gradients)
        if self.rule.every_row:
            grad = every_row(grad, self.table.num_rows, self.table.width)
        rows = self.rule.update(self.table.read(grad.ticket, with_state=True), grad, batch.step, rate)
        self.table.write(rows)
        if self.layer_optimizer is not None:
            for group in self.layer_optimizer.param_groups:
                group["lr"] = rate * self.layer_rate
            self.layer_optimizer.step()
        return value

    def add_gradient(self, batch: Batch, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
        """Add the gradient of every cell of rows `rows_R`, stored or not, to `out_RD`; nothing is updated."""
        loss, encoded, grad_VD, grad_ego_VD = self._backward(batch)
        finite(batch.step, loss, {"gradient of the embeddings": [grad_VD, grad_ego_VD]})
        encoded.pull_whole(grad_VD, grad_ego_VD, rows_R, out_RD)

    def _backward(self, batch: Batch) -> tuple[torch.Tensor, Encoded, torch.Tensor, torch.Tensor]:
        """Loss, and its gradients with respect to the embeddings and the table rows of the batch's nodes."""
        encoded = self.encoder.encode(self.table, batch)
        final_VD = encoded.final_VD.requires_grad_()
        # A second leaf even where both are the same rows: each use has its own gradient.
        ego_VD = encoded.ego_VD.detach().requires_grad_()
        loss = self.objective(final_VD, ego_VD, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), encoded, _grad(final_VD), _grad(ego_VD)

    def _layer_gradients(self) -> list[torch.Tensor]:
        parameters = [] if self.encoder.layers is None else self.encoder.layers.parameters()
        return [leaf.grad for leaf in parameters if leaf.grad is not None]


def _grad(leaf: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
