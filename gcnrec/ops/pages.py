"""Float32 matrices in memory-mapped files, whose pages can be let go: the file keeps what they hold.

Letters: R rows, D width.
"""

from __future__ import annotations

import mmap
from typing import IO
from weakref import WeakValueDictionary

import numpy as np
import torch

_MAPS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""The maps behind tensors of `map_rows`, by the address of their storage; a map lives as long as a tensor of it."""


def map_rows(file: IO[bytes], rows: int, width: int) -> torch.Tensor:
    """The first `4 * rows * width` bytes of `file`, which is open for reading and writing, as float32 (rows, width)."""
    view = mmap.mmap(file.fileno(), max(4, 4 * rows * width))
    rows_RD = torch.from_numpy(np.frombuffer(view, np.float32, rows * width).reshape(rows, width))
    _MAPS[rows_RD.untyped_storage().data_ptr()] = view
    return rows_RD


def let_go(rows_RD: torch.Tensor) -> None:
    """Give back the RAM of the whole map that `rows_RD` is a part of; pages return when they are touched, with what they held.

    Memory that `map_rows` did not give stays as it is. The system may keep the pages cached as long as nobody needs the RAM.
    """
    view = _MAPS.get(rows_RD.untyped_storage().data_ptr())
    if view is not None:
        view.madvise(mmap.MADV_DONTNEED)
