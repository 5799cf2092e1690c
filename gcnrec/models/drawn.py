"""Products with the drawn part of a graph, whose edges may count differently.

Letters: T targets and S sources of a block, X drawn edges, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Product, ops_for, place
from gcnrec.graph import Csr
from gcnrec.sampling.blocks import Block


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
