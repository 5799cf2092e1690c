"""Scratch on disk for whole node matrices, in mapped, nameless files; and pages given back to the system.

Letters: R rows, D width.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError, os_remedy
from gcnrec.system.scratch import reserve

_MAPS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""The maps behind tensors of `map_rows`, by the address of their storage; a map lives as long as a tensor of it."""


def map_rows(file: IO[bytes], rows: int, width: int) -> torch.Tensor:
    """The first `4 * rows * width` bytes of `file`, which is open for reading and writing, as float32 (rows, width)."""
    return map_descriptor(file.fileno(), rows, width)


def map_descriptor(descriptor: int, rows: int, width: int) -> torch.Tensor:
    """`map_rows` of a file by its descriptor, which may be closed afterwards."""
    view = mmap.mmap(descriptor, max(4, 4 * rows * width))
    rows_RD = torch.from_numpy(np.frombuffer(view, np.float32, rows * width).reshape(rows, width))
    _MAPS[rows_RD.untyped_storage().data_ptr()] = view
    return rows_RD


def scratch_rows(folder: Path, rows: int, width: int) -> torch.Tensor:
    """Float32 (rows, width) in a nameless file of `folder`, memory-mapped: it takes disk, and RAM only as far as there is some.

    The file vanishes with the last reference. Its blocks are reserved first: a full disk is a DataError here, where writing
    into the map would end the process.
    """
    size = max(4, 4 * rows * width)
    with scratch_errors(folder, size), TemporaryFile(dir=folder) as file:
        reserve(file.fileno(), size)
        return map_rows(file, rows, width)


@contextmanager
def scratch_errors(folder: Path, size: int) -> Iterator[None]:
    """An OSError of the block becomes the DataError of `size` bytes of scratch that `folder` has no room for."""
    try:
        yield
    except OSError as problem:
        raise DataError(
            f"{size:,} bytes of scratch cannot be had in {folder}: {problem.strerror or problem}; "
            f"{os_remedy(problem, 'write to another folder or disk')}"
        ) from None


def scratch_values(folder: Path, length: int) -> torch.Tensor:
    """`length` float32 values of scratch, as `scratch_rows` gives them."""
    return scratch_rows(folder, 1, length)[0]


def in_large_pages(length: int) -> torch.Tensor:
    """`length` float32 values of zeroed memory, in pages of megabytes where the system has them: rows are read at random from it.

    Measured: a hop over rows of 8 and 16 columns, with planes beyond the caches, took 0.82 and 0.85 times as long.
    """
    if not length or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(length)
    memory = mmap.mmap(-1, 4 * length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without such pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.from_numpy(np.frombuffer(memory, np.float32))


def let_go(rows_RD: torch.Tensor) -> None:
    """Give back the RAM of the whole map that `rows_RD` is a part of; pages return when they are touched, with what they held.

    Memory that `map_rows` did not give stays as it is. The system may keep the pages cached as long as the RAM is free.
    """
    view = _MAPS.get(rows_RD.untyped_storage().data_ptr())
    if view is not None:
        view.madvise(mmap.MADV_DONTNEED)


def let_go_read_only(array: NDArray[Any]) -> None:
    """`let_go` of the map that `array` is a view of, if it is read-only."""
    below: Any = array
    while isinstance(below, np.ndarray):
        if below.flags.writeable:  # in memory, or a private map, whose changes would be lost
            return
        below = below.base
    if isinstance(below, mmap.mmap):
        below.madvise(mmap.MADV_DONTNEED)
