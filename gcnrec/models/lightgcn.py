"""LightGCN (He et al. 2020): the mean of a node's row and its 1 .. L-hop propagations, no other parameters.

    final = 1/(L+1) * sum over l of A^l E            (eqs. 3, 4, 8 with equal layer weights)

For a batch only the last hop's rows of the batch are computed; earlier hops run over the whole graph in column blocks.
The backward pass mirrors this (A is symmetric), so no autograd graph holds a node matrix.
Letters: N nodes, V nodes of the batch, D width, L layers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Ops
from gcnrec.models.encoder import Encoded, column_blocks
from gcnrec.models.hops import Hop, MeanExport
from gcnrec.rows import RowGrad, Ticket
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import StepTable, Table

BLOCK = 64
"""Columns propagated at a time over the whole graph. Wider is faster, as the edges are read once per block (on Gowalla, 64
wide, 3 layers: twice as fast as blocks of 16, 1.4 times as blocks of 32); narrower needs less scratch."""


class LightGcn:
    """Exact ("full") propagation. `dense_grad`: hand out the gradient of every row, for rules that move every row."""

    layers = None

    def __init__(self, hop: Hop, num_layers: int, width: int, dense_grad: bool) -> None:
        self._hop = hop
        self._num_layers = num_layers
        self._dense_grad = dense_grad
        # Kept, because fresh memory costs a page fault every 4 KiB.
        planes = 2 if num_layers > 1 else 0
        self._scratch = [torch.empty(hop.graph.num_nodes, min(BLOCK, width)) for _ in range(planes)]
        self.export_width = width
        self.every_node = num_layers > 0
        self.by_columns = MeanExport(hop, num_layers)

    def prepare(self, batch: Batch, ops: Ops) -> None:
        """Nothing is taken from the host."""

    def encode(self, table: StepTable, batch: Batch, given: None) -> Encoded:
        whole = table.drained()
        ego_VD = whole.decode(whole.read(Ticket(batch.nodes_V), with_state=False))
        nodes = torch.from_numpy(batch.nodes_V)
        final_VD = ego_VD.clone()
        if self._num_layers == 1:
            final_VD += self._hop.read_rows(whole, batch.nodes_V, batch.num_users)
        elif self._num_layers > 1:
            for first, last in column_blocks(whole.width, BLOCK):
                source, (target, free) = whole.columns(first, last), self._planes(first, last)
                for _ in range(self._num_layers - 1):
                    source = self._hop.full(source, target)
                    target, free = free, target
                    final_VD[:, first:last] += source.index_select(0, nodes)
                final_VD[:, first:last] += self._hop.rows(source, batch.nodes_V, batch.num_users)
        final_VD /= self._num_layers + 1

        def pull(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
            return self._pull(whole, batch, grad_VD / (self._num_layers + 1), grad_ego_VD)

        def pull_whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
            self._pull_whole(batch, grad_VD / (self._num_layers + 1), grad_ego_VD, rows_R, out_RD)

        return Encoded(final_VD, ego_VD, pull, pull_whole)

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        self.by_columns.write_matrix(table, out_NF)

    def _pull(self, table: Table, batch: Batch, grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
        """E's gradient by Horner's rule: g + A (g + A (g + ...)), the innermost hop starting from the batch's rows only."""
        own_VD = grad_VD + grad_ego_VD
        if self._num_layers == 0:
            return table.stored(Ticket(batch.nodes_V), own_VD)
        grad = table.empty_gradient()
        if self._num_layers == 1:
            self._hop.spread_rows(table, grad_VD, batch.nodes_V, batch.num_users, grad)
        else:
            for first, last in column_blocks(table.width, BLOCK):
                table.add_columns(grad, first, last, self._pulled(batch, grad_VD[:, first:last], self._planes(first, last)))
        table.add_rows(grad, batch.nodes_V, own_VD)
        if self._dense_grad or self._num_layers > 1:
            return grad
        rows_R = self._hop.touched(batch.nodes_V, batch.num_users)
        return RowGrad(Ticket(rows_R), grad.values_X, grad.at_R[torch.from_numpy(rows_R)])

    def _pull_whole(
        self, batch: Batch, grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor
    ) -> None:
        if self._num_layers == 1:
            self._hop.spread(grad_VD, batch.nodes_V, batch.num_users, out_RD)
        elif self._num_layers > 1:
            for first, last in column_blocks(grad_VD.shape[1], BLOCK):
                out_RD[:, first:last] += self._pulled(batch, grad_VD[:, first:last], self._planes(first, last))
        out_RD.index_add_(0, torch.from_numpy(np.searchsorted(rows_R, batch.nodes_V)), grad_VD + grad_ego_VD)

    def _pulled(self, batch: Batch, grad_VC: torch.Tensor, planes: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """All hops of `_pull` in one block of C columns."""
        nodes = torch.from_numpy(batch.nodes_V)
        source, free = planes
        self._hop.spread(grad_VC, batch.nodes_V, batch.num_users, source.zero_())
        for _ in range(self._num_layers - 1):
            source.index_add_(0, nodes, grad_VC)
            source, free = self._hop.full(source, free), source
        return source

    def _planes(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two node matrices of `last - first` columns to work in."""
        one, other = self._scratch
        return one[:, : last - first], other[:, : last - first]
