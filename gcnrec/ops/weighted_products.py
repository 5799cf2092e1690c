"""Products of a bipartite graph whose edges have weights with rows of floats: `gcnrec.ops.propagate` with a value for each edge.

Everything here is some part of `out = diag(row_scale) W diag(column_scale) source`. With scales 1 / sqrt(sum of weights) this is
the symmetric-normalised hop of a weighted graph (Kipf & Welling 2017, eq. 2, without self-loops).
Every sum runs in the order of its row's columns, in partial sums of some edges, on one thread: results do not depend on the
number of threads. The kernels are plain loops; a hop of Gowalla takes about three times as long as one without weights.

Letters: R rows, C columns, E edges, D width, V chosen rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import Csr
from gcnrec.ops.arrays import frozen
from gcnrec.ops.propagate import check_chosen, check_rows, check_scales, flat, pitch

_BLOCK = 1024
"""Edges in one partial sum: the rounding error of a long row grows with the number of its blocks, not with its degree."""
_ROW_COST = 4
"""The cost of starting and writing a row, in edges; it cuts the rows into equal shares."""
_LINE = 16
"""Floats of a cache line: threads that add own whole lines of a row."""


@dataclass(frozen=True, slots=True)
class WeightedProduct:
    """The matrix of `csr` with entries `weights_E` as a `gcnrec.device.Product` of the CPU."""

    csr: Csr
    weights_E: NDArray[np.float32]

    def times(self, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        out_RD = torch.empty(self.csr.rows, source_CD.shape[1])
        return weighted_product(self.csr, self.weights_E, source_CD, row_scale_R, column_scale_C, out_RD)

    def transposed_times(self, grad_RD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        every_R, out_CD = np.arange(self.csr.rows, dtype=np.int32), torch.zeros(self.csr.columns, grad_RD.shape[1])
        return weighted_scatter_rows(self.csr, self.weights_E, grad_RD, every_R, row_scale_R, column_scale_C, out_CD)


def weighted_product(
    csr: Csr,
    weights_E: NDArray[np.float32],
    source_CD: torch.Tensor,
    row_scale_R: torch.Tensor,
    column_scale_C: torch.Tensor,
    out_RD: torch.Tensor,
) -> torch.Tensor:
    """out[r] = row_scale[r] * sum over edges e = (r, c) of weights[e] * column_scale[c] * source[c]; returns `out_RD`.

    As `propagate`: float32 on the CPU, column blocks are welcome, source and out must not overlap.
    """
    every_R = np.arange(csr.rows, dtype=np.int32)
    return weighted_product_rows(csr, weights_E, source_CD, row_scale_R, column_scale_C, every_R, out_RD)


def weighted_product_rows(
    csr: Csr,
    weights_E: NDArray[np.float32],
    source_CD: torch.Tensor,
    row_scale_R: torch.Tensor,
    column_scale_C: torch.Tensor,
    rows_V: NDArray[np.int32],
    out_VD: torch.Tensor,
) -> torch.Tensor:
    """`weighted_product` for the rows `rows_V` only: out[v] is row rows_V[v] (any order, repeats allowed)."""
    width = source_CD.shape[-1]
    check_rows("source_CD", source_CD, csr.columns, width)
    check_rows("out_VD", out_VD, len(rows_V), width)
    _check_weights(csr, weights_E)
    check_scales(csr, row_scale_R, column_scale_C)
    check_chosen(csr, rows_V)
    if len(rows_V) and width:
        _product_rows(
            frozen(csr.indptr), frozen(csr.indices), frozen(weights_E), frozen(rows_V), _cuts(csr, rows_V), flat(source_CD),
            pitch(source_CD), row_scale_R.numpy(), column_scale_C.numpy(), flat(out_VD), pitch(out_VD), width,
        )  # fmt: skip
    return out_VD


def weighted_scatter_rows(
    csr: Csr,
    weights_E: NDArray[np.float32],
    grad_VD: torch.Tensor,
    rows_V: NDArray[np.int32],
    row_scale_R: torch.Tensor,
    column_scale_C: torch.Tensor,
    out_CD: torch.Tensor,
) -> torch.Tensor:
    """The transpose of `weighted_product_rows`, added into `out_CD` in the order of v, which it returns.

    out[c] += column_scale[c] * sum over edges e = (rows_V[v], c) of weights[e] * row_scale[rows_V[v]] * grad[v].
    """
    width = grad_VD.shape[-1]
    check_rows("grad_VD", grad_VD, len(rows_V), width)
    check_rows("out_CD", out_CD, csr.columns, width)
    _check_weights(csr, weights_E)
    check_scales(csr, row_scale_R, column_scale_C)
    check_chosen(csr, rows_V)
    if len(rows_V) and width:
        _scatter_rows(
            frozen(csr.indptr), frozen(csr.indices), frozen(weights_E), frozen(rows_V), flat(grad_VD), pitch(grad_VD),
            row_scale_R.numpy(), column_scale_C.numpy(), flat(out_CD), pitch(out_CD), width,
        )  # fmt: skip
    return out_CD


def _cuts(csr: Csr, rows_V: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where the shares of the threads begin and end: each has about as many edges and rows of `rows_V`."""
    costs_V1 = np.concatenate([[0], np.cumsum(csr.degrees_of(rows_V) + _ROW_COST)])
    shares = numba.get_num_threads()
    return np.searchsorted(costs_V1, costs_V1[-1] * np.arange(shares + 1) // shares)


def _check_weights(csr: Csr, weights_E: NDArray[np.float32]) -> None:
    if weights_E.dtype != np.float32 or weights_E.shape != (csr.num_edges,):
        raise DataError(
            f"weights_E must be a float32 vector of {csr.num_edges}, one for each edge, got {weights_E.dtype} {weights_E.shape}; "
            "make it with edge_weights of the graph"
        )


@numba.njit(parallel=True, cache=True, nogil=True)
def _product_rows(indptr, indices, weights, rows, cuts, source, pitch, row_scale, column_scale, out, out_pitch, width):  # type: ignore[no-untyped-def]
    for share in numba.prange(len(cuts) - 1):
        total, partial = np.empty(width, np.float32), np.empty(width, np.float32)
        for v in range(cuts[share], cuts[share + 1]):
            row = rows[v]
            total[:] = np.float32(0)
            for first in range(indptr[row], indptr[row + 1], _BLOCK):
                partial[:] = np.float32(0)
                for edge in range(first, min(first + _BLOCK, indptr[row + 1])):
                    column = indices[edge]
                    weight, begin = weights[edge] * column_scale[column], np.int64(column) * pitch
                    own = source[begin : begin + width]
                    for d in range(len(own)):
                        partial[d] += weight * own[d]
                total += partial
            for d in range(width):
                out[v * out_pitch + d] = row_scale[row] * total[d]


@numba.njit(parallel=True, cache=True, nogil=True)
def _scatter_rows(indptr, indices, weights, rows, grad, pitch, row_scale, column_scale, out, out_pitch, width):  # type: ignore[no-untyped-def]
    """Every thread owns some cache lines of every row of `out`, so that each cell has one writer."""
    lines = (width + _LINE - 1) // _LINE
    for line in numba.prange(lines):
        first, last = line * _LINE, min((line + 1) * _LINE, width)
        for v in range(len(rows)):
            row = rows[v]
            for edge in range(indptr[row], indptr[row + 1]):
                column = indices[edge]
                weight, to = weights[edge] * row_scale[row] * column_scale[column], np.int64(column) * out_pitch
                own, given = out[to + first : to + last], grad[v * pitch + first : v * pitch + last]
                for d in range(len(given)):
                    own[d] += weight * given[d]
