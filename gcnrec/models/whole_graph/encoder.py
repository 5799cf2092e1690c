"""What encoders share whose layers are known to autograd alone: a step propagates all nodes, and every row has a gradient.

A step holds the activations of all layers: some (L + 2) float32 matrices of N x D.
Letters: N nodes, V nodes of the batch, R touched rows, D width, F width of the embeddings, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Ops
from gcnrec.models.encoder import Encoded
from gcnrec.rows import RowGrad, Ticket
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import StepTable, Table


class WholeGraph(ABC):
    """An encoder that is its `propagated`, a differentiable function of all rows."""

    every_node = True

    def __init__(self, export_width: int, layers: torch.nn.Module | None) -> None:
        self.export_width, self.layers = export_width, layers

    @abstractmethod
    def propagated(self, rows_ND: torch.Tensor) -> torch.Tensor:
        """The embeddings of all nodes, float32 (N, F), users first."""

    def prepare(self, batch: Batch, ops: Ops) -> None:
        """Nothing is taken from the host."""
        return None

    def encode(self, table: StepTable, batch: Batch, given: None) -> Encoded:
        whole, nodes = table.drained(), torch.from_numpy(batch.nodes_V)
        leaf_ND = whole.columns(0, whole.width).detach().requires_grad_()
        final_VF = self.propagated(leaf_ND)[nodes]
        ego_VD = whole.decode(whole.read(Ticket(batch.nodes_V), with_state=False))

        def pull(grad_VF: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
            grad_ND = torch.zeros_like(leaf_ND)
            pull_whole(grad_VF, grad_ego_VD, np.arange(len(grad_ND)), grad_ND)
            return whole.stored(Ticket(np.arange(len(grad_ND))), grad_ND)

        def pull_whole(grad_VF: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
            back_ND = self.back(final_VF, grad_VF, leaf_ND)
            assert back_ND is not None  # each embedding follows from rows
            out_RD += back_ND
            out_RD.index_add_(0, nodes, grad_ego_VD)

        return Encoded(final_VF.detach(), ego_VD, pull, pull_whole)

    def back(self, final_VF: torch.Tensor, grad_VF: torch.Tensor, leaf_ND: torch.Tensor) -> torch.Tensor | None:
        """The gradient of all rows, (N, D), from that of the batch's embeddings, (V, F); that of layers is added to theirs.

        Both float32. None where no embedding follows from a row.
        """
        final_VF.backward(grad_VF)
        return leaf_ND.grad

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        with torch.no_grad():
            out_NF.copy_(self.propagated(table.columns(0, table.width)))
