"""Host memory that can be pinned: taken over from its owner, or allocated where pinning is fast.

Registering memory costs the page faults of what was never touched, taken by one thread. Fresh memory is therefore asked for in
huge pages and touched by all cores first. Sizes in bytes.
"""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DeviceError
from gcnrec.system.limits import read_limits, require_memory
from gcnrec.system.machine import available_cores

HUGE_BYTES = 2 << 20
TOUCH_BYTES = 256 << 20
"""A touching thread takes at least this much: less is over before the threads have started."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Flat uint8 `content` (numpy) that keeps its owner alive; `on_file`: pages of a file, resident only once pinned."""

    content: NDArray[np.uint8]
    on_file: bool

    @property
    def address(self) -> int:
        return int(self.content.ctypes.data)

    @property
    def nbytes(self) -> int:
        return self.content.nbytes

    @property
    def writable(self) -> bool:
        return bool(self.content.flags.writeable)


def allocate(nbytes: int) -> HostMemory:
    """Zeros as `reserve` gives them, touched by all cores. DeviceError when that much is not available."""
    require_memory(nbytes, read_limits())
    memory = reserve(nbytes)
    touch(memory.content)
    return memory


def reserve(nbytes: int) -> HostMemory:
    """Zeros in anonymous memory, huge pages where the kernel gives them, which are taken when they are first written.

    A table that all cores fill need not be touched before.
    """
    # Private: Python's default, shared anonymous memory, is a tmpfs file, which gets no huge pages.
    mapped = mmap.mmap(-1, nbytes + HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A child process must not get these pages: once it has, our next write could move them away from what the GPU reads.
    for name in ("MADV_DONTFORK", "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages says so by an error
            if hasattr(mmap, name):
                mapped.madvise(getattr(mmap, name))
    whole = np.frombuffer(mapped, np.uint8)
    skip = -whole.ctypes.data % HUGE_BYTES
    return HostMemory(whole[skip : skip + nbytes], on_file=False)


def adopt(memory: torch.Tensor | NDArray[np.generic]) -> HostMemory:
    """The memory of a CPU tensor (its rows padded or not), of a C-contiguous array or of a memory-mapped file; no copy.

    The owner lives as long as the result. DeviceError for memory of another device, or with gaps other than row padding.
    """
    if isinstance(memory, torch.Tensor):
        return HostMemory(_span(memory), on_file=False)
    if not memory.flags.c_contiguous:
        raise DeviceError(
            f"memory to pin must be in one piece, and an array of shape {memory.shape} with strides {memory.strides} is not; "
            "give the array that it is a view of"
        )
    return HostMemory(np.asarray(memory).reshape(-1).view(np.uint8), on_file=isinstance(memory, np.memmap))


def touch(content: NDArray[np.uint8]) -> None:
    """Write a zero to every page of fresh memory, on all cores: its faults then do not fall to the one registering thread."""
    threads = max(1, min(available_cores(), len(content) // TOUCH_BYTES))
    share = -(-len(content) // (threads * mmap.PAGESIZE)) * mmap.PAGESIZE
    shares = [content[start : start + share : mmap.PAGESIZE] for start in range(0, len(content), max(1, share))]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pages: pages.fill(0), shares))  # the list passes errors on


def _span(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """The bytes from a tensor's first value to the end of its last row, padding included."""
    if tensor.device.type != "cpu":
        raise DeviceError(f"memory to pin must be a CPU tensor, got one on {tensor.device}; pass it before it is moved")
    row = tensor[0] if tensor.dim() > 1 and len(tensor) else tensor
    if not row.is_contiguous() or (tensor.dim() > 1 and len(tensor) and tensor.stride(0) < row.numel()):
        raise DeviceError(
            f"memory to pin must be rows in order, and a tensor of shape {tuple(tensor.shape)} with strides {tensor.stride()} "
            "is not; give the tensor that it is a view of"
        )
    storage, first = tensor.untyped_storage(), tensor.storage_offset() * tensor.element_size()
    rows = len(tensor) * tensor.stride(0) if tensor.dim() > 1 else tensor.numel()
    size = min(rows * tensor.element_size(), storage.nbytes() - first)
    return torch.empty(0, dtype=torch.uint8).set_(storage, first, (size,), (1,)).numpy()  # type: ignore[no-any-return]
