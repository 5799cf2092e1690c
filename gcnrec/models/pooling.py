"""How a layer pools neighbours: over the drawn neighbours of a batch in training, over whole ranges of nodes in exports.

The edges of a drawn neighbourhood may count differently. Its products are prepared on the host, and run where the rows are.
Letters: T targets, S sources, X drawn edges, N nodes, D width.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Ops, ops_for, uploaded
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.propagate import propagate_rows
from gcnrec.ops.reduce import entries_of
from gcnrec.ops.weighted import EdgeWeights, mean_rows
from gcnrec.rows import Array, Entries
from gcnrec.sampling.blocks import Block
from gcnrec.sampling.walk_blocks import WalkSampler


class Edges(Protocol):
    """The edges between a layer's targets and sources."""

    def pool(self, rows_SD: torch.Tensor) -> torch.Tensor:
        """The weighted mean of every target's sources, float32 (T, D); zero for a target without any."""
        ...


class Neighbourhoods(Protocol):
    """Where the edges of a model come from."""

    def prepare(self, block: Block, ops: Ops) -> DrawnEdges[NDArray[Any]]:
        """The edges of a block, which pool where their arrays are uploaded."""
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

    def prepare(self, block: Block, ops: Ops) -> DrawnEdges[NDArray[Any]]:
        return mean_of(block.csr, None, ops)

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

    def prepare(self, block: Block, ops: Ops) -> DrawnEdges[NDArray[Any]]:
        return mean_of(block.csr, block.weights_X, ops)

    def every(self, layer: int, first: int, last: int, plane_ND: torch.Tensor) -> tuple[torch.Tensor, Edges]:
        sources_S, block = self._sampler.hop(np.arange(first, last), layer, 0)
        ops = ops_for(plane_ND.device)
        return plane_ND[torch.from_numpy(sources_S)], uploaded(self.prepare(block, ops), ops)


class DrawnEdges(NamedTuple, Generic[Array]):
    """The drawn edges of a block as a product by the mean of each target's sources, differentiable."""

    product: ScaledProduct[Array]

    def pool(self, rows_SD: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = _Pool.apply(rows_SD, self.product)
        return pooled


def mean_of(csr: Csr, counts_X: NDArray[np.float32] | None, ops: Ops) -> DrawnEdges[NDArray[Any]]:
    """The mean of drawn sources (`csr`: T targets, S sources) by what edges count, all alike without `counts_X`."""
    sums_T = csr.degrees if counts_X is None else np.bincount(csr.row_numbers(), counts_X, csr.rows)
    return DrawnEdges(scaled_product(csr, counts_X, inverse(sums_T).numpy(), np.ones(csr.columns, np.float32), ops))


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_SD: torch.Tensor, product: ScaledProduct[torch.Tensor]) -> torch.Tensor:
        ctx.product = product
        return product.times(rows_SD.detach().contiguous())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return ctx.product.transposed_times(grad_outputs[0].contiguous()), None


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


class Plain(NamedTuple, Generic[Array]):
    """diag(scale_T) A diag(scale_S), A the 0/1 matrix of `edges` (T rows, S columns); scales float32. Sums are ordered.

    Products need tensors, so they come after the upload.
    """

    edges: Any
    scale_T: Array
    scale_S: Array

    def times(self: Any, source_SD: torch.Tensor) -> torch.Tensor:
        return ops_for(source_SD.device).product(self.edges).times(source_SD, self.scale_T, self.scale_S)

    def transposed_times(self: Any, grad_TD: torch.Tensor) -> torch.Tensor:
        return ops_for(grad_TD.device).product(self.edges).transposed_times(grad_TD, self.scale_T, self.scale_S)


class Weighted(NamedTuple, Generic[Array]):
    """The same with an entry's weight in `scale_X`: every drawn edge is a column of its own in `edges` (T rows, X columns).

    A gather and a plain product, or backwards that and an ordered sum over the edges of each of `sources`.
    """

    edges: Any
    sources: Entries[Array]
    scale_T: Array
    scale_X: Array

    def times(self: Any, source_SD: torch.Tensor) -> torch.Tensor:
        ops = ops_for(source_SD.device)
        return ops.product(self.edges).times(ops.gather(source_SD, self.sources.index_B), self.scale_T, self.scale_X)

    def transposed_times(self: Any, grad_TD: torch.Tensor) -> torch.Tensor:
        ops = ops_for(grad_TD.device)
        grad_XD = ops.product(self.edges).transposed_times(grad_TD, self.scale_T, self.scale_X)
        return ops.reduce_rows(self.sources, grad_XD)


ScaledProduct = Plain[Array] | Weighted[Array]


def scaled_product(
    csr: Csr, weights_X: NDArray[np.float32] | None, scale_T: NDArray[np.float32], scale_S: NDArray[np.float32], ops: Ops
) -> ScaledProduct[NDArray[Any]]:
    """diag(scale_T) W diag(scale_S): W has the entries of `csr` (T rows, S columns), `weights_X` or 1 each."""
    if weights_X is None:
        return Plain(ops.edges(csr), scale_T, scale_S)
    own = Csr(csr.indptr, np.arange(csr.num_edges, dtype=np.int32), csr.num_edges)
    sources = entries_of(csr.indices.astype(np.int64), csr.columns)
    return Weighted(ops.edges(own), sources, scale_T, scale_S[csr.indices] * weights_X)
