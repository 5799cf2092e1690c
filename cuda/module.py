"""Compiles and launches the kernels of this folder: CuPy's RawModule over NVRTC, no extension tied to torch's ABI.

A file is compiled once per device and process, for that device; CuPy keeps the result on disk for the next process.
Launches go to torch's current stream, so they keep their order with torch's own kernels; nothing here waits for the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DeviceError, install

FOLDER = Path(__file__).resolve().parent
OPTIONS = ("-std=c++17", f"-I{FOLDER}")

_MEMORY, _OLD_DRIVER, _NO_DEVICE, _NO_IMAGE, _NEW_PTX = 2, 35, 100, 209, 222
"""Error codes that mean the same to CUDA's driver and runtime."""
_NO_CUDA_IN_TORCH = (AssertionError, RuntimeError)
"""Exceptions of torch for a stream without CUDA or driver."""


def launch(
    file: str, kernel: str, grid: int, block: int, arguments: tuple[np.generic | NDArray[np.void], ...], device: torch.device,
    shared: int = 0,
) -> None:  # fmt: skip
    """Start `kernel` of cuda/<file> on torch's current stream of `device`; returns before it has run.

    `arguments` are typed NumPy scalars, pointers np.uint64: a Python number would be passed with whatever size CuPy guesses.
    A struct by value is an array of one np.void.
    `shared` counts bytes of dynamic shared memory. Raises DeviceError without CuPy, device, a recent driver or memory.
    """
    try:
        stream = torch.cuda.current_stream(device)
        with _current(stream.device_index):
            compiled = _compiled(file, kernel, stream.device_index)
            compiled((grid,), (block,), arguments, shared_mem=shared, stream=ForeignStream(stream.cuda_stream))
    except DeviceError:
        raise
    except Exception as problem:
        raise device_error(problem, f"running {kernel} of {file}") from problem


class ForeignStream(NamedTuple):
    """What CuPy reads of a stream that it is given. A stream object of CuPy's own might destroy torch's stream in its end."""

    ptr: int


def source(file: str) -> str:
    """The text of a kernel file, headed by a digest of every header: CuPy's disk cache does not look into includes."""
    headers = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.cuh")))
    return f"// headers {hashlib.sha256(headers).hexdigest()}\n" + (FOLDER / file).read_text(encoding="utf-8")


def device_error(problem: Exception, doing: str) -> DeviceError:
    """A sentence for an exception of CuPy, CUDA or torch; a kernel that does not compile raises its own: a bug."""
    status, text = getattr(problem, "status", None), (str(problem) or type(problem).__name__).splitlines()[0]
    if status == _MEMORY or isinstance(problem, torch.cuda.OutOfMemoryError):
        return DeviceError(f"{doing} needs more device memory than is free; lower train.batch_size or use table.placement 'host'")
    if status in (_NO_IMAGE, _NEW_PTX) or (status == _OLD_DRIVER and torch.cuda.is_available()):
        return DeviceError(f"{doing} needs a driver as new as CuPy's CUDA, got {text!r}; update it or install an older CuPy")
    if status in (_NO_DEVICE, _OLD_DRIVER) or (isinstance(problem, _NO_CUDA_IN_TORCH) and not torch.cuda.is_available()):
        return DeviceError(f"{doing} needs an NVIDIA GPU with a driver, found none ({text!r}); set train.device = 'cpu'")
    if status is None:
        raise problem
    return DeviceError(f"{doing} failed on the device with {text!r}; run `gcnrec doctor` and report both")


@cache
def _compiled(file: str, kernel: str, device_index: int) -> Callable[..., None]:
    """The kernel, compiled for a device; the device must be the current one."""
    return _module(file, device_index).get_function(kernel)  # type: ignore[no-any-return]


@cache
def _module(file: str, device_index: int) -> Any:
    return _cupy().RawModule(code=source(file), options=OPTIONS, backend="nvrtc")


def _current(device_index: int) -> AbstractContextManager[Any]:
    """Makes the device CuPy's current one, where it is not; the usual launch pays for a look only."""
    cuda = _cupy().cuda
    return nullcontext() if cuda.runtime.getDevice() == device_index else cuda.Device(device_index)


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as problem:
        raise DeviceError(
            f"train.device = 'cuda' needs CuPy, which is not installed; {install('gpu')}, or set train.device = 'cpu'"
        ) from problem
    return cupy
