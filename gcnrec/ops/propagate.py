"""Products of a bipartite graph with rows of floats, normalisation computed from degrees (no array of edge values).

Everything here is some part of `out = diag(row_scale) A diag(column_scale) source`, with A the 0/1 matrix of a Csr.
With `inverse_sqrt` of the degrees as scales this is the symmetric-normalised hop of He et al. 2020 ("LightGCN"), eq. 3.
Every sum runs in the order of its row's columns, on one thread: results do not depend on the number of threads.
Threads share out the edges, not the rows.

Letters: R rows, C columns, D width, V chosen rows.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import Csr
from gcnrec.ops import lanes
from gcnrec.ops.arrays import frozen

_ROWS_AT_ONCE = 1 << 18


def inverse_sqrt(degrees: NDArray[np.integer] | NDArray[np.floating]) -> torch.Tensor:
    """1 / sqrt(degree), or sum of weights, as float32, 0 where it is 0."""
    scale = np.zeros(len(degrees), np.float64)
    np.divide(1.0, np.sqrt(degrees, dtype=np.float64), out=scale, where=np.asarray(degrees) > 0)
    return torch.from_numpy(scale.astype(np.float32))


def inverse_roots(csr: Csr) -> torch.Tensor:
    """`inverse_sqrt` of the entries of every row, float32 (R); no other array of the number of rows is made."""
    out_R = torch.empty(csr.rows)
    for first in range(0, csr.rows, _ROWS_AT_ONCE):
        out_R[first : first + _ROWS_AT_ONCE] = inverse_sqrt(np.diff(csr.indptr[first : first + _ROWS_AT_ONCE + 1]))
    return out_R


def degrees_of(csr: Csr, rows_V: NDArray[np.integer]) -> NDArray[np.int64]:
    """`Csr.degrees_of` of many rows, int64 (V), without arrays on the way."""
    out_V = np.empty(len(rows_V), np.int64)
    _degrees_of(frozen(csr.indptr), frozen(rows_V), out_V)
    return out_V


@numba.njit(cache=True, nogil=True)
def _degrees_of(indptr, rows_V, out_V):  # type: ignore[no-untyped-def]
    for v in range(len(rows_V)):
        out_V[v] = indptr[rows_V[v] + 1] - indptr[rows_V[v]]


def inverse_roots_of(csr: Csr, rows_V: NDArray[np.integer], out_V: NDArray[np.float32]) -> None:
    """`inverse_roots` of some rows, float32 (V), of which no other array is made."""
    _inverse_roots_of(frozen(csr.indptr), frozen(rows_V), _ROOTS, out_V)


_ROOTS = inverse_sqrt(np.arange(1024)).numpy()
"""Of the degrees that most nodes have: a root and a quotient take longer than a look-up."""


@numba.njit(cache=True, nogil=True)
def _inverse_roots_of(indptr, rows_V, roots, out_V):  # type: ignore[no-untyped-def]
    for v in range(len(rows_V)):
        degree = indptr[rows_V[v] + 1] - indptr[rows_V[v]]
        out_V[v] = roots[degree] if degree < len(roots) else np.float32(1.0 / np.sqrt(np.float64(degree)))


def propagate(
    csr: Csr,
    source_CD: torch.Tensor,
    row_scale_R: torch.Tensor,
    column_scale_C: torch.Tensor,
    out_RD: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[r] = row_scale[r] * sum over c in row r of column_scale[c] * source[c].

    Rows that start on cache lines (tensors that torch allocated) are read up to twice as fast as others (NumPy's).
    float32 on the CPU; `source_CD` and `out_RD` may be column blocks of wider tensors (stride(1) == 1) and must not overlap.
    The gradient with respect to `source_CD` is the same product with the transposed Csr and the scales exchanged.
    """
    check_rows("source_CD", source_CD, csr.columns, source_CD.shape[-1])
    check_scales(csr, row_scale_R, column_scale_C)
    width = source_CD.shape[1]
    if out_RD is None:
        out_RD = torch.empty(csr.rows, width)
    check_rows("out_RD", out_RD, csr.rows, width)
    if csr.rows and width:
        lanes.propagate(
            frozen(csr.indptr), frozen(csr.indices), flat(source_CD), pitch(source_CD),
            row_scale_R.numpy(), column_scale_C.numpy(), flat(out_RD), pitch(out_RD), width, numba.get_num_threads(),
        )  # fmt: skip
    return out_RD


def propagate_rows(
    csr: Csr,
    source_CD: torch.Tensor,
    row_scale_R: torch.Tensor,
    column_scale_C: torch.Tensor,
    rows_V: NDArray[np.int32],
    out_VD: torch.Tensor | None = None,
) -> torch.Tensor:
    """`propagate` for the rows `rows_V` only: out[v] is row rows_V[v] (any order, repeats allowed)."""
    check_rows("source_CD", source_CD, csr.columns, source_CD.shape[-1])
    check_scales(csr, row_scale_R, column_scale_C)
    check_chosen(csr, rows_V)
    width = source_CD.shape[1]
    if out_VD is None:
        out_VD = torch.empty(len(rows_V), width)
    check_rows("out_VD", out_VD, len(rows_V), width)
    if len(rows_V) and width:
        lanes.propagate_rows(
            frozen(csr.indptr), frozen(csr.indices), frozen(rows_V), flat(source_CD), pitch(source_CD),
            row_scale_R.numpy(), column_scale_C.numpy(), flat(out_VD), pitch(out_VD), width, numba.get_num_threads(),
        )  # fmt: skip
    return out_VD


def scatter_rows(
    csr: Csr,
    grad_VD: torch.Tensor,
    rows_V: NDArray[np.int32],
    row_scale_R: torch.Tensor,
    column_scale_C: torch.Tensor,
    out_CD: torch.Tensor,
) -> torch.Tensor:
    """The transpose of `propagate_rows`: out[c] += column_scale[c] * sum of row_scale[rows_V[v]] * grad[v] over rows with c.

    Adds into `out_CD` in the order of v, whatever the number of threads, and returns it. Touched rows only.
    """
    width = grad_VD.shape[-1]
    check_rows("grad_VD", grad_VD, len(rows_V), width)
    check_rows("out_CD", out_CD, csr.columns, width)
    check_scales(csr, row_scale_R, column_scale_C)
    check_chosen(csr, rows_V)
    if len(rows_V) and width:
        lanes.scatter_rows(
            frozen(csr.indptr), frozen(csr.indices), csr.columns, frozen(rows_V), flat(grad_VD), pitch(grad_VD),
            row_scale_R.numpy(), column_scale_C.numpy(), flat(out_CD), pitch(out_CD), width, numba.get_num_threads(),
        )  # fmt: skip
    return out_CD


def collect_rows(flipped: Csr, grad_RD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
    """`scatter_rows` of all rows into zeros, to the same bits, by the transposed matrix (C rows, R columns): float32 (C, D).

    Rows are asked for ahead of their use, where adding to scattered rows waits for each.
    """
    width = grad_RD.shape[-1]
    check_rows("grad_RD", grad_RD, flipped.columns, width)
    check_scales(flipped, column_scale_C, row_scale_R)
    out_CD = torch.empty(flipped.rows, width)
    if flipped.rows and width:
        lanes.collect_rows(
            frozen(flipped.indptr), frozen(flipped.indices), flat(grad_RD), pitch(grad_RD), row_scale_R.numpy(),
            column_scale_C.numpy(), flat(out_CD), pitch(out_CD), width, numba.get_num_threads(),
        )  # fmt: skip
    return out_CD


def mark_rows(csr: Csr, rows_V: NDArray[np.int32], flags_C: NDArray[np.uint8]) -> None:
    """Set flags_C[c] = 1 for every column c of the rows; other flags stay."""
    check_chosen(csr, rows_V)
    if flags_C.dtype != np.uint8 or flags_C.shape != (csr.columns,):
        raise DataError(f"flags_C must be uint8 of shape ({csr.columns},), got {flags_C.dtype} {flags_C.shape}")
    lanes.mark_rows(frozen(csr.indptr), frozen(csr.indices), frozen(rows_V), flags_C)


def flat(rows: torch.Tensor) -> NDArray[np.float32]:
    """The memory under a row-strided matrix as a vector: a single compiled kernel serves every stride."""
    return torch.as_strided(rows.detach(), ((len(rows) - 1) * pitch(rows) + rows.shape[1] if len(rows) else 0,), (1,)).numpy()


def pitch(rows: torch.Tensor) -> int:
    """Floats from one row to the next."""
    return rows.stride(0) if len(rows) > 1 else rows.shape[1]


def check_rows(name: str, rows: torch.Tensor, count: int, width: int) -> None:
    """DataError unless `rows` are float32 on the CPU, of that count and width, each in one piece."""
    if rows.dim() != 2 or rows.shape != (count, width) or rows.dtype != torch.float32 or rows.device.type != "cpu":
        raise DataError(
            f"{name} must be a float32 CPU matrix of {count} x {width}, got {tuple(rows.shape)} {rows.dtype} on {rows.device}; "
            "convert it first"
        )
    if (width > 1 and rows.stride(1) != 1) or (count > 1 and rows.stride(0) < width):
        raise DataError(f"{name} must hold each row in one piece, got strides {rows.stride()}; call .contiguous() first")


def check_scales(csr: Csr, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> None:
    """DataError unless both scales are contiguous float32 vectors of the matrix's rows and columns."""
    for name, scale, count in (("row_scale_R", row_scale_R, csr.rows), ("column_scale_C", column_scale_C, csr.columns)):
        if scale.shape != (count,) or scale.dtype != torch.float32 or not scale.is_contiguous():
            raise DataError(
                f"{name} must be a contiguous float32 vector of {count}, got {tuple(scale.shape)} {scale.dtype}; "
                "make it with inverse_sqrt of the degrees"
            )


def check_chosen(csr: Csr, rows_V: NDArray[np.int32]) -> None:
    """DataError unless `rows_V` are numbers of rows of the matrix, int32."""
    if rows_V.dtype != np.int32 or rows_V.ndim != 1:
        raise DataError(f"rows_V must be a vector of int32, got {rows_V.ndim}-d {rows_V.dtype}; convert it first")
    if len(rows_V) and (int(rows_V.min()) < 0 or int(rows_V.max()) >= csr.rows):
        raise DataError(f"rows_V must lie in 0 .. {csr.rows - 1}, got {rows_V.min()} .. {rows_V.max()}; leave unknown rows out")
