"""Duplicate rows: sums gradients that belong to one row, always in batch order.

Letters: B entries, R distinct rows, D width.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray


def reduce_rows(index_B: NDArray[np.int64], grad_BD: torch.Tensor, num_rows: int) -> torch.Tensor:
    """out[r] = sum of grad[b] over the b with index[b] == r, added in rising order of b; float32 (num_rows, D).

    Rows without an entry are zero. The result does not depend on the number of threads.
    """
    out_RD = torch.empty(num_rows, grad_BD.shape[1])
    _reduce(index_B, grad_BD.contiguous().numpy(), out_RD.numpy())
    return out_RD


@numba.njit(parallel=True, cache=True)
def _reduce(index_B, grad_BD, out_RD):  # type: ignore[no-untyped-def]
    start = np.zeros(len(out_RD) + 1, np.int64)
    for b in range(len(index_B)):
        start[index_B[b] + 1] += 1
    for r in range(len(out_RD)):
        start[r + 1] += start[r]
    order = np.empty(len(index_B), np.int64)
    place = start[:-1].copy()
    for b in range(len(index_B)):
        order[place[index_B[b]]] = b
        place[index_B[b]] += 1
    width = out_RD.shape[1]
    for r in numba.prange(len(out_RD)):
        out = out_RD[r]
        out[:] = np.float32(0.0)
        for k in range(start[r], start[r + 1]):
            grad = grad_BD[order[k]]
            for d in range(width):
                out[d] += grad[d]
