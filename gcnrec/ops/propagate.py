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
from gcnrec.ops.lanes import add_scaled_row, request_row, sum_scaled_rows

_ROW_COST = 4
"""What starting and writing a row costs, in edges; used to cut the rows into equal shares."""

_AHEAD = 16
"""Edges between the request for a row to add to and its use."""


def inverse_sqrt(degrees: NDArray[np.integer]) -> torch.Tensor:
    """1 / sqrt(degree) as float32, 0 where the degree is 0."""
    scale = np.zeros(len(degrees), np.float64)
    np.divide(1.0, np.sqrt(degrees, dtype=np.float64), out=scale, where=np.asarray(degrees) > 0)
    return torch.from_numpy(scale.astype(np.float32))


def propagate(
    csr: Csr,
    source_CD: torch.Tensor,
    row_scale_R: torch.Tensor,
    column_scale_C: torch.Tensor,
    out_RD: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[r] = row_scale[r] * sum over c in row r of column_scale[c] * source[c].

    float32 on the CPU; `source_CD` and `out_RD` may be column blocks of wider tensors (stride(1) == 1) and must not overlap.
    The gradient with respect to `source_CD` is the same product with the transposed Csr and the scales exchanged.
    """
    _check_rows("source_CD", source_CD, csr.columns, source_CD.shape[-1])
    _check_scales(csr, row_scale_R, column_scale_C)
    width = source_CD.shape[1]
    if out_RD is None:
        out_RD = torch.empty(csr.rows, width)
    _check_rows("out_RD", out_RD, csr.rows, width)
    if csr.rows and width:
        _propagate(
            _frozen(csr.indptr), _frozen(csr.indices), _flat(source_CD), _pitch(source_CD),
            row_scale_R.numpy(), column_scale_C.numpy(), _flat(out_RD), _pitch(out_RD), width, numba.get_num_threads(),
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
    _check_rows("source_CD", source_CD, csr.columns, source_CD.shape[-1])
    _check_scales(csr, row_scale_R, column_scale_C)
    _check_chosen(csr, rows_V)
    width = source_CD.shape[1]
    if out_VD is None:
        out_VD = torch.empty(len(rows_V), width)
    _check_rows("out_VD", out_VD, len(rows_V), width)
    if len(rows_V) and width:
        _propagate_rows(
            _frozen(csr.indptr), _frozen(csr.indices), _frozen(rows_V), _flat(source_CD), _pitch(source_CD),
            row_scale_R.numpy(), column_scale_C.numpy(), _flat(out_VD), _pitch(out_VD), width, numba.get_num_threads(),
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
    _check_rows("grad_VD", grad_VD, len(rows_V), width)
    _check_rows("out_CD", out_CD, csr.columns, width)
    _check_scales(csr, row_scale_R, column_scale_C)
    _check_chosen(csr, rows_V)
    if len(rows_V) and width:
        _scatter_rows(
            _frozen(csr.indptr), _frozen(csr.indices), csr.columns, _frozen(rows_V), _flat(grad_VD), _pitch(grad_VD),
            row_scale_R.numpy(), column_scale_C.numpy(), _flat(out_CD), _pitch(out_CD), width, numba.get_num_threads(),
        )  # fmt: skip
    return out_CD


def mark_rows(csr: Csr, rows_V: NDArray[np.int32], flags_C: NDArray[np.uint8]) -> None:
    """Set flags_C[c] = 1 for every column c that one of the rows holds; other flags stay as they are."""
    _check_chosen(csr, rows_V)
    if flags_C.dtype != np.uint8 or flags_C.shape != (csr.columns,):
        raise DataError(f"flags_C must be uint8 of shape ({csr.columns},), got {flags_C.dtype} {flags_C.shape}")
    _mark_rows(_frozen(csr.indptr), _frozen(csr.indices), _frozen(rows_V), flags_C)


@numba.njit(inline="always")
def _share(indptr, share, shares):  # type: ignore[no-untyped-def]
    """First row of a share: rows are cut where edges + _ROW_COST * rows pass share / shares of the total."""
    rows = len(indptr) - 1
    goal = (indptr[rows] - indptr[0] + _ROW_COST * rows) * share // shares
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        if indptr[middle] - indptr[0] + _ROW_COST * middle < goal:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(parallel=True, cache=True, nogil=True)
def _propagate(indptr, indices, source, pitch, row_scale, column_scale, out, out_pitch, width, shares):  # type: ignore[no-untyped-def]
    for share in numba.prange(shares):
        for row in range(_share(indptr, share, shares), _share(indptr, share + 1, shares)):
            sum_scaled_rows(
                indices, indptr[row], indptr[row + 1], len(indices), source, pitch, column_scale, row_scale[row], out,
                row * out_pitch, width,
            )  # fmt: skip


@numba.njit(parallel=True, cache=True, nogil=True)
def _propagate_rows(indptr, indices, rows, source, pitch, row_scale, column_scale, out, out_pitch, width, shares):  # type: ignore[no-untyped-def]
    edges = _edges_before(indptr, rows)
    for share in numba.prange(shares):
        for v in range(_share(edges, share, shares), _share(edges, share + 1, shares)):
            row = rows[v]
            sum_scaled_rows(
                indices, indptr[row], indptr[row + 1], indptr[row + 1], source, pitch, column_scale, row_scale[row], out,
                v * out_pitch, width,
            )  # fmt: skip


@numba.njit(parallel=True, cache=True, nogil=True)
def _scatter_rows(  # type: ignore[no-untyped-def]
    indptr, indices, columns, rows, grad, pitch, row_scale, column_scale, out, out_pitch, width, shares
):
    """Every thread owns a range of columns; ranges are cut at quantiles of a sample of the edges' columns."""
    cuts = _column_cuts(indptr, indices, columns, rows, shares)
    for share in numba.prange(shares):
        first, last = cuts[share], cuts[share + 1]
        for v in range(len(rows)):
            row = rows[v]
            own = indices[indptr[row] : indptr[row + 1]]
            own = own[np.searchsorted(own, first) : np.searchsorted(own, last)]
            for edge in range(len(own)):
                if edge + _AHEAD < len(own):
                    request_row(out, own[edge + _AHEAD] * out_pitch, width)
                scale = row_scale[row] * column_scale[own[edge]]
                add_scaled_row(grad, v * pitch, scale, out, own[edge] * out_pitch, width)


@numba.njit(cache=True)
def _column_cuts(indptr, indices, columns, rows, shares):  # type: ignore[no-untyped-def]
    """Ascending cuts 0 .. columns (shares + 1) such that each range holds about as many edges of `rows`."""
    total = 0
    for row in rows:
        total += indptr[row + 1] - indptr[row]
    step = max(1, total // (256 * shares))
    sample = np.empty(total // step + 1, np.int32)
    count, passed = 0, 0
    for row in rows:
        degree = indptr[row + 1] - indptr[row]
        position = (step - passed % step) % step
        while position < degree:
            sample[count] = indices[indptr[row] + position]
            count += 1
            position += step
        passed += degree
    sample = np.sort(sample[:count])
    cuts = np.zeros(shares + 1, np.int64)
    cuts[shares] = columns
    for share in range(1, shares):
        cuts[share] = sample[count * share // shares] if count else 0
    return cuts


@numba.njit(cache=True)
def _edges_before(indptr, rows):  # type: ignore[no-untyped-def]
    """Running sum of the degrees of `rows`: the indptr of the chosen rows, int64 (V+1)."""
    edges = np.zeros(len(rows) + 1, np.int64)
    for v in range(len(rows)):
        edges[v + 1] = edges[v] + indptr[rows[v] + 1] - indptr[rows[v]]
    return edges


@numba.njit(cache=True, nogil=True)
def _mark_rows(indptr, indices, rows, flags):  # type: ignore[no-untyped-def]
    for row in rows:
        for edge in range(indptr[row], indptr[row + 1]):
            flags[indices[edge]] = 1


def _frozen(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """A read-only view: memory-mapped and ordinary arrays then share one compiled kernel."""
    view = array.view()
    view.flags.writeable = False
    return view


def _flat(rows: torch.Tensor) -> NDArray[np.float32]:
    """The memory under a row-strided matrix as one vector, so that one compiled kernel serves every stride."""
    return torch.as_strided(rows.detach(), ((len(rows) - 1) * _pitch(rows) + rows.shape[1] if len(rows) else 0,), (1,)).numpy()


def _pitch(rows: torch.Tensor) -> int:
    """Floats from one row to the next."""
    return rows.stride(0) if len(rows) > 1 else rows.shape[1]


def _check_rows(name: str, rows: torch.Tensor, count: int, width: int) -> None:
    if rows.dim() != 2 or rows.shape != (count, width) or rows.dtype != torch.float32 or rows.device.type != "cpu":
        raise DataError(
            f"{name} must be a float32 CPU matrix of {count} x {width}, got {tuple(rows.shape)} {rows.dtype} on {rows.device}; "
            "convert it first"
        )
    if (width > 1 and rows.stride(1) != 1) or (count > 1 and rows.stride(0) < width):
        raise DataError(f"{name} must hold each row in one piece, got strides {rows.stride()}; call .contiguous() first")


def _check_scales(csr: Csr, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> None:
    for name, scale, count in (("row_scale_R", row_scale_R, csr.rows), ("column_scale_C", column_scale_C, csr.columns)):
        if scale.shape != (count,) or scale.dtype != torch.float32 or not scale.is_contiguous():
            raise DataError(
                f"{name} must be a contiguous float32 vector of {count}, got {tuple(scale.shape)} {scale.dtype}; "
                "make it with inverse_sqrt of the degrees"
            )


def _check_chosen(csr: Csr, rows_V: NDArray[np.int32]) -> None:
    if rows_V.dtype != np.int32 or rows_V.ndim != 1:
        raise DataError(f"rows_V must be a vector of int32, got {rows_V.ndim}-d {rows_V.dtype}; convert it first")
    if len(rows_V) and (int(rows_V.min()) < 0 or int(rows_V.max()) >= csr.rows):
        raise DataError(f"rows_V must lie in 0 .. {csr.rows - 1}, got {rows_V.min()} .. {rows_V.max()}; leave unknown rows out")
