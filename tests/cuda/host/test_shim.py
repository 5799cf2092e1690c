"""The stand-in for a GPU itself: collectives do what CUDA's do, and wrong ones end the process with a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

HOST = Path(__file__).parent
KERNELS = """
#include "async.cuh"
extern "C" __global__ void gcnrec_reverse(float* values) {
    __shared__ float tile[64];
    tile[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    values[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void gcnrec_collectives(int* out) {
    const int lane = threadIdx.x & 31;
    out[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, lane, 5) + 100 * __shfl_up_sync(0xFFFFFFFFu, lane, 3, 8)
        + 10000 * __popc(__ballot_sync(0xFFFFFFFFu, lane % 3 == 0)) + 1000000 * __shfl_sync(0xFFFFFFFFu, lane, 9, 16);
}
extern "C" __global__ void gcnrec_deadlock(float* values) {
    if (threadIdx.x < 32) __syncthreads();
    values[0] = 1.0f;
}
extern "C" __global__ void gcnrec_misaligned(float* values) {
    values[0] = reinterpret_cast<float4*>(values + 1)->x;
}
extern "C" __global__ void gcnrec_late(u64* values) {
    __shared__ u64 word[64];
    copy_async(&word[threadIdx.x], values + threadIdx.x);
    __syncthreads();
    const u64 before = word[63 - threadIdx.x];
    __syncthreads();
    wait_for_copies();
    __syncthreads();
    values[threadIdx.x] = 1000 * before + word[63 - threadIdx.x];
}
extern "C" __global__ void gcnrec_unawaited(u64* values) {
    __shared__ u64 word[64];
    copy_async(&word[threadIdx.x], values);
}
extern "C" __global__ void gcnrec_outside(float* values) {
    if (threadIdx.x < 16) values[0] = __shfl_sync(0xFFFFu, 1.0f, 20);
}
"""


@pytest.fixture
def kernels(tmp_path):
    path = tmp_path / "kernels.cu"
    path.write_text(KERNELS, encoding="utf-8")
    return path


def test_barriers_and_collectives(host, kernels):
    values = torch.arange(64.0)
    host.launch(kernels, "gcnrec_reverse", 1, 64, (np.uint64(values.data_ptr()),), None)
    assert values.tolist() == [63.0 - i for i in range(64)]
    out = torch.zeros(64, dtype=torch.int32)
    host.launch(kernels, "gcnrec_collectives", 1, 64, (np.uint64(out.data_ptr()),), None)
    lanes = np.arange(32)
    up = np.where(lanes % 8 >= 3, lanes - 3, lanes)
    expected = (lanes ^ 5) + 100 * up + 10000 * 11 + 1000000 * (lanes // 16 * 16 + 9)
    assert out.tolist() == [*expected, *expected]


def test_asynchronous_copies_arrive_when_they_are_waited_for(host, kernels):
    for first in (1, 65):  # the second run finds the words of the first in shared memory
        values = torch.arange(first, first + 64)
        host.launch(kernels, "gcnrec_late", 1, 64, (np.uint64(values.data_ptr()),), None)
    assert values.tolist() == [1000 * (new - 64) + new for new in range(128, 64, -1)]


def test_arguments_of_a_wrong_type_are_refused(host, kernels):
    for arguments in ((np.float32(1.0),), (np.int64(1),), ()):
        with pytest.raises(AssertionError, match="wrong"):
            host.launch(kernels, "gcnrec_reverse", 1, 32, arguments, None)


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        ("deadlock", "deadlock"),
        ("misaligned", "misaligned address"),
        ("outside", "outside its mask"),
        ("unawaited", "before it has waited"),
    ],
)
def test_a_wrong_kernel_ends_the_process(kernels, tmp_path, kernel, sentence):
    program = f"""
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, {str(HOST)!r})
import launcher
host = launcher.HostLauncher(Path({str(tmp_path)!r}))
values = np.zeros(64, np.float32)
host.launch(Path({str(kernels)!r}), "gcnrec_{kernel}", 1, 64, (np.uint64(values.ctypes.data),), None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0 and sentence in done.stderr
