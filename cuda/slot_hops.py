"""Products of a bipartite graph with slot rows on the GPU: `propagate_rows` and `scatter_rows` of `gcnrec.ops.slots`.

Letters: N rows of the table, V chosen graph rows, D width, X stored values.
"""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for, rows_address
from gcnrec.cuda.propagate import ScaledCsr, by_columns, edges, scales
from gcnrec.cuda.slots import Slots, arena, value_bytes, value_name
from gcnrec.errors import DataError
from gcnrec.rows import RowGrad

COLUMNS = 256
"""The widest row: column numbers are one byte."""
WARPS_BLOCK = 512
"""Threads of a block, as slot_hops.cu has it."""
LONG_BLOCKS = 1024
"""Blocks that look for rows of many edges; most rows have few."""


def propagate_rows(graph: ScaledCsr, rows_V: torch.Tensor, slots: Slots, first_row: int, out_VD: torch.Tensor) -> None:
    """out[v] = row_scale * sum over c in row rows_V[v] of column_scale[c] * table row first_row + c: edges x slots of work.

    Summed in the order of the edges; rows of more than 512 by the warps of a block, which are then added in their order.
    """
    width = out_VD.shape[1]
    if len(out_VD) != len(rows_V) or width > COLUMNS:
        raise DataError(f"expected {len(rows_V)} rows of at most {COLUMNS} columns, got {tuple(out_VD.shape)}; allocate it")
    rows = (address("rows_V", rows_V, torch.int32), np.int64(len(rows_V)))
    parts = (*rows, *arena(slots), np.int64(first_row), *scales(*graph))
    arguments = (*edges(graph.csr), *parts, *rows_address("out_VD", out_VD), np.int32(width))
    if out_VD.numel():
        for kind, grid in (("", blocks_for(32 * len(rows_V), WARPS_BLOCK)), ("long_", min(len(rows_V), LONG_BLOCKS))):
            kernel = f"gcnrec_slot_propagate_{kind}{value_name(slots)}"
            module.launch("slot_hops.cu", kernel, grid, WARPS_BLOCK, arguments, rows_V.device)


def scatter_rows(
    graph: ScaledCsr, grad_VD: torch.Tensor, rows_V: torch.Tensor, slots: Slots, first_row: int, grad: RowGrad
) -> None:
    """The transpose of `propagate_rows` at the slots only: grad.values[at[n] + j] += scales * grad[v, column of slot j].

    Each slot is summed in the order of the row numbers; of nodes of more than 512 edges by the warps of a block, which are then
    added in their order. Reads every edge of `csr.transposed` once.
    """
    chosen_V, order_V = torch.sort(rows_V, stable=True)
    chosen = (address("rows_V", chosen_V, torch.int32), address("order_V", order_V, torch.int64), np.int64(len(rows_V)))
    table = (*arena(slots), value_bytes(slots), np.int64(first_row), *scales(*graph))
    out = (address("grad.at_R", grad.at_R, torch.int64), address("grad.values_X", grad.values_X, torch.float32))
    columns = graph.csr.columns
    arguments = (*edges(by_columns(graph.csr)), np.int64(columns), *chosen, *rows_address("grad_VD", grad_VD), *table, *out)
    if grad_VD.numel() and columns:
        grid, device = blocks_for(32 * columns, BLOCK), rows_V.device
        module.launch("slot_hops.cu", "gcnrec_slot_scatter", grid, BLOCK, arguments, device)
        grid = min(columns, LONG_BLOCKS)
        module.launch("slot_hops.cu", "gcnrec_slot_scatter_long", grid, WARPS_BLOCK, arguments, device)
