"""Duplicate rows on the GPU: sums gradients that belong to one row, always in batch order.

Letters: B entries, R distinct rows, D width.
"""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for, lanes_for, rows_address


def reduce_rows(index_B: torch.Tensor, grad_BD: torch.Tensor, num_rows: int) -> torch.Tensor:
    """out[r] = sum of grad[b] over the b with index[b] == r, added in rising order of b; float32 (num_rows, D).

    Rows without an entry are zero. torch's stable sort brings entries of a row together in batch order, and a binary search
    finds where rows begin: both stay on the device, neither waits for it.
    """
    out_RD = torch.empty(num_rows, grad_BD.shape[1], device=grad_BD.device)
    if out_RD.numel() == 0:
        return out_RD
    ordered_B, order_B = torch.sort(index_B, stable=True)
    start_R1 = torch.searchsorted(ordered_B, torch.arange(num_rows + 1, device=index_B.device, dtype=index_B.dtype))
    grad, pitch = rows_address("grad_BD", grad_BD)
    width, sizes = grad_BD.shape[1], (int(grad), 4 * int(pitch), 4 * grad_BD.shape[1])
    floats = 4 if all(size % 16 == 0 for size in sizes) else 1
    lanes = lanes_for(width // floats)
    arguments = (
        address("order_B", order_B, torch.int64), address("start_R1", start_R1, torch.int64), grad, np.int64(pitch // floats),
        np.int64(num_rows), np.int64(width // floats), address("out_RD", out_RD, torch.float32), np.int32(lanes),
    )  # fmt: skip
    kernel, grid = f"gcnrec_reduce_{4 * floats}", blocks_for(num_rows * lanes, BLOCK)
    module.launch("reduce.cu", kernel, grid, BLOCK, arguments, out_RD.device)
    return out_RD
