"""The CUDA runtime by ctypes: every call takes the arguments that the header names, and a machine without one says so."""

from __future__ import annotations

import mmap

import pytest
import torch

from gcnrec.cuda import interop
from gcnrec.cuda.hostmemory import allocate
from gcnrec.cuda.interop import Cudart, load_runtime
from gcnrec.cuda.pinned import PinnedMemory
from gcnrec.cuda.registrar import PinningRefused
from gcnrec.errors import DeviceError

PAGE = mmap.PAGESIZE


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU: test_on_a_gpu pins for real")
def test_the_real_runtime_without_a_driver_says_so():
    """With a CUDA runtime here, its calls and codes are the real ones; without, loading it is what fails."""
    with pytest.raises(DeviceError, match="CUDA runtime") as caught:
        PinnedMemory(allocate(PAGE))
    assert caught.value.exit_code == 4 and not isinstance(caught.value, PinningRefused)


def test_ctypes_signatures_are_complete():
    """Every call of the real binding, on a library that records what it is given."""

    class Function:
        def __init__(self, name):
            self.name = name

        def __call__(self, *arguments):
            assert len(arguments) == len(self.argtypes if hasattr(self, "argtypes") else ())
            return b"cudaErrorUnknown" if self.name == "cudaGetErrorName" else 30 if self.name == "cudaGetDevice" else 0

    class Library:
        def __getattr__(self, name):
            self.__dict__[name] = Function(name)
            return self.__dict__[name]

    runtime = Cudart(Library())
    assert (runtime.register(1 << 40, 1 << 38, 3), runtime.unregister(1 << 40), runtime.last_error()) == (0, 0, 0)
    assert runtime.device_pointer(1 << 40) == (0, 0) and runtime.error_name(999) == "cudaErrorUnknown"
    assert runtime.maps_read_only() is False


def test_no_library_is_one_sentence(monkeypatch):
    monkeypatch.setattr(interop, "_candidates", lambda: ["libno-such-cudart.so.1", "libno-such-cudart.so.2"])
    with pytest.raises(DeviceError, match=r"none of libno-such-cudart.so.1, libno-such-cudart.so.2 .* train.device"):
        load_runtime()


def test_what_this_process_has_loaded_is_tried_first(monkeypatch, tmp_path):
    """And of several, as another package may bring its own, the one that torch was built for."""
    lines = ["7f00-7f01 r-xp 0 fe:00 1 /dgl/libcudart.so.11.0", "7f01-7f02 rw-p 0"]
    lines += ["7f03-7f04 r--p 0 fe:00 2 /torch/libcudart.so.12"] * 2
    maps = tmp_path / "maps"
    maps.write_text("\n".join(lines))
    monkeypatch.setattr(interop, "_MAPS", maps)
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    assert interop._candidates() == ["/torch/libcudart.so.12", "/dgl/libcudart.so.11.0", "libcudart.so.12", "libcudart.so.13"]
    monkeypatch.setattr(interop, "_MAPS", tmp_path / "absent")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert interop._candidates() == ["libcudart.so.13", "libcudart.so.12"]
