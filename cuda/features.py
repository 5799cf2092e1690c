"""Reads rows of stored features as float32 on the GPU, from memory of the device: the kernels of `gcnrec.ops.features`.

Letters: R rows read, F features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for
from gcnrec.errors import DataError

LANES = 32
"""Threads that share a row, as features.cu has it."""
STORED = {"float32": torch.float32, "float16": torch.uint16, "bfloat16": torch.uint16, "int8": torch.int8}


class Grid(NamedTuple):
    """What int8 codes of each column stand for; float32 (F) each, on the device."""

    low_F: torch.Tensor
    step_F: torch.Tensor
    high_F: torch.Tensor


class Stored(NamedTuple):
    """Rows of `width` values, `pitch` values apart in flat `values` on the device; `dtype` is a key of `STORED`."""

    values: torch.Tensor
    pitch: int
    width: int
    dtype: str
    grid: Grid | None = None


def read_features(stored: Stored, index_R: torch.Tensor | None, out_RF: torch.Tensor) -> None:
    """out[r] = stored row index[r], or row r without an index. Numbers are within the stored rows."""
    rows, width = out_RF.shape
    if width != stored.width:
        raise DataError(f"rows of {stored.width} features need a tile as wide, got {tuple(out_RF.shape)}; allocate it for them")
    index = np.uint64(0) if index_R is None else address("index_R", index_R, torch.int64)
    values, out = address("values", stored.values, STORED[stored.dtype]), address("out_RF", out_RF, torch.float32)
    grid = () if stored.grid is None else tuple(address("grid", part, torch.float32) for part in stored.grid)
    arguments = (values, np.int64(stored.pitch), index, np.int64(rows), np.int64(width), out, *grid)
    if out_RF.numel():
        blocks = blocks_for(rows * LANES, BLOCK)
        module.launch("features.cu", f"gcnrec_read_{stored.dtype}", blocks, BLOCK, arguments, out_RF.device)
