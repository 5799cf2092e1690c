"""Registers, local memory and loads on their way of every kernel, as compiled for sm_90: what must not get worse unnoticed."""

from __future__ import annotations

import pytest

pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="needs CuPy and nvidia-cuda-nvrtc")

from jobs.measure.gpu.kernels.budget import IN_FLIGHT, flights, over_budget, short_flights
from jobs.measure.gpu.kernels.compiled import FILES, compile_text, compiled
from jobs.measure.gpu.kernels.sass import disassembled, disassembler, loads_in_flight


@pytest.fixture(scope="module")
def tool():
    found = disassembler()
    if found is None:
        pytest.skip("needs nvdisasm, of the package nvidia-cuda-nvdisasm")
    return found


@pytest.mark.parametrize("file", FILES)
def test_kernels_keep_to_their_budget(file):
    assert over_budget(file, compiled(file, "sm_90").kernels) == []


@pytest.mark.parametrize("file", sorted({each.file for each in IN_FLIGHT}))
def test_loads_are_on_their_way_together(file, tool):
    assert short_flights(flights(tool, file, compiled(file, "sm_90"))) == []


SUMS = """
extern "C" __global__ void together(const float4* a, float* b, int n) {
    float4 part[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) part[i] = a[threadIdx.x + i * n];
#pragma unroll
    for (int i = 0; i < 4; ++i) b[threadIdx.x + i * n] = part[i].x + part[i].y + part[i].z + part[i].w;
}
extern "C" __global__ void chained(const float4* a, float* b) {
    int at = threadIdx.x;
#pragma unroll
    for (int i = 0; i < 4; ++i) { const float4 part = a[at]; at = (int)(part.x + part.y + part.z + part.w); }
    b[threadIdx.x] = at;
}
extern "C" __global__ void local(float* a, int n) {
    float own[32];
    for (int i = 0; i < 32; ++i) own[i] = a[i * n];
    for (int i = 0; i < 32; ++i) a[i] = own[(i * n) % 32];
}
"""


def test_loads_one_after_the_other_are_seen(tool):
    sass = disassembled(tool, compile_text(SUMS, "sums.cu", "sm_90").cubin)
    assert [loads_in_flight(sass[kernel], "LDG.E.128") for kernel in ("together", "chained")] == [4, 1]


def test_local_memory_is_seen():
    (sentence,) = over_budget("sums.cu", compile_text(SUMS, "sums.cu", "sm_90").kernels)
    assert sentence == "sums.cu local: 128 bytes of local memory, at most 0"
