"""Reads rows by number.

Letters: P rows of a plane, R rows to read, D width.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray


def gather(plane_PD: torch.Tensor, index_R: NDArray[np.integer], out_RD: torch.Tensor | None = None) -> torch.Tensor:
    """out[r] = plane[index[r]], float32; a buffer given as `out_RD` is reused."""
    if out_RD is None:
        out_RD = torch.empty(len(index_R), plane_PD.shape[1])
    _gather(plane_PD.numpy(), index_R, out_RD.numpy())
    return out_RD


@numba.njit(parallel=True, cache=True)
def _gather(plane_PD, index_R, out_RD):  # type: ignore[no-untyped-def]
    for r in numba.prange(len(index_R)):
        row, out = plane_PD[index_R[r]], out_RD[r]
        for d in range(len(out)):
            out[d] = row[d]
