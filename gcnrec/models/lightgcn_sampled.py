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

from dataclasses import replace
from typing import Any, Generic, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Ops
from gcnrec.graph import Csr
from gcnrec.models.encoder import Encoded
from gcnrec.models.hops import Hop, MeanExport
from gcnrec.models.pooling import ScaledProduct, scaled_product
from gcnrec.ops.propagate import inverse_sqrt
from gcnrec.ops.weighted_products import WeightedProduct
from gcnrec.rows import Array, RowGrad
from gcnrec.sampling.blocks import Block
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import StepTable, Table


class DatedProduct(NamedTuple, Generic[Array]):
    """The product of a block of nodes at dates, whose sources bring their own degrees. On the CPU only."""

    product: WeightedProduct
    scale_T: Array
    ones_S: Array

    def times(self: Any, source_SD: torch.Tensor) -> torch.Tensor:
        return self.product.times(source_SD, self.scale_T, self.ones_S)

    def transposed_times(self: Any, grad_TD: torch.Tensor) -> torch.Tensor:
        return self.product.transposed_times(grad_TD, self.scale_T, self.ones_S)


class DrawnHop(NamedTuple, Generic[Array]):
    """The drawn part of A between a hop's targets and sources, scaled so that its expectation is A; places among the rows.

    The sources of the last hop are all rows, in their order: `sources_S` is empty, nothing is gathered or put back.
    """

    targets_T: Array
    sources_S: Array
    product: ScaledProduct[Array] | DatedProduct[Array]


class HopsGiven(NamedTuple, Generic[Array]):
    """What `encode` takes from the host: places of the batch's nodes among the rows, int64, and the hops, nearest first."""

    own_V: Array
    hops: tuple[DrawnHop[Array], ...]


class SampledLightGcn:
    """`batch.blocks` has a hop for each of `num_layers` layers; `batch.rows_R` are the rows that they and the batch read."""

    layers = None
    every_node = False

    def __init__(self, hop: Hop, num_layers: int, width: int) -> None:
        self._hop = hop
        self._num_layers = num_layers
        self.export_width = width
        self.by_columns = MeanExport(hop, num_layers)

    def prepare(self, batch: Batch, ops: Ops) -> HopsGiven[NDArray[Any]]:
        own_V = np.searchsorted(batch.rows_R, batch.nodes_V)
        hops = [self._drawn(block, batch.rows_R, ops) for block in batch.blocks[:-1]]
        for block in batch.blocks[-1:]:
            last = self._drawn(_of_all_rows(block, len(batch.rows_R)), batch.rows_R, ops)
            hops.append(last._replace(sources_S=np.empty(0, np.int64)))
        return HopsGiven(own_V, tuple(hops))

    def encode(self, table: StepTable, batch: Batch, given: HopsGiven[torch.Tensor]) -> Encoded:
        rows_RD = table.decode(table.read(batch.ticket, with_state=False))
        own_V, hops = given
        ego_VD = rows_RD.index_select(0, own_V)
        inner_SD = rows_RD if hops else ego_VD
        for hop in reversed(hops):
            inner_SD = rows_RD.index_select(0, hop.targets_T).add_(hop.product.times(inner_SD))
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
        self.by_columns.write_matrix(table, out_NF)

    def _drawn(self, block: Block, rows_R: NDArray[np.int64], ops: Ops) -> DrawnHop[NDArray[Any]]:
        product: ScaledProduct[NDArray[Any]] | DatedProduct[NDArray[Any]]
        nodes_T, nodes_S, csr = rows_R[block.targets_T], rows_R[block.sources_S], block.csr
        degrees_T = self._hop.degrees_of(nodes_T) if block.degrees is None else block.degrees[0]
        scale_T = np.zeros(len(degrees_T), np.float32)
        # 1/sqrt(d) of the symmetric normalisation, times d/s for the s neighbours that stand for all d.
        np.divide(np.sqrt(degrees_T), csr.degrees, out=scale_T, where=csr.degrees > 0)
        if block.degrees is None:
            product = scaled_product(csr, block.weights_X, scale_T, self._hop.inverse_roots_of(nodes_S), ops)
        else:
            weights_X = inverse_sqrt(block.degrees[1]).numpy()
            product = DatedProduct(WeightedProduct(csr, weights_X), scale_T, np.ones(len(nodes_S), np.float32))
        return DrawnHop(block.targets_T, block.sources_S, product)


def _pulled(
    hops: tuple[DrawnHop[torch.Tensor], ...], own_V: torch.Tensor, num_rows: int, grad_VD: torch.Tensor,
    grad_ego_VD: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The gradient of the rows read, float32 (R, D)."""
    grad_TD, sources = grad_VD, []
    for hop in hops:
        grad_TD = hop.product.transposed_times(grad_TD)
        sources.append((hop.sources_S, grad_TD))
    grad_RD = sources.pop()[1] if hops else torch.zeros(num_rows, grad_VD.shape[1], device=grad_VD.device)
    # Nodes of a batch are all different, and so are sources of a hop: every cell gets one summand at a time, in this order. Nodes
    # at dates may repeat; they train on the CPU, where index_add_ sums in the order of the index.
    grad_RD.index_add_(0, own_V, grad_VD + grad_ego_VD)
    for sources_S, grad_SD in sources:
        grad_RD.index_add_(0, sources_S, grad_SD)
    return grad_RD


def _of_all_rows(block: Block, num_rows: int) -> Block:
    """The same block with all rows read as its sources, most of which are its sources already."""
    csr = Csr(block.csr.indptr, block.sources_S.astype(np.int32)[block.csr.indices], num_rows)
    return replace(block, sources_S=np.arange(num_rows), csr=csr)
