"""LightGCN (He et al. 2020) on sampled neighbourhoods: a step's cost follows the batch and the fanouts, never the graph.

    final = 1/(L+1) * (e + A1 (e + A2 (e + ...)))        Horner's form of 1/(L+1) * sum over l of A^l E

where hop l draws s of a target's d neighbours uniformly and scales their sum by d / s; a neighbour drawn by weight is divided
by d times its probability as well. On a graph with weights (`gcnrec.models.weighted_hop`) d is their sum, neighbours are drawn by
weight and not divided. A drawn hop is A in expectation, and hops draw independently, so embeddings and gradients
equal the full propagation in expectation, and exactly where every fanout reaches the largest degree, without weights.
Of nodes at dates (gcnrec.sampling.dated_blocks), d are the degrees before the date, which drawn neighbours then bring with them.
Letters: V nodes of the batch, R rows read, T targets and S sources of a hop, D width, L layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Product, place
from gcnrec.models.encoder import Encoded
from gcnrec.models.hops import Hop, export_mean
from gcnrec.models.pooling import product_of
from gcnrec.ops.propagate import inverse_sqrt
from gcnrec.ops.weighted_products import WeightedProduct
from gcnrec.rows import RowGrad
from gcnrec.sampling.blocks import Block
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import StepTable, Table


class SampledLightGcn:
    """`batch.blocks` has a hop for each of `num_layers` layers; `batch.rows_R` are the rows that they and the batch read."""

    layers = None
    every_node = False

    def __init__(self, hop: Hop, num_layers: int, width: int) -> None:
        self._hop = hop
        self._num_layers = num_layers
        self._degrees_N = hop.degrees_N
        self.export_width = width

    def encode(self, table: StepTable, batch: Batch) -> Encoded:
        rows_RD = table.decode(table.read(batch.ticket, with_state=False))
        device = rows_RD.device
        hops = [_DrawnHop(block, self._degrees_N[batch.rows_R], device) for block in batch.blocks]
        own_V = place(np.searchsorted(batch.rows_R, batch.nodes_V), device)
        ego_VD = rows_RD.index_select(0, own_V)
        inner_SD = rows_RD.index_select(0, hops[-1].sources_S) if hops else ego_VD
        for hop in reversed(hops):
            inner_SD = rows_RD.index_select(0, hop.targets_T).add_(hop.forward(inner_SD))
        final_VD = inner_SD / (self._num_layers + 1)

        def whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> torch.Tensor:
            return _pulled(hops, own_V, len(batch.rows_R), grad_VD / (self._num_layers + 1), grad_ego_VD)

        def pull(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
            return table.stored(batch.ticket, whole(grad_VD, grad_ego_VD))

        def pull_whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
            at_R = torch.from_numpy(np.searchsorted(rows_R, batch.rows_R))
            out_RD.index_add_(0, at_R, whole(grad_VD, grad_ego_VD).cpu())

        return Encoded(final_VD, ego_VD, pull, pull_whole)

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        """Exact, layer by layer: nothing is sampled."""
        export_mean(self._hop, self._num_layers, table, out_NF)


def _pulled(
    hops: list[_DrawnHop], own_V: torch.Tensor, num_rows: int, grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor
) -> torch.Tensor:
    """The gradient of the rows read, float32 (R, D)."""
    grad_RD = torch.zeros(num_rows, grad_VD.shape[1], device=grad_VD.device)
    # Nodes of a batch are all different, and so are sources of a hop: every cell gets one summand at a time, in this order. Nodes
    # at dates may repeat; they train on the CPU, where index_add_ sums in the order of the index.
    grad_RD.index_add_(0, own_V, grad_VD + grad_ego_VD)
    grad_TD = grad_VD
    for hop in hops:
        grad_TD = hop.backward(grad_TD)
        grad_RD.index_add_(0, hop.sources_S, grad_TD)
    return grad_RD


class _DrawnHop:
    """The drawn part of A between a hop's targets and sources, scaled so that its expectation is A."""

    def __init__(self, block: Block, degrees_R: NDArray[Any], device: torch.device) -> None:
        self.targets_T, self.sources_S = place(block.targets_T, device), place(block.sources_S, device)
        degrees_T, drawn_T = degrees_R[block.targets_T], block.csr.degrees
        self._product: Product
        if block.degrees is None:
            self._product, scale_S = product_of(block, device), inverse_sqrt(degrees_R[block.sources_S])
        else:
            degrees_T, degrees_X = block.degrees
            self._product = WeightedProduct(block.csr, inverse_sqrt(degrees_X).numpy())
            scale_S = torch.ones(len(block.sources_S))
        scale_T = np.zeros(len(degrees_T), np.float32)
        # 1/sqrt(d) of the symmetric normalisation, times d/s for the s neighbours that stand for all d.
        np.divide(np.sqrt(degrees_T), drawn_T, out=scale_T, where=drawn_T > 0)
        self._scales = place(scale_T, device), place(scale_S.numpy(), device)

    def forward(self, source_SD: torch.Tensor) -> torch.Tensor:
        return self._product.times(source_SD, *self._scales)

    def backward(self, grad_TD: torch.Tensor) -> torch.Tensor:
        return self._product.transposed_times(grad_TD, *self._scales)
