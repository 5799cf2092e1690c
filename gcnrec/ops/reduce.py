"""Duplicate rows: sums gradients that belong to one row, always in batch order.

Letters: B entries, R distinct rows, D width.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.rows import Entries


def entries_of(index_B: NDArray[np.int64], num_rows: int) -> Entries[NDArray[np.int64]]:
    """Entries whose rows, in 0 .. num_rows - 1, are `index_B`. Other threads go on meanwhile: batches are prepared by one."""
    start_R1, order_B = _ordered(index_B, num_rows)
    return Entries(index_B, order_B, start_R1)


def reduce_rows(entries: Entries[torch.Tensor], grad_BD: torch.Tensor) -> torch.Tensor:
    """out[r] = sum of grad[b] over the entries b of row r, added in rising order of b; (R, D) of the type of `grad_BD`.

    Rows without an entry are zero. The result does not depend on the number of threads.
    """
    out_RD = torch.empty(len(entries.start_R1) - 1, grad_BD.shape[1], dtype=grad_BD.dtype)
    _reduce(entries.order_B.numpy(), entries.start_R1.numpy(), grad_BD.contiguous().numpy(), out_RD.numpy())
    return out_RD


@numba.njit(cache=True, nogil=True)
def _ordered(index_B, num_rows):  # type: ignore[no-untyped-def]
    """Where each row's entries begin, and the entries by row."""
    start = np.zeros(num_rows + 1, np.int64)
    for b in range(len(index_B)):
        start[index_B[b] + 1] += 1
    for r in range(num_rows):
        start[r + 1] += start[r]
    order = np.empty(len(index_B), np.int64)
    place = start[:-1].copy()
    for b in range(len(index_B)):
        order[place[index_B[b]]] = b
        place[index_B[b]] += 1
    return start, order


@numba.njit(parallel=True, cache=True)
def _reduce(order_B, start_R1, grad_BD, out_RD):  # type: ignore[no-untyped-def]
    width = out_RD.shape[1]
    for r in numba.prange(len(out_RD)):
        out = out_RD[r]
        out[:] = np.float32(0.0)
        for k in range(start_R1[r], start_R1[r + 1]):
            grad = grad_BD[order_B[k]]
            for d in range(width):
                out[d] += grad[d]
