"""Pages given back to the system: of the heap, which keeps what was freed, and of mapped files, which keep what they hold.

Letters: R rows, D width.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import IO, Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

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


def let_go_read_only(array: NDArray[Any]) -> None:
    """`let_go` of the map that `array` is a view of, if it is one that nobody may write to."""
    below: Any = array
    while isinstance(below, np.ndarray):
        if below.flags.writeable:  # in memory, or a private map, whose changes would be lost
            return
        below = below.base
    if isinstance(below, mmap.mmap):
        below.madvise(mmap.MADV_DONTNEED)


def trim_heap() -> None:
    """Give freed memory back that the C library keeps for later; a few milliseconds, and nothing where it is not glibc.

    Arrays below 32 MiB lie on its heap, so that what a long preparation freed would else count as resident for good.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # TypeError: Windows names no library so
        return
