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
    _gather(padded(plane_PD), index_R, out_RD.numpy())
    return out_RD


def padded(plane_PD: torch.Tensor) -> NDArray[np.float32]:
    """The plane with the padding of its rows, as one C-contiguous array (P, pitch) that shares its memory.

    numba compiles rows of a plain strided array to gathers; of this one to vector loads.
    """
    pitch = plane_PD.stride(0)
    if plane_PD.is_contiguous() or len(plane_PD) == 0:
        return plane_PD.numpy()  # type: ignore[no-any-return]
    return plane_PD.as_strided((len(plane_PD), pitch), (pitch, 1)).numpy()  # type: ignore[no-any-return]


@numba.njit(parallel=True, cache=True)
def _gather(plane_PD, index_R, out_RD):  # type: ignore[no-untyped-def]
    width = out_RD.shape[1]
    for r in numba.prange(len(index_R)):
        row, out = plane_PD[index_R[r]], out_RD[r]
        for d in range(width):
            out[d] = row[d]
