"""Launching without a GPU: a stand-in for CuPy records streams and devices, and fails as CUDA does."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcnrec.cuda import module
from gcnrec.errors import DeviceError


class CudaError(RuntimeError):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Scope:
    """A device that notes when it is entered and left."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    def __enter__(self):
        self.log.append(f"enter {self.name}")

    def __exit__(self, *problem):
        self.log.append(f"leave {self.name}")


def fake_cupy(log, current, failing=None):
    """CuPy whose current device is `current`. No stream object of its own can be made."""

    def call(grid, block, arguments, shared_mem, stream):
        log.append((grid, block, arguments, shared_mem, stream.ptr))
        if failing:
            raise failing

    def raw_module(code, options, backend):
        log.append(f"compile {backend} {options[0]}")
        return SimpleNamespace(get_function=lambda name: call)

    runtime = SimpleNamespace(getDevice=lambda: current)
    cuda = SimpleNamespace(Device=lambda number: Scope(log, f"device {number}"), runtime=runtime)
    return SimpleNamespace(RawModule=raw_module, cuda=cuda)


@pytest.fixture
def gpu(monkeypatch):
    """Puts in a stand-in for CuPy; torch seems to have device 1 with stream 77 current."""

    def install(current=1, failing=None):
        log = []
        monkeypatch.setitem(sys.modules, "cupy", fake_cupy(log, current, failing))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77, device_index=1))
        return log

    caches = (module._compiled, module._module)
    for one in caches:
        one.cache_clear()
    yield install
    for one in caches:
        one.cache_clear()


def start():
    module.launch("gather.cu", "gcnrec_gather_4", 3, 256, (np.int64(1),), torch.device("cuda"))


LAUNCH = ((3,), (256,), (np.int64(1),), 0, 77)


def test_kernels_run_on_torchs_stream_and_are_compiled_once(gpu):
    log = gpu()
    start()
    start()
    assert log == ["compile nvrtc -std=c++17", LAUNCH, LAUNCH]


def test_another_current_device_is_left_for_the_launch(gpu):
    log = gpu(current=0)
    start()
    start()
    around = "enter device 1", "leave device 1"
    assert log == [around[0], "compile nvrtc -std=c++17", LAUNCH, around[1], around[0], LAUNCH, around[1]]


def test_cupy_takes_the_stream_that_it_is_given():
    """The true CuPy asks a launch's stream for its address, and nothing else of it, before it asks for a device."""
    function = pytest.importorskip("cupy.cuda.function", reason="needs CuPy").Function

    class Asked(Exception):
        pass

    class Stream:
        @property
        def ptr(self):
            raise Asked

    assert module.ForeignStream._fields == ("ptr",)
    with pytest.raises(Asked):
        function.__new__(function)((1,), (1,), (), shared_mem=0, stream=Stream())


@pytest.mark.parametrize(
    ("failing", "torch_has_cuda", "sentence"),
    [
        (
            CudaError(2, "cudaErrorMemoryAllocation: out of memory"),
            True,
            "more device memory than is free; lower train.batch_size",
        ),
        (CudaError(35, "cudaErrorInsufficientDriver: too old"), True, "a driver as new as CuPy's CUDA"),
        (CudaError(222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"), True, "a driver as new as CuPy's CUDA"),
        (CudaError(35, "cudaErrorInsufficientDriver: too old"), False, "needs an NVIDIA GPU with a driver, found none"),
        (CudaError(100, "cudaErrorNoDevice: no device"), False, "needs an NVIDIA GPU with a driver, found none"),
        (CudaError(719, "cudaErrorLaunchFailure"), True, "failed on the device with 'cudaErrorLaunchFailure'"),
    ],
)
def test_what_fails_is_one_sentence(gpu, monkeypatch, failing, torch_has_cuda, sentence):
    gpu(failing=failing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_has_cuda)
    with pytest.raises(DeviceError, match=sentence) as caught:
        start()
    assert "\n" not in str(caught.value) and "running gcnrec_gather_4 of gather.cu" in str(caught.value)


def test_a_torch_without_cuda(monkeypatch):
    def no_cuda(device):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch.cuda, "current_stream", no_cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="found none"):
        start()


def test_no_cupy(gpu, monkeypatch):
    gpu()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="needs CuPy, which is not installed"):
        start()


def test_a_kernel_that_does_not_compile_is_a_bug_and_stays_one(gpu, monkeypatch):
    gpu(failing=SyntaxError("identifier is undefined"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SyntaxError):
        start()


def test_headers_are_part_of_what_cupy_caches():
    assert module.source("gather.cu").startswith("// headers ") and "gcnrec_put" in module.source("gather.cu")
