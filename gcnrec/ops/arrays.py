"""Arguments of compiled kernels."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


def frozen(array: NDArray[Number]) -> NDArray[Number]:
    """A contiguous read-only view: memory-mapped and fresh arrays then share one compiled kernel. Strided arrays are copied."""
    view = np.ascontiguousarray(array).view()  # copy: of strided arrays only
    view.flags.writeable = False
    return view


def copy_columns(source_BI: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
    """Copy columns `first .. last-1` into `out_BT`, both float32, on the calling thread.

    torch starts all threads for a tile, which then wait longer for one another than they copy.
    """
    np.copyto(out_BT.numpy(), source_BI.numpy()[:, first:last])
