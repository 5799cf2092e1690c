"""NGCF (Wang et al. 2019, "Neural Graph Collaborative Filtering"), without message dropout.

    e_0 = row; e_{l+1} = LeakyReLU((e_l + A e_l) W1 + b1 + (A e_l * e_l) W2 + b2, 0.2); final = [e_0 | n(e_1) | ... | n(e_L)]

with n the scaling to unit length (eqs. 7 and 9; self-connection in the first term only, as in the authors' code).
Letters: N nodes, V nodes of the batch, D width, F = D (L + 1) width of the embeddings.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gcnrec import random
from gcnrec.graph import BipartiteGraph
from gcnrec.models.encoder import Encoded
from gcnrec.models.hops import Hop, SymmetricHop
from gcnrec.rows import RowGrad, Ticket
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import StepTable, Table


class Ngcf:
    """Propagates all nodes through autograd: its layers are not linear, so every row has a gradient."""

    every_node = True

    def __init__(self, graph: BipartiteGraph, num_layers: int, width: int, seed: int) -> None:
        self._hop = Hop(graph)
        self.export_width = width * (num_layers + 1)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(2 * num_layers))
        for step, layer in enumerate(self.layers):
            limit = (3.0 / width) ** 0.5  # Glorot & Bengio 2010, for equal fan-in and fan-out
            draws = random.uniform(seed, random.Stage.INIT, 1 + step, width * width)
            weight = torch.from_numpy((limit * (2.0 * draws - 1.0)).astype(np.float32)).view(width, width)
            with torch.no_grad():
                layer.weight.copy_(weight)  # type: ignore[operator, union-attr]
                layer.bias.zero_()  # type: ignore[operator, union-attr]

    def encode(self, table: StepTable, batch: Batch) -> Encoded:
        whole, nodes = table.drained(), torch.from_numpy(batch.nodes_V)
        leaf_ND = whole.columns(0, whole.width).detach().requires_grad_()
        final_VF = self._propagate(leaf_ND)[nodes]
        ego_VD = whole.decode(whole.read(Ticket(batch.nodes_V), with_state=False))

        def pull(grad_VF: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
            grad_ND = torch.zeros_like(leaf_ND)
            pull_whole(grad_VF, grad_ego_VD, np.arange(len(grad_ND)), grad_ND)
            return whole.stored(Ticket(np.arange(len(grad_ND))), grad_ND)

        def pull_whole(grad_VF: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
            final_VF.backward(grad_VF)
            assert leaf_ND.grad is not None  # the leaf requires it
            out_RD += leaf_ND.grad
            out_RD.index_add_(0, nodes, grad_ego_VD)

        return Encoded(final_VF.detach(), ego_VD, pull, pull_whole)

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        with torch.no_grad():
            out_NF.copy_(self._propagate(table.columns(0, table.width)))

    def _propagate(self, rows_ND: torch.Tensor) -> torch.Tensor:
        parts, current = [rows_ND], rows_ND
        for linear, product in zip(self.layers[0::2], self.layers[1::2], strict=True):  # type: ignore[misc]
            side: torch.Tensor = SymmetricHop.apply(current, self._hop)
            current = F.leaky_relu(linear(current + side) + product(side * current), 0.2)
            parts.append(F.normalize(current, dim=1))
        return torch.cat(parts, 1)
