"""How arrays are handed to compiled kernels."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


def frozen(array: NDArray[Number]) -> NDArray[Number]:
    """A contiguous read-only view: memory-mapped and fresh arrays then share one compiled kernel. Strided arrays are copied."""
    view = np.ascontiguousarray(array).view()  # copy: of strided arrays only
    view.flags.writeable = False
    return view
