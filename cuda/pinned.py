"""Host memory that GPU threads read and write in place (zero-copy), and what to do where it cannot be had.

Min et al., VLDB 2021, leave feature tables in such memory; here the tables are trained there too. Kernels take
`device_address`; any library that knows `__cuda_array_interface__` takes a `PinnedArray`.
"""

from __future__ import annotations

import math
import os
import platform
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gcnrec.cuda.hostmemory import HostMemory
from gcnrec.cuda.registrar import Chunk, PinningRefused, Registrar, process_registrar
from gcnrec.errors import DeviceError
from gcnrec.system.limits import read_limits

PORTABLE, MAPPED, READ_ONLY = 1, 2, 8


class PinnedMemory:
    """Memory registered with the driver from here to `close`, which the end of this object or of the process calls too.

    `read_only` promises that the GPU only reads; memory that this process may not write needs it. The end waits for the GPU's
    work. A copy by the driver must not cross a boundary of `chunks`; kernels may.
    """

    def __init__(self, memory: HostMemory, registrar: Registrar | None = None, read_only: bool = False) -> None:
        _refuse_by_rule(memory, read_only)
        registrar = process_registrar() if registrar is None else registrar
        self.chunks: tuple[Chunk, ...] = registrar.register(memory, _flags(memory, registrar, read_only))
        self._close = weakref.finalize(self, _release, registrar, self.chunks, os.getpid())
        self._memory = memory
        self.read_only = read_only
        try:
            registrar.require_mapped(self.chunks)
        except BaseException:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    @property
    def content(self) -> NDArray[np.uint8]:
        """The memory as the host sees it; it outlives `close`."""
        return self._memory.content

    @property
    def device_address(self) -> int:
        """The address of the first byte for kernels, the host's own. DeviceError after `close`."""
        if not self._close.alive:
            raise DeviceError(f"{self.nbytes:,} bytes of pinned memory were asked for after they were closed; open them again")
        return self._memory.address

    def array(self, shape: tuple[int, ...], dtype: DTypeLike, pitch_bytes: int | None = None, offset: int = 0) -> PinnedArray:
        """An array of `shape` from byte `offset` on, its rows `pitch_bytes` apart (default: without gaps).

        DeviceError when the memory is too small for it.
        """
        kind = np.dtype(dtype)
        steps = [kind.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        steps[:1] = steps[:1] if pitch_bytes is None else [pitch_bytes]
        try:
            return PinnedArray(self, np.ndarray(shape, kind, self.content.data, offset, tuple(steps)), offset)
        except (TypeError, ValueError) as problem:
            raise DeviceError(
                f"an array {shape} of {kind} with strides {tuple(steps)} from byte {offset:,} on should fit into {self.nbytes:,} "
                f"bytes of pinned memory, and does not ({problem}); allocate more"
            ) from None

    def close(self) -> None:
        """Unregister; a second call does nothing. DeviceError when the driver keeps the memory."""
        self._close()

    def __enter__(self) -> PinnedMemory:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class PinnedArray:
    """An array in pinned memory: `host` is its view on the CPU, `__cuda_array_interface__` the one on the GPU; no copy."""

    memory: PinnedMemory
    host: NDArray[Any]
    offset: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; without a stream, since nothing is in flight on memory that the host fills."""
        address = self.memory.device_address + self.offset if self.host.size else 0
        return {
            "version": 3,
            "shape": self.host.shape,
            "typestr": self.host.dtype.str,
            "strides": None if self.host.flags.c_contiguous else self.host.strides,
            "data": (address, self.memory.read_only),
            "stream": None,
        }


@dataclass(frozen=True, slots=True)
class StagedMemory:
    """Memory that could not be pinned, and the sentence that says why: its rows travel by copies through a small pinned ring."""

    memory: HostMemory
    reason: str


def pin_or_stage(memory: HostMemory, registrar: Registrar | None = None, read_only: bool = False) -> PinnedMemory | StagedMemory:
    """Pin `memory` where this machine allows it, stage it otherwise. DeviceError where no GPU could read it either way."""
    try:
        return PinnedMemory(memory, registrar, read_only)
    except PinningRefused as refusal:
        return StagedMemory(memory, str(refusal))


def _refuse_by_rule(memory: HostMemory, read_only: bool) -> None:
    """PinningRefused for what the driver cannot do, or would do to the harm of the machine."""
    if "microsoft" in platform.release().lower():
        raise PinningRefused(
            f"{memory.nbytes:,} bytes should have been pinned in place, which Windows' Subsystem for Linux does not offer; "
            "rows are copied instead, or run on Linux itself"
        )
    if not memory.writable and not read_only:
        raise PinningRefused(
            f"memory to be trained in must be writable, and these {memory.nbytes:,} bytes are not; map the file for writing, "
            "or pin it with read_only"
        )
    available = read_limits().available
    if memory.on_file and memory.nbytes > available:
        raise PinningRefused(
            f"{memory.nbytes:,} bytes of a file should have been pinned and {available:,} bytes of memory are available; "
            "rows are copied instead, or lower table.budget until the file fits"
        )


def _flags(memory: HostMemory, registrar: Registrar, read_only: bool) -> int:
    if not read_only:
        return PORTABLE | MAPPED
    if registrar.runtime.maps_read_only():
        return PORTABLE | MAPPED | READ_ONLY
    if memory.writable:
        return PORTABLE | MAPPED
    raise PinningRefused(
        f"{memory.nbytes:,} bytes may only be read, and this device pins no such memory; map the file for writing, "
        "or let rows be copied"
    )


def _release(registrar: Registrar, chunks: tuple[Chunk, ...], process: int) -> None:
    if os.getpid() == process:  # a forked child inherits this object, but not the driver's registration
        registrar.unregister(chunks)
