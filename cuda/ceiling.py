"""Reads and writes of host memory by the GPU's own threads and nothing else: the ceiling of gathers and updates.

Letters: M bytes of memory, R rows.
"""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for
from gcnrec.errors import DataError

VECTOR_BYTES = 16
"""Bytes that a thread moves at once."""
WARPS = BLOCK // 32


def read(memory_M: torch.Tensor, rows_R: torch.Tensor, row_bytes: int, max_blocks: int) -> torch.Tensor:
    """Read rows of uint8 `memory_M`, `row_bytes` (16 to 512, a power of two) apart, by number (int64).

    Returns the exclusive or of all 32-bit words read, in parts (int32) whose exclusive or is the whole: the proof of the reads.
    """
    seen = torch.empty(_grid(rows_R, row_bytes, max_blocks) * WARPS, dtype=torch.int32, device=rows_R.device)
    _launch("read", memory_M, rows_R, row_bytes, max_blocks, address("seen", seen, torch.int32))
    return seen


def write(memory_M: torch.Tensor, rows_R: torch.Tensor, row_bytes: int, value: int, max_blocks: int) -> None:
    """Fill rows that are all different with the 32-bit words value, value + 1, value + 2, value + 3, over and over."""
    _launch("write", memory_M, rows_R, row_bytes, max_blocks, np.uint32(value))


def turn(memory_M: torch.Tensor, rows_R: torch.Tensor, row_bytes: int, max_blocks: int) -> None:
    """Read rows that are all different, turn over the bits of every fourth 32-bit word, and write them back."""
    _launch("turn", memory_M, rows_R, row_bytes, max_blocks)


def _grid(rows_R: torch.Tensor, row_bytes: int, max_blocks: int) -> int:
    return blocks_for(len(rows_R) * row_bytes // VECTOR_BYTES, BLOCK, max_blocks)


def _launch(
    kernel: str, memory_M: torch.Tensor, rows_R: torch.Tensor, row_bytes: int, max_blocks: int, *more: np.generic
) -> None:
    lanes = row_bytes // VECTOR_BYTES
    if not 1 <= lanes <= 32 or lanes & (lanes - 1) or row_bytes % VECTOR_BYTES or memory_M.data_ptr() % VECTOR_BYTES:
        raise DataError(
            f"rows must be 16, 32, ... or 512 bytes from an address of 16, got {row_bytes} from {memory_M.data_ptr():#x}; "
            "round them up"
        )
    memory, rows = address("memory_M", memory_M, torch.uint8), address("rows_R", rows_R, torch.int64)
    arguments: tuple[np.generic, ...] = (memory, rows, np.int64(len(rows_R)), np.int32(lanes), *more)
    grid = _grid(rows_R, row_bytes, max_blocks)
    module.launch("ceiling.cu", f"gcnrec_ceiling_{kernel}", grid, BLOCK, arguments, rows_R.device)
