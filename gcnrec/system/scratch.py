"""Working arrays that may be larger than memory, files whose bytes are claimed before they are written, memory given back."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gcnrec.errors import DeviceError

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of parameters in glibc's malloc.h."""
_ON_HEAP = (128 << 20, 32 << 20)
"""Bytes below which arrays lie on the heap; glibc before 2.35 takes the second at most."""
_KEPT = 512 << 20
"""Free bytes at the end of the heap that it keeps."""


@contextmanager
def memory_errors_as_sentences(limit: str) -> Iterator[None]:
    """Memory that runs out all the same becomes a DeviceError that names `memory_limit`, of which the text is `limit`."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as problem:
        if not (isinstance(problem, MemoryError) or _is_short(problem)):
            raise
        detail = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise DeviceError(
            f"memory ran out under memory_limit = {limit} ({detail}); "
            "set it to what the machine has free, or raise it if one row of the input is larger than that"
        ) from None


def _is_short(problem: Exception) -> bool:
    """Whether the system refused memory, or a thread for which there was none."""
    words = "can't allocate memory", "not enough memory", "can't start new thread"
    return getattr(problem, "errno", None) == errno.ENOMEM or any(each in str(problem) for each in words)


_BLOCK_BYTES = 2**20
"""Of a file that are written at a time where they cannot be reserved."""


class Scratch:
    """Room for working arrays: in RAM while all of them take an eighth of `limit` bytes, else in unlinked files of `folder`."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._in_ram = 0

    def empty(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised vector; a file behind it vanishes with the array. Raises OSError when the disk is full."""
        dtype = np.dtype(dtype)
        nbytes = size * dtype.itemsize
        if self._in_ram + nbytes <= self.limit // 8:
            array = np.empty(size, dtype)
            self._in_ram += nbytes
            weakref.finalize(array, self._give_back, nbytes)
            return array
        descriptor, path = tempfile.mkstemp(dir=self.folder)
        try:
            reserve(descriptor, size * dtype.itemsize)
            return np.memmap(path, dtype, "r+", shape=(size,)).view(np.ndarray)
        finally:
            os.close(descriptor)
            Path(path).unlink()

    def full(self, size: int, dtype: DTypeLike, value: int) -> NDArray[Any]:
        """A vector of one value."""
        array = self.empty(size, dtype)
        array[:] = value
        return array

    def codes(self, size: int) -> NDArray[np.int8]:
        """A vector of one zero per row."""
        return self.full(size, np.int8, 0)

    def _give_back(self, nbytes: int) -> None:
        self._in_ram -= nbytes


@contextmanager
def scratch_in(folder: Path, limit: int) -> Iterator[Scratch]:
    """Scratch in a new folder, removed at the end; after a failure it vanishes with the folder around it.

    What a killed process left in the folder is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield Scratch(folder, limit)
    shutil.rmtree(folder)


class Spool:
    """A vector in an unlinked file of `folder` that grows at its end."""

    def __init__(self, folder: Path, dtype: DTypeLike) -> None:
        self._dtype, self._length = np.dtype(dtype), 0
        self._descriptor, path = tempfile.mkstemp(dir=folder)
        Path(path).unlink()
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self._length

    def append(self, values: NDArray[Any]) -> None:
        """Write `values` behind the others. Raises OSError when the disk is full."""
        left = np.ascontiguousarray(values, self._dtype).data.cast("B")
        while left:
            left = left[os.write(self._descriptor, left) :]
        self._length += len(values)

    def array(self) -> NDArray[Any]:
        """All of it, mapped; nothing may be appended any more. The file vanishes with the array."""
        if not self._length:
            return np.empty(0, self._dtype)
        array = np.frombuffer(mmap.mmap(self._descriptor, self._length * self._dtype.itemsize), self._dtype)
        self._close()
        return array


def reserve(descriptor: int, size: int) -> None:
    """Claim `size` bytes on disk now: a full disk is an OSError here, and would be a SIGBUS at a later write to the map.

    What the file holds stays. macOS and some file systems cannot reserve: there each block is written, zeros where nothing was.
    """
    if not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:
        _write_through(descriptor, size)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        _write_through(descriptor, size)


def _write_through(descriptor: int, size: int) -> None:
    for first in range(0, size, _BLOCK_BYTES):
        block = min(_BLOCK_BYTES, size - first)
        left = memoryview(os.pread(descriptor, block, first).ljust(block, b"\0"))
        while left:
            left = left[os.pwrite(descriptor, left, first + block - len(left)) :]


def new_npy(path: Path, shape: int | tuple[int, int], dtype: DTypeLike) -> NDArray[Any]:
    """A writable memory map of a new `.npy` file of zeros whose bytes are already reserved."""
    if not np.prod(shape):
        array = np.empty(shape, dtype)
        np.save(path, array)
        return array
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (shape,) if isinstance(shape, int) else shape)
    with path.open("r+b") as file:
        reserve(file.fileno(), path.stat().st_size)
    return array.view(np.ndarray)


def trim_heap() -> None:
    """Give freed memory back that the C library keeps for later; a few milliseconds, and nothing where it is not glibc.

    Arrays below 32 MiB lie on its heap, so that what a long preparation freed would else count as resident for good.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # TypeError: Windows names no library so
        return


def keep_freed_memory() -> None:
    """Let the C library keep up to 512 MiB of freed memory for the next arrays; nothing where it is not glibc.

    A training step makes and frees the same large arrays. By default each is mapped anew, and the system clears its pages: 70 of
    640 CPU milliseconds of a step of two parts on Gowalla. `trim_heap` gives all of it back.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if any(mallopt(_MMAP_THRESHOLD, size) for size in _ON_HEAP):
        mallopt(_TRIM_THRESHOLD, _KEPT)
