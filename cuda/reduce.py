"""Duplicate rows on the GPU: sums gradients that belong to one row, always in batch order.

Letters: B entries, R distinct rows, D width.
"""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for, lanes_for, rows_address
from gcnrec.rows import Entries


def reduce_rows(entries: Entries[torch.Tensor], grad_BD: torch.Tensor) -> torch.Tensor:
    """out[r] = sum of grad[b] over the entries b of row r, added in rising order of b; float32 (R, D).

    Rows without an entry are zero.
    """
    num_rows, width = len(entries.start_R1) - 1, grad_BD.shape[1]
    out_RD = torch.empty(num_rows, width, device=grad_BD.device)
    if out_RD.numel() == 0:
        return out_RD
    grad, pitch = rows_address("grad_BD", grad_BD)
    sizes = (int(grad), 4 * int(pitch), 4 * width)
    floats = 4 if all(size % 16 == 0 for size in sizes) else 1
    lanes = lanes_for(width // floats)
    arguments = (
        address("order_B", entries.order_B, torch.int64), address("start_R1", entries.start_R1, torch.int64), grad,
        np.int64(pitch // floats), np.int64(num_rows), np.int64(width // floats), address("out_RD", out_RD, torch.float32),
        np.int32(lanes),
    )  # fmt: skip
    kernel, grid = f"gcnrec_reduce_{4 * floats}", blocks_for(num_rows * lanes, BLOCK)
    module.launch("reduce.cu", kernel, grid, BLOCK, arguments, out_RD.device)
    return out_RD
