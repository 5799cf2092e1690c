"""The finite check on the GPU: the function of `gcnrec.ops.guard`, on tensors, without a wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for

PARTS = 8
"""Tensors of one launch, as guard.cu has it."""
VALUES = 4
"""Values that a thread has on their way."""


def flag_nonfinite(tensors: Sequence[torch.Tensor], bad: torch.Tensor) -> None:
    """Set bit i (at most 30) of `bad` where `tensors[i]` holds a number that is not finite; other bits stay.

    Tensors are contiguous float32 of any shape, `bad` is int32 (1) on the device. One launch takes eight tensors.
    """
    for first in range(0, len(tensors), PARTS):
        chosen = tensors[first : first + PARTS]
        parts = [part for place, tensor in enumerate(chosen, first) for part in _part(place, tensor)]
        parts += [np.uint64(0), np.int64(0)] * (PARTS - len(chosen))
        most = max(tensor.numel() for tensor in chosen)
        if most:
            arguments = (*parts, np.int32(first), address("bad", bad, torch.int32))
            grid = blocks_for(most, BLOCK * VALUES)
            module.launch("guard.cu", "gcnrec_flag_nonfinite", grid, BLOCK, arguments, bad.device)


def _part(place: int, tensor: torch.Tensor) -> tuple[np.uint64, np.int64]:
    return address(f"tensors[{place}]", tensor, torch.float32), np.int64(tensor.numel())
