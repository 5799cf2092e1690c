"""Which arrays objects hold, found by a walk over their fields, so that none is forgotten: how large, and where they lie."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LEAST_BYTES = 4096
"""Of an array that is listed."""
_MAPS = Path("/proc/self/maps")
Array = NDArray[Any] | torch.Tensor


def arrays_in(**roots: object) -> list[dict[str, Any]]:
    """An entry for each array of at least `LEAST_BYTES` below `roots`, the largest first; views of one memory count once.

    `name`: the fields on the way. `shape`, `dtype`, `bytes`. `memory`: `private`, `mapped` (a file), or the device's name.
    `resident_bytes`: how much of it is in RAM, on Linux; of a mapped file also what the system caches for others.
    """
    maps, found = _file_maps(), {}
    for name, array in _walk(roots, "", set()):
        address = array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data
        if array.nbytes >= LEAST_BYTES and (address, array.nbytes) not in found:
            found[address, array.nbytes] = {"name": name, **_described(array, address, maps)}
    return sorted(found.values(), key=lambda entry: (-entry["bytes"], entry["name"]))


def _walk(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Array]]:
    """Arrays below `value`, through containers and through objects of this package and of torch's layers."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        yield name, value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for field, part in _fields(value):
        yield from _walk(part, f"{name}.{field.lstrip('_')}" if name else field, seen)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple, deque)):
        yield from ((str(place), part) for place, part in enumerate(value))
    elif type(value).__module__.startswith("gcnrec.") or isinstance(value, torch.nn.Module):
        slots = (name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ()))
        names = {**getattr(value, "__dict__", {}), **{name: getattr(value, name) for name in slots if hasattr(value, name)}}
        yield from names.items()


def _described(array: Array, address: int, maps: list[tuple[int, int]]) -> dict[str, Any]:
    entry = {"shape": list(array.shape), "dtype": str(array.dtype).removeprefix("torch."), "bytes": array.nbytes}
    if isinstance(array, torch.Tensor) and array.device.type != "cpu":
        return {**entry, "memory": array.device.type}
    place = bisect_right(maps, address, key=lambda span: span[0]) - 1
    is_file = place >= 0 and address < maps[place][1]
    resident = _resident_bytes(address, array.nbytes)
    known = {} if resident is None else {"resident_bytes": min(resident, array.nbytes)}
    return {**entry, "memory": "mapped" if is_file else "private", **known}


def _file_maps() -> list[tuple[int, int]]:
    """First and end address of each part of a file that this process maps, ascending."""
    spans = []
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines() if _MAPS.is_file() else []:
        addresses, _, _, _, inode, *_ = line.split()
        if inode != "0":
            first, end = addresses.split("-")
            spans.append((int(first, 16), int(end, 16)))
    return sorted(spans)


def _resident_bytes(address: int, size: int) -> int | None:
    """Bytes of the pages of RAM that hold a part of `size` bytes from `address` on; None where the system does not say."""
    first = address // mmap.PAGESIZE * mmap.PAGESIZE
    pages = -(-(address + size - first) // mmap.PAGESIZE)
    is_there = np.empty(pages, np.uint8)
    sizes = ctypes.c_void_p(first), ctypes.c_size_t(pages * mmap.PAGESIZE), ctypes.c_void_p(is_there.ctypes.data)
    try:
        refused = ctypes.CDLL(None).mincore(*sizes)
    except (AttributeError, OSError, TypeError):
        return None
    return None if refused else int(np.count_nonzero(is_there & 1)) * mmap.PAGESIZE
