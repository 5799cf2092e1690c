"""Kernel arguments: tensors become checked addresses, counts become int64, and work becomes a grid."""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.errors import DataError

BLOCK = 256
"""Threads of a block."""
WAVE = 1 << 16
"""Blocks of a grid when the caller sets no cap; kernels stride over what is left."""


def address(name: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> np.uint64:
    """The address of a contiguous tensor of one of `dtypes`: in device memory, or in pinned host memory that the device maps.

    Raises DataError for another dtype or strides; kernels would read garbage.
    """
    if tensor.dtype not in dtypes:
        raise DataError(f"{name} must be {' or '.join(map(str, dtypes))}, got {tensor.dtype}; convert it first")
    if not tensor.is_contiguous():
        raise DataError(f"{name} must be contiguous, got shape {tuple(tensor.shape)} strides {tensor.stride()}; copy it first")
    return np.uint64(tensor.data_ptr())


def rows_address(name: str, rows: torch.Tensor) -> tuple[np.uint64, np.int64]:
    """Start and pitch, in floats, of a float32 matrix whose rows each lie in one piece."""
    if rows.dim() != 2 or rows.dtype != torch.float32:
        raise DataError(f"{name} must be a float32 matrix, got {tuple(rows.shape)} {rows.dtype}; convert it first")
    if (rows.shape[1] > 1 and rows.stride(1) != 1) or (len(rows) > 1 and rows.stride(0) < rows.shape[1]):
        raise DataError(f"{name} must hold each row in one piece, got strides {rows.stride()}; call .contiguous() first")
    return np.uint64(rows.data_ptr()), np.int64(rows.stride(0) if len(rows) > 1 else rows.shape[1])


def blocks_for(items: int, per_block: int, max_blocks: int | None = None) -> int:
    """Blocks that cover `items`, at least one and at most the cap."""
    return max(1, min(-(-items // per_block), max_blocks or WAVE))


def lanes_for(vectors: int, least: int = 1) -> int:
    """Threads that share a row: the largest power of two that its vectors fill, at most a warp."""
    return max(least, min(32, 1 << (max(vectors, 1).bit_length() - 1)))
