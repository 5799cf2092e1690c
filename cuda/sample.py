"""Draws on the GPU: for equal keys the integers of `gcnrec.ops.neighbours` and `gcnrec.ops.sample`.

Letters: T targets, X places for drawn edges, B positives, N negatives per positive, I items.
"""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for
from gcnrec.cuda.propagate import Csr, edges
from gcnrec.errors import UsageError
from gcnrec.random import Stage

MAX_FANOUT = 64
"""Draws of a node: two for each lane of a warp."""
_LOW = 0xFFFFFFFF


def sample_neighbours(
    csr: Csr, rows_T: torch.Tensor, fanout: int, seed: int, step: int, hop: int, first_node: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """min(fanout, degree) columns of each of `rows_T` (int32), ascending within a row: (indptr int64 (T+1), indices int32 (X)).

    The device alone knows how many were drawn: `indices` has T * fanout places, of which the first indptr[-1] are filled.
    Raises UsageError unless 1 <= fanout <= 64.
    """
    if not 1 <= fanout <= MAX_FANOUT:
        raise UsageError(f"a fanout must lie in 1 .. {MAX_FANOUT}, got {fanout}; change sampler.fanouts")
    device, targets = rows_T.device, len(rows_T)
    indptr_T1 = torch.zeros(targets + 1, dtype=torch.int64, device=device)
    indices_X = torch.empty(targets * fanout, dtype=torch.int32, device=device)
    if targets == 0:
        return indptr_T1, indices_X
    counts_T = torch.empty(targets, dtype=torch.int64, device=device)
    indptr, indices = edges(csr)
    rows = (address("rows_T", rows_T, torch.int32), np.int64(targets))
    counting = (indptr, *rows, np.int32(fanout), address("counts_T", counts_T, torch.int64))
    module.launch("sample.cu", "gcnrec_sample_counts", blocks_for(targets, BLOCK), BLOCK, counting, device)
    torch.cumsum(counts_T, 0, out=indptr_T1[1:])
    lanes = min(32, 1 << (fanout - 1).bit_length())
    arguments = (
        indptr, indices, *rows, np.int64(first_node), np.int32(fanout), np.uint64(seed), *counter_words(step, hop),
        address("indptr_T1", indptr_T1, torch.int64), address("indices_X", indices_X, torch.int32), np.int32(lanes),
    )  # fmt: skip
    module.launch("sample.cu", "gcnrec_sample_neighbours", blocks_for(targets * lanes, BLOCK), BLOCK, arguments, device)
    return indptr_T1, indices_X


def counter_words(step: int, hop: int) -> tuple[np.uint32, np.uint32]:
    """The last two words of the Philox counter of a uniform draw, as `gcnrec.ops.neighbours` lays them out."""
    return np.uint32(step & _LOW), np.uint32(int(Stage.SAMPLE) | hop << 8 | (step >> 32) << 16)
