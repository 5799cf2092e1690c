"""Reads and writes rows by number on the GPU, from planes on the device or in pinned host memory.

Letters: P rows of a plane, R rows of a call, D width.
"""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for, lanes_for, rows_address
from gcnrec.errors import DataError

LINE_BYTES = 128
"""Bytes that PCIe and caches fetch at once."""


def gather(
    plane_PD: torch.Tensor, index_R: torch.Tensor, out_RD: torch.Tensor | None = None, max_blocks: int | None = None
) -> torch.Tensor:
    """out[r] = plane[index[r]], float32; a buffer given as `out_RD` is reused. `index_R` int64 on the device, in range.

    Runs where the index is. `max_blocks` caps the grid, so that a prefetch leaves multiprocessors to training.
    """
    if out_RD is None:
        out_RD = torch.empty(len(index_R), plane_PD.shape[1], device=index_R.device)
    _move("gather", plane_PD, index_R, out_RD, max_blocks)
    return out_RD


def put(plane_PD: torch.Tensor, index_R: torch.Tensor, rows_RD: torch.Tensor, max_blocks: int | None = None) -> None:
    """plane[index[r]] = rows[r] for rows that are all different: the way back, to device or pinned host memory."""
    _move("put", plane_PD, index_R, rows_RD, max_blocks)


def _move(kernel: str, plane_PD: torch.Tensor, index_R: torch.Tensor, rows_RD: torch.Tensor, max_blocks: int | None) -> None:
    width = plane_PD.shape[1]
    if rows_RD.shape != (len(index_R), width):
        raise DataError(f"rows must be {len(index_R)} x {width}, got {tuple(rows_RD.shape)}; allocate them by index and plane")
    plane, pitch = rows_address("plane_PD", plane_PD)
    rows, rows_pitch = rows_address("rows_RD", rows_RD)
    index = address("index_R", index_R, torch.int64)
    if rows_RD.numel() == 0:
        return
    floats = 4 if all(int(number) % 16 == 0 for number in (plane, rows, 4 * pitch, 4 * rows_pitch, 4 * width)) else 1
    shifted = kernel == "gather" and 4 * width > LINE_BYTES and (int(pitch) * 4 % LINE_BYTES or int(plane) % LINE_BYTES)
    lanes = lanes_for(width // floats, LINE_BYTES // (4 * floats) if shifted else 1)
    name = f"gcnrec_{kernel}{'_shifted' if shifted else ''}_{4 * floats}"
    sizes = (np.int64(pitch // floats), index, np.int64(len(index_R)), np.int64(width // floats))
    grid = blocks_for(len(index_R) * lanes, BLOCK, max_blocks)
    arguments = (plane, *sizes, rows, np.int64(rows_pitch // floats), np.int32(lanes))
    module.launch("gather.cu", name, grid, BLOCK, arguments, index_R.device)
