"""Host arrays of a batch in one piece of pinned memory, and one copy of it to the device.

A thread that prepares batches packs, the thread that trains uploads. A slab is filled again when its copy is over; as long as
none is, another is allocated. So nothing waits, and there are as many slabs as batches on their way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT = 16
"""Bytes: kernels read four floats at a time."""
_ROUNDED = 1 << 20
"""Slabs have multiples of this size in bytes, as the sizes of batches vary."""


class Copied(Protocol):
    """The end of a copy."""

    def query(self) -> bool:
        """Whether it is over."""
        ...


class _Place(NamedTuple):
    """Where an array lies in a slab."""

    first: int
    last: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """Arrays in the first `nbytes` of a `slab` (uint8), one after the other."""

    slab: torch.Tensor
    nbytes: int
    places: tuple[_Place, ...]


class Uploads:
    """`allocate` gives so many pinned bytes (uint8); `to_device` begins to copy bytes, and says when that is over."""

    def __init__(
        self, allocate: Callable[[int], torch.Tensor], to_device: Callable[[torch.Tensor], tuple[torch.Tensor, Copied]]
    ) -> None:
        self._allocate, self._to_device = allocate, to_device
        self._leaving: deque[tuple[torch.Tensor, Copied]] = deque()
        self._lock = threading.Lock()

    def pack(self, arrays: Sequence[NDArray[Any]]) -> Packed:
        """All `arrays`, each aligned."""
        places, end = [], 0
        for array in arrays:
            first = -(-end // ALIGNMENT) * ALIGNMENT
            end = first + array.nbytes
            places.append(_Place(first, end, torch.from_numpy(array).dtype, array.shape))
        slab = self._free(end)
        content = slab.numpy()
        for array, place in zip(arrays, places, strict=True):
            here = content[place.first : place.last].view(array.dtype).reshape(array.shape)
            np.copyto(here, array)  # copy: into pinned memory, by the thread that prepared it
        return Packed(slab, end, tuple(places))

    def upload(self, packed: Packed) -> tuple[torch.Tensor, ...]:
        """The arrays as tensors: views of one copy."""
        arrived, copied = self._to_device(packed.slab[: packed.nbytes])
        with self._lock:
            self._leaving.append((packed.slab, copied))
        return tuple(arrived[first:last].view(dtype).view(shape) for first, last, dtype, shape in packed.places)

    def _free(self, nbytes: int) -> torch.Tensor:
        """A slab whose last copy is over, of at least `nbytes`."""
        with self._lock:
            # Copies end in the order in which they began.
            slab = self._leaving.popleft()[0] if self._leaving and self._leaving[0][1].query() else None
        if slab is None or len(slab) < nbytes:
            slab = self._allocate(-(-max(nbytes, 1) // _ROUNDED) * _ROUNDED)
        return slab
