"""The six calls of the CUDA runtime that pinning needs, through the library that torch has loaded already.

torch wraps only some of them (not cudaGetLastError, without which a refused registration is reported again by the next
unrelated kernel), so they are reached by ctypes: no further package, and the same current device as torch.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from pathlib import Path

from gcnrec.errors import DeviceError

_MAPS = Path("/proc/self/maps")
_READ_ONLY_SUPPORTED = 113  # cudaDevAttrHostRegisterReadOnlySupported


class Code(IntEnum):
    """The return codes (cudaError_t) that pinning distinguishes."""

    SUCCESS = 0
    INITIALIZATION = 3
    UNLOADING = 4
    INSUFFICIENT_DRIVER = 35
    DEVICES_UNAVAILABLE = 46
    NO_DEVICE = 100
    ILLEGAL_ADDRESS = 700
    ALREADY_REGISTERED = 712
    NOT_REGISTERED = 713
    LAUNCH_FAILURE = 719
    DRIVER_MISMATCH = 803
    NO_COMPATIBILITY = 804


class Cudart:
    """Calls of a loaded libcudart. Addresses and sizes in bytes; a code of 0 is success. Only `synchronize` waits."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.cudaHostRegister.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
        library.cudaHostUnregister.argtypes = [ctypes.c_void_p]
        library.cudaHostGetDevicePointer.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_uint]
        library.cudaGetDevice.argtypes = [ctypes.POINTER(ctypes.c_int)]
        library.cudaDeviceGetAttribute.argtypes = [ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int]
        library.cudaGetErrorName.argtypes = [ctypes.c_int]
        library.cudaGetErrorName.restype = ctypes.c_char_p

    def register(self, address: int, nbytes: int, flags: int) -> int:
        return int(self._library.cudaHostRegister(address, nbytes, flags))

    def unregister(self, address: int) -> int:
        return int(self._library.cudaHostUnregister(address))

    def synchronize(self) -> int:
        """Wait for all work that the current device was given."""
        return int(self._library.cudaDeviceSynchronize())

    def device_pointer(self, address: int) -> tuple[int, int]:
        """(code, the address by which the GPU reads registered memory)."""
        pointer = ctypes.c_void_p()
        code = int(self._library.cudaHostGetDevicePointer(ctypes.byref(pointer), address, 0))
        return code, pointer.value or 0

    def last_error(self) -> int:
        """The pending error; the call clears it."""
        return int(self._library.cudaGetLastError())

    def error_name(self, code: int) -> str:
        return (self._library.cudaGetErrorName(code) or b"an unknown error").decode("ascii", "replace")

    def maps_read_only(self) -> bool:
        """Whether the current device takes memory that this process may not write."""
        device, answer = ctypes.c_int(), ctypes.c_int()
        if self._library.cudaGetDevice(ctypes.byref(device)) != Code.SUCCESS:
            self.last_error()
            return False
        code = self._library.cudaDeviceGetAttribute(ctypes.byref(answer), _READ_ONLY_SUPPORTED, device)
        if code != Code.SUCCESS:
            self.last_error()
        return code == Code.SUCCESS and bool(answer.value)


def load_runtime() -> Cudart:
    """The CUDA runtime of this process. DeviceError when there is none."""
    names = _candidates()
    for name in names:
        try:
            return Cudart(ctypes.CDLL(name))
        except OSError:
            continue
    raise DeviceError(
        f"pinned memory needs the CUDA runtime, and none of {', '.join(names)} can be loaded; "
        'install a torch built for CUDA, or set train.device = "cpu"'
    )


def _candidates() -> list[str]:
    """Libraries to try: what this process has loaded, then by name, torch's own version first."""
    import torch

    version = torch.version.cuda.split(".")[0] if torch.version.cuda else "13"
    loaded = {line.split()[-1] for line in _MAPS.read_text().splitlines() if "libcudart" in line} if _MAPS.exists() else set()
    names = dict.fromkeys(f"libcudart.so.{major}" for major in (version, "13", "12"))
    return [*sorted(loaded, key=lambda path: (f".so.{version}" not in path, path)), *names]
