"""Softmax of a chunk of logits and its gradient on the GPU, in one pass: the function of `gcnrec.ops.softmax`, on tensors.

Letters: C rows of the chunk, J candidates.
"""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import WAVE, address, rows_address

ROW_BLOCK = 256
"""Threads that share a row, as softmax.cu has it."""


def softmax_gradient_(logits_CJ: torch.Tensor, goal_C: torch.Tensor) -> torch.Tensor:
    """Turn each row of logits into its softmax minus 1 at `goal` (int64), in place; returns -log softmax[goal], float32 (C).

    That is the gradient of the returned loss with respect to the logits. Rows may lie in a wider matrix. A row with NaN or +inf
    becomes NaN; -inf has no share. Against torch only the order of the sum differs, by a few units in the last place.
    """
    losses_C = torch.empty(len(logits_CJ), device=logits_CJ.device)
    logits, pitch = rows_address("logits_CJ", logits_CJ)
    rows, width = logits_CJ.shape
    arguments = (
        logits, pitch, np.int64(rows), np.int64(width), address("goal_C", goal_C, torch.int64),
        address("losses_C", losses_C, torch.float32),
    )  # fmt: skip
    if rows:
        module.launch("softmax.cu", "gcnrec_softmax_gradient", min(rows, WAVE), ROW_BLOCK, arguments, losses_C.device)
    return losses_C
