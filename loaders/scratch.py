"""Working arrays that may be larger than memory, and files whose bytes are claimed before they are written."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gcnrec.errors import UsageError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `2GB` or `512MiB`; raises UsageError when it is none."""
    digits = text.strip().lower().rstrip("bikmgt ")
    unit = text.strip().lower()[len(digits) :].strip() or "b"
    try:
        size = int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError):
        raise UsageError(f"memory_limit expects a size such as 2GB or 512MB, got {text!r}") from None
    if size < 64 * 10**6:
        raise UsageError(f"memory_limit must be at least 64MB, got {text!r}")
    return size


@dataclass(frozen=True, slots=True)
class Scratch:
    """Room for working arrays: in RAM while small against `limit` bytes, else in unlinked files of `folder`."""

    folder: Path
    limit: int

    def empty(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised vector; a file behind it vanishes with the array. Raises OSError when the disk is full."""
        dtype = np.dtype(dtype)
        if size * dtype.itemsize <= self.limit // 5:
            return np.empty(size, dtype)
        descriptor, path = tempfile.mkstemp(dir=self.folder)
        try:
            reserve(descriptor, size * dtype.itemsize)
            return np.memmap(path, dtype, "r+", shape=(size,)).view(np.ndarray)
        finally:
            os.close(descriptor)
            Path(path).unlink()

    def codes(self, size: int) -> NDArray[np.int8]:
        """A vector of one zero per row."""
        codes: NDArray[np.int8] = self.empty(size, np.int8)
        codes[:] = 0
        return codes


def reserve(descriptor: int, size: int) -> None:
    """Claim `size` bytes on disk now: a full disk is an OSError here, and would be a SIGBUS at a later write to the map."""
    if size:
        os.posix_fallocate(descriptor, 0, size)


def new_npy(path: Path, size: int, dtype: DTypeLike) -> NDArray[Any]:
    """A writable memory map of a new one-dimensional `.npy` file whose bytes are already reserved."""
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (size,)) if size else np.empty(0, dtype)
    if not size:
        np.save(path, array)
        return array
    with path.open("r+b") as file:
        reserve(file.fileno(), path.stat().st_size)
    return array.view(np.ndarray)
