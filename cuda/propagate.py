"""Products of a bipartite graph with rows of floats on the GPU: the functions of `gcnrec.ops.propagate`, on tensors.

Every sum has one owner and one order: results are the same in every run. Against the CPU only rows and columns of more than
1024 edges are added in another order.

Letters: R rows, C columns, D width, V chosen rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for, lanes_for, rows_address
from gcnrec.errors import DataError

LONG = 1024
"""Edges from which on a row is summed by a block: more than these, as propagate.cu has it."""
LONG_BLOCKS = 1024
"""Blocks that look for long rows; most rows are short."""
LONG_BLOCK = 512
"""Threads that sum a long row, as propagate.cu has it."""


class Csr(NamedTuple):
    """A 0/1 matrix: `indptr` int64 (R + 1) on the device, `indices` int32 there or in pinned memory, number of columns, and
    the same matrix by columns, which sums over columns need.

    `longest` is the number of edges of the longest row, or a bound of it, where the host knows one: up to 1024 saves a launch.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    columns: int
    transposed: Csr | None = None
    longest: int | None = None

    @property
    def rows(self) -> int:
        return len(self.indptr) - 1

    @property
    def may_have_long_rows(self) -> bool:
        return self.longest is None or self.longest > LONG


class ScaledCsr(NamedTuple):
    """diag(row_scale) * matrix * diag(column_scale); scales are float32 on the device."""

    csr: Csr
    row_scale_R: torch.Tensor
    column_scale_C: torch.Tensor


def propagate(
    csr: Csr, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, out_RD: torch.Tensor | None = None
) -> torch.Tensor:
    """out[r] = row_scale[r] * sum over c in row r of column_scale[c] * source[c].

    `source_CD` and `out_RD` may be column blocks of wider tensors (stride(1) == 1) and must not overlap.
    """
    if out_RD is None:
        out_RD = torch.empty(csr.rows, source_CD.shape[1], device=source_CD.device)
    return _propagate(csr, source_CD, row_scale_R, column_scale_C, np.uint64(0), csr.rows, out_RD)


def propagate_rows(
    csr: Csr, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: torch.Tensor,
    out_VD: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """`propagate` for the rows `rows_V` (int32, any order, repeats allowed) only: out[v] is row rows_V[v]."""
    if out_VD is None:
        out_VD = torch.empty(len(rows_V), source_CD.shape[1], device=source_CD.device)
    rows = address("rows_V", rows_V, torch.int32)
    return _propagate(csr, source_CD, row_scale_R, column_scale_C, rows, len(rows_V), out_VD)


def scatter_rows(
    csr: Csr, grad_VD: torch.Tensor, rows_V: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor,
    out_CD: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The transpose of `propagate_rows`: out[c] += column_scale[c] * sum of row_scale[rows_V[v]] * grad[v] over rows with c.

    Adds into `out_CD` in the order of the row numbers and returns it; only touched rows are written. The warps of a block share
    a column of more than 1024 edges, and their sums are added in one order. Reads every edge of `csr.transposed` once.
    """
    if grad_VD.numel() == 0:
        return out_CD
    transposed, (chosen_V, order_V) = by_columns(csr), torch.sort(rows_V, stable=True)
    arguments = (
        *edges(transposed), np.int64(csr.columns), address("rows_V", chosen_V, torch.int32),
        address("order_V", order_V, torch.int64), np.int64(len(rows_V)), *rows_address("grad_VD", grad_VD),
        *scales(csr, row_scale_R, column_scale_C), *rows_address("out_CD", out_CD), np.int64(grad_VD.shape[1]),
    )  # fmt: skip
    if csr.columns:
        grid, device = blocks_for(32 * csr.columns, BLOCK), rows_V.device
        module.launch("propagate.cu", "gcnrec_scatter_rows", grid, BLOCK, arguments, device)
        if transposed.may_have_long_rows:
            grid = min(csr.columns, LONG_BLOCKS)
            module.launch("propagate.cu", "gcnrec_scatter_rows_long", grid, LONG_BLOCK, arguments, device)
    return out_CD


def mark_rows(csr: Csr, rows_V: torch.Tensor, flags_C: torch.Tensor) -> None:
    """Set flags_C[c] = 1 for every column c of the rows; other flags stay."""
    rows = (address("rows_V", rows_V, torch.int32), np.int64(len(rows_V)))
    arguments = (*edges(csr), *rows, address("flags_C", flags_C, torch.uint8))
    if len(rows_V):
        module.launch("propagate.cu", "gcnrec_mark_rows", blocks_for(32 * len(rows_V), BLOCK), BLOCK, arguments, rows_V.device)


def edges(csr: Csr) -> tuple[np.uint64, np.uint64]:
    """Device addresses of `indptr` (int64) and `indices` (int32), as the kernels take them."""
    return address("indptr", csr.indptr, torch.int64), address("indices", csr.indices, torch.int32)


def scales(csr: Csr, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> tuple[np.uint64, np.uint64]:
    """Addresses of the scales, whose lengths must be the graph's."""
    if len(row_scale_R) != csr.rows or len(column_scale_C) != csr.columns:
        raise DataError(
            f"scales must be {csr.rows} and {csr.columns} long, got {len(row_scale_R)} and {len(column_scale_C)}; "
            "make them with inverse_sqrt of the degrees"
        )
    return address("row_scale_R", row_scale_R, torch.float32), address("column_scale_C", column_scale_C, torch.float32)


def by_columns(csr: Csr) -> Csr:
    """The transposed graph; DataError where it was not given."""
    if csr.transposed is None:
        raise DataError("sums over columns need the transposed graph, got none; build Csr(..., transposed=...)")
    return csr.transposed


def _propagate(
    csr: Csr, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows: np.uint64, count: int,
    out_VD: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    width = source_CD.shape[1]
    if source_CD.shape != (csr.columns, width) or out_VD.shape != (count, width):
        raise DataError(
            f"source and output must be {csr.columns} and {count} rows of one width, got {tuple(source_CD.shape)} and "
            f"{tuple(out_VD.shape)}; allocate them by the graph"
        )
    source, pitch = rows_address("source_CD", source_CD)
    out, out_pitch = rows_address("out_VD", out_VD)
    parts = (int(source), int(out), 4 * int(pitch), 4 * int(out_pitch), 4 * width)
    floats = 4 if all(part % 16 == 0 for part in parts) else 1
    lanes = lanes_for(width // floats)
    arguments = (
        *edges(csr), rows, np.int64(count), source, np.int64(pitch // floats), *scales(csr, row_scale_R, column_scale_C),
        out, np.int64(out_pitch // floats), np.int64(width // floats), np.int32(lanes),
    )  # fmt: skip
    if out_VD.numel():
        suffix, device = 4 * floats, out_VD.device
        module.launch("propagate.cu", f"gcnrec_propagate_{suffix}", blocks_for(count * lanes, BLOCK), BLOCK, arguments, device)
        if csr.may_have_long_rows:
            grid = min(count, LONG_BLOCKS)
            module.launch("propagate.cu", f"gcnrec_propagate_long_{suffix}", grid, LONG_BLOCK, arguments, device)
    return out_VD
