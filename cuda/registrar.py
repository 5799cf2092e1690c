"""Registers host memory with the driver, in chunks, and forgets none of them.

One call of 2^39 bytes or more fails on drivers from r580 on (they keep 16 bytes per page in one piece), hence the chunks.
Whatever was registered must be unregistered before its memory is freed: its address could otherwise be refused, or read by the
GPU, for whoever gets it next. So the registrar holds a reference to the owner of every chunk until the driver has let go of it.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from gcnrec.cuda.hostmemory import HostMemory
from gcnrec.cuda.interop import Code, Cudart, load_runtime
from gcnrec.errors import DeviceError
from gcnrec.system.limits import read_limits

CHUNK_BYTES = 64 << 30

_NO_GPU = {
    Code.INITIALIZATION, Code.INSUFFICIENT_DRIVER, Code.DEVICES_UNAVAILABLE, Code.NO_DEVICE, Code.DRIVER_MISMATCH,
    Code.NO_COMPATIBILITY,
}  # fmt: skip
_LET_GO = {Code.SUCCESS, Code.UNLOADING, Code.ILLEGAL_ADDRESS, Code.LAUNCH_FAILURE}
"""Answers after which no GPU reads the memory, and none is news: at the end of a process the driver lets go by
itself, and a kernel that failed, which was reported then, ended every work of this process on the GPU."""


class PinningRefused(DeviceError):
    """There is a GPU, but this memory cannot be pinned; staged copies still can bring it there."""


class Chunk(NamedTuple):
    """A piece of memory that was registered by one call."""

    address: int
    nbytes: int


class Registrar:
    """The memory that this process has registered with one runtime; its methods may be called from any thread."""

    def __init__(self, runtime: Cudart, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.runtime = runtime
        self._chunk_bytes = -(-chunk_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        # Reentrant: the garbage collector may close other memory of ours in the middle of any of these methods.
        self._lock = threading.RLock()
        self._held: dict[Chunk, HostMemory] = {}

    @property
    def registered_bytes(self) -> int:
        with self._lock:
            return sum(chunk.nbytes for chunk in list(self._held))

    def register(self, memory: HostMemory, flags: int) -> tuple[Chunk, ...]:
        """Register all of `memory`, or nothing. PinningRefused, or DeviceError where there is no GPU; the sentence says why."""
        tried: list[Chunk] = []
        with self._lock:
            self._refuse_overlap(memory)
            try:
                for chunk in _chunks(memory, self._chunk_bytes):
                    # Noted before the call: an interrupt that falls right after it must still find the chunk.
                    tried.append(chunk)
                    self._held[chunk] = memory
                    code = self.runtime.register(*chunk, flags)
                    if code != Code.SUCCESS:
                        del self._held[tried.pop()]
                        raise self._refusal(code, chunk, memory)
            except BaseException:
                self._release(tried)
                raise
        return tuple(tried)

    def unregister(self, chunks: Sequence[Chunk]) -> None:
        """Wait for the GPU, then unregister every chunk, the last first.

        DeviceError when one fails; memory that the driver keeps stays alive.
        """
        with self._lock:
            if any(chunk in self._held for chunk in chunks):
                self.runtime.synchronize()  # synchronize: no kernel may read memory that is given back
            problems = self._release(chunks)
        if problems:
            chunk, code = problems[0]
            raise DeviceError(
                f"{len(chunks)} pieces of pinned memory should have been released, and for {len(problems)} of them the driver "
                f"answered {self.runtime.error_name(code)} (the first has {chunk.nbytes:,} bytes); what it keeps is taken until "
                "this process ends"
            )

    def require_mapped(self, chunks: Sequence[Chunk]) -> None:
        """PinningRefused unless the GPU reads every chunk at its host address, by which kernels are called."""
        for number, chunk in enumerate(chunks, 1):
            code, address = self.runtime.device_pointer(chunk.address)
            if code != Code.SUCCESS:
                self.runtime.last_error()
            if code != Code.SUCCESS or address != chunk.address:
                answer = self.runtime.error_name(code) if code != Code.SUCCESS else "another address"
                raise PinningRefused(
                    f"the GPU should read pinned memory at its host address, and for piece {number} of {len(chunks)} the driver "
                    f'answered {answer}; set table.placement = "disk", which copies rows instead'
                )

    def _release(self, chunks: Sequence[Chunk]) -> list[tuple[Chunk, int]]:
        """Unregister the chunks that are still held; returns the failed ones with the driver's codes."""
        problems = []
        for chunk in reversed(chunks):
            if chunk in self._held:
                code = self.runtime.unregister(chunk.address)
                if code in _LET_GO or code == Code.NOT_REGISTERED:
                    del self._held[chunk]
                if code not in _LET_GO:
                    self.runtime.last_error()  # cleared, or the next kernel would be blamed for it
                    problems.append((chunk, code))
        return problems

    def _refuse_overlap(self, memory: HostMemory) -> None:
        """The driver pins whole pages, so two pieces of memory may not even share one."""
        start, stop = _pages(memory.address, memory.nbytes)
        for chunk in list(self._held):
            begin, end = _pages(chunk.address, chunk.nbytes)
            shared = min(stop, end) - max(start, begin)
            if memory.nbytes and shared > 0:
                raise DeviceError(
                    f"memory is pinned once, and pages with {shared:,} bytes of these {memory.nbytes:,} are pinned already; "
                    "pin the memory that holds both once, and take views of it"
                )

    def _refusal(self, code: int, chunk: Chunk, memory: HostMemory) -> DeviceError:
        name = self.runtime.error_name(code)
        self.runtime.last_error()  # cleared, or the next kernel would be blamed for it
        if code in _NO_GPU:
            return DeviceError(
                f"pinned memory needs a GPU and a driver for its CUDA runtime, and the driver answered {name}; "
                'see gcnrec doctor, or set train.device = "cpu"'
            )
        if code == Code.ALREADY_REGISTERED:
            return PinningRefused(
                f"{memory.nbytes:,} bytes should have been pinned and another library has pinned some of them ({name}); "
                "hand over memory that is not pinned"
            )
        limits = read_limits()
        lock = "no limit" if limits.lockable is None else f"a limit of {limits.lockable:,}"
        return PinningRefused(
            f"{memory.nbytes:,} bytes should have been pinned and the driver refused {chunk.nbytes:,} of them with {name}, with "
            f"{limits.available:,} bytes available and {lock} on locked memory; raise it (ulimit -l), lower table.budget or set "
            'table.placement = "disk"'
        )


@cache
def process_registrar() -> Registrar:
    """The one registrar of this process, on the CUDA runtime that torch uses. DeviceError when there is none."""
    return Registrar(load_runtime())


def _chunks(memory: HostMemory, chunk_bytes: int) -> Iterator[Chunk]:
    """Pieces, of whole pages' size, that meet at page boundaries: two that share a page could not both be registered."""
    at, stop = memory.address, memory.address + memory.nbytes
    while at < stop:
        end = min(stop, (at + chunk_bytes) // mmap.PAGESIZE * mmap.PAGESIZE)
        yield Chunk(at, end - at)
        at = end


def _pages(address: int, nbytes: int) -> tuple[int, int]:
    return address // mmap.PAGESIZE * mmap.PAGESIZE, -(-(address + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
