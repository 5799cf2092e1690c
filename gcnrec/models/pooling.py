"""How a layer pools neighbours: over the drawn neighbours of a batch in training, over whole ranges of nodes in exports.

The edges of a drawn neighbourhood may count differently.
Letters: T targets, S sources, X drawn edges, N nodes, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Product, ops_for, place
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.propagate import propagate_rows
from gcnrec.ops.weighted import EdgeWeights, mean_rows
from gcnrec.sampling.blocks import Block
from gcnrec.sampling.walk_blocks import WalkSampler


class Edges(Protocol):
    """The edges between a layer's targets and sources."""

    def pool(self, rows_SD: torch.Tensor) -> torch.Tensor:
        """The weighted mean of every target's sources, float32 (T, D); zero for a target without any."""
        ...


class Neighbourhoods(Protocol):
    """Where the edges of a model come from."""

    def drawn(self, block: Block) -> Edges:
        """The edges of a block, differentiable."""
        ...

    def every(self, layer: int, first: int, last: int, plane_ND: torch.Tensor) -> tuple[torch.Tensor, Edges]:
        """Sources, rows of `plane_ND`, and edges of nodes `first .. last-1` of one side, for exports; not differentiable."""
        ...


class NoEdges:
    """Targets without any neighbour."""

    def pool(self, rows_SD: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(rows_SD)


class Means:
    """Every neighbour counts alike (Hamilton et al. 2017): drawn ones in training, all of them in exports."""

    def __init__(self, graph: BipartiteGraph) -> None:
        self._graph = graph
        self._sides = tuple((csr, inverse(csr.degrees), torch.ones(csr.columns)) for csr in (graph.user_items, graph.item_users))

    def drawn(self, block: Block) -> Edges:
        return _Drawn(block, None)

    def every(self, layer: int, first: int, last: int, plane_ND: torch.Tensor) -> tuple[torch.Tensor, Edges]:
        num_users = self._graph.num_users
        if first < num_users:
            return plane_ND[num_users:], _WholeMean(*self._sides[0], first, last)
        return plane_ND[:num_users], _WholeMean(*self._sides[1], first - num_users, last - num_users)


class WeightedMeans(Means):
    """Neighbours count by the weights of their edges: in training they are drawn so, and all that are drawn count alike."""

    def __init__(self, graph: BipartiteGraph, weights: EdgeWeights) -> None:
        super().__init__(graph)
        self._weights = weights

    def every(self, layer: int, first: int, last: int, plane_ND: torch.Tensor) -> tuple[torch.Tensor, Edges]:
        num_users, (of_users_E, of_items_E) = self._graph.num_users, self._weights
        if first < num_users:
            return plane_ND[num_users:], _WholeWeightedMean(self._graph.user_items, of_users_E, first, last)
        return plane_ND[:num_users], _WholeWeightedMean(self._graph.item_users, of_items_E, first - num_users, last - num_users)


class Visits:
    """Neighbours by random walks, each weighted by its share of the visits (importance pooling: Ying et al. 2018).

    Exports draw the walks of step 0.
    """

    def __init__(self, sampler: WalkSampler) -> None:
        self._sampler = sampler

    def drawn(self, block: Block) -> Edges:
        return _Drawn(block, block.weights_X)

    def every(self, layer: int, first: int, last: int, plane_ND: torch.Tensor) -> tuple[torch.Tensor, Edges]:
        sources_S, block = self._sampler.hop(np.arange(first, last), layer, 0)
        return plane_ND[torch.from_numpy(sources_S)], _Drawn(block, block.weights_X)


class _Drawn:
    """A block's mean by what its edges count."""

    def __init__(self, block: Block, counts_X: NDArray[np.float32] | None) -> None:
        csr = block.csr
        sums_T = csr.degrees if counts_X is None else np.bincount(csr.row_numbers(), counts_X, csr.rows)
        self._product = product_of(replace(block, weights_X=counts_X), torch.device("cpu"))
        self._scales = inverse(sums_T), torch.ones(csr.columns)

    def pool(self, rows_SD: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = _Pool.apply(rows_SD, self._product, self._scales)
        return pooled


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_SD: torch.Tensor, product: Product, scales: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ctx.product, ctx.scales = product, scales
        return product.times(rows_SD.detach().contiguous(), *scales)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return ctx.product.transposed_times(grad_outputs[0].contiguous(), *ctx.scales), None, None


class _WholeMean:
    def __init__(self, csr: Csr, row_scale: torch.Tensor, column_scale: torch.Tensor, first: int, last: int) -> None:
        self._csr, self._scales, self._rows_T = csr, (row_scale, column_scale), np.arange(first, last, dtype=np.int32)

    def pool(self, rows_SD: torch.Tensor) -> torch.Tensor:
        return propagate_rows(self._csr, rows_SD, *self._scales, self._rows_T)


class _WholeWeightedMean:
    def __init__(self, csr: Csr, weights_E: NDArray[np.float32], first: int, last: int) -> None:
        self._csr, self._weights_E, self._range = csr, weights_E, (first, last)

    def pool(self, rows_SD: torch.Tensor) -> torch.Tensor:
        return mean_rows(self._csr, self._weights_E, rows_SD, *self._range)


def inverse(degrees: NDArray[Any]) -> torch.Tensor:
    """1 / degree (or sum of weights) as float32, 0 where it is 0."""
    return torch.from_numpy(np.divide(1.0, degrees, out=np.zeros(len(degrees)), where=np.asarray(degrees) > 0).astype(np.float32))


def product_of(block: Block, device: torch.device) -> Product:
    """The block's T x S matrix, its entries what drawn neighbours count; 1 each without weights. Sums are ordered."""
    if block.weights_X is None:
        return ops_for(device).product(block.csr)
    return _WeightedProduct(block.csr, block.weights_X, device)


class _WeightedProduct:
    """Every drawn edge is a column of its own: a gather and a plain product, or backwards that and an ordered sum."""

    def __init__(self, csr: Csr, weights_X: NDArray[np.float32], device: torch.device) -> None:
        self._ops, self._columns = ops_for(device), csr.columns
        own = Csr(csr.indptr, np.arange(csr.num_edges, dtype=np.int32), csr.num_edges)
        self._product = self._ops.product(own)
        self._sources_X, self._weights_X = place(csr.indices.astype(np.int64), device), place(weights_X, device)

    def times(self, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        source_XD = self._ops.gather(source_CD, self._sources_X)
        return self._product.times(source_XD, row_scale_R, column_scale_C[self._sources_X] * self._weights_X)

    def transposed_times(self, grad_RD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        scales_X = column_scale_C[self._sources_X] * self._weights_X
        grad_XD = self._product.transposed_times(grad_RD, row_scale_R, scales_X)
        return self._ops.reduce_rows(self._sources_X, grad_XD, self._columns)
