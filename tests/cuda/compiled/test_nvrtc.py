"""Every kernel file compiles by NVRTC, as on a GPU machine and without a word; other devices: jobs.measure.gpu.kernels."""

from __future__ import annotations

import pytest

from gcnrec.cuda import module

nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="needs CuPy and nvidia-cuda-nvrtc")
compiler = pytest.importorskip("cupy.cuda.compiler", reason="needs CuPy")

from jobs.measure.gpu.kernels.compiled import FILES, compile_text, compiled, options_for, resources  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def library():
    try:
        nvrtc.getVersion()
    except Exception as problem:
        pytest.skip(f"NVRTC cannot be loaded: {problem}")


def test_cupy_compiles_with_these_options(monkeypatch):
    """What CuPy hands to NVRTC on a GPU machine: only the architecture, which it asks of the device, is given here."""
    given = []

    def record(program, options):
        given.append(tuple(options))
        raise LookupError("seen")

    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: ("-arch=sm_90", "cubin"))
    monkeypatch.setattr(compiler, "_preprocess", lambda *arguments: "")
    monkeypatch.setattr(compiler.nvrtc, "compileProgram", record)
    with pytest.raises(LookupError, match="seen"):
        compiler._compile_with_cache_cuda("", module.OPTIONS, "90", cache_in_memory=True)
    assert given == [options_for("sm_90")]


@pytest.mark.parametrize("file", FILES)
def test_compiles(file):
    found = compiled(file, "sm_90")
    assert found.cubin is not None and found.log == "", found.log
    assert found.kernels and all(kernel.startswith("gcnrec_") for kernel in found.kernels)


@pytest.mark.parametrize("file", FILES)
def test_no_load_takes_the_read_only_path(file):
    """Tables are trained between launches: a line that the read-only cache still holds would be stale."""
    text = compiled(file, "sm_90").ptx
    assert "ld.global" in text and "ld.global.nc" not in text


def test_the_read_only_path_would_be_seen():
    text = 'extern "C" __global__ void f(const int* a, int* b) { *b = __ldg(a); }'
    assert "ld.global.nc" in compile_text(text, "f.cu", "sm_90").ptx


def test_a_wrong_word_and_a_warning_are_found():
    wrong = compile_text("__global__ void f() { wrong(); }", "f.cu", "sm_90")
    assert wrong.cubin is None and "wrong" in wrong.log
    unused = compile_text('extern "C" __global__ void f(int* a) { int b; *a = 1; }', "f.cu", "sm_90")
    assert unused.cubin is not None and "never referenced" in unused.log and [*unused.kernels] == ["f"]


def test_small_numbers_become_zero_as_on_a_gpu():
    text = 'extern "C" __global__ void f(float* a) { *a = *a * 0.5f; }'
    assert "mul.ftz.f32" in compile_text(text, "f.cu", "sm_90").ptx


LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'f' for 'sm_90'
ptxas info    : Function properties for f
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 33 registers, used 1 barriers, 16 bytes cumulative stack size, 384 bytes smem
ptxas info    : Compiling entry function 'g' for 'sm_90'
ptxas info    : Function properties for g
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
"""


def test_what_the_compiler_says_of_kernels():
    found = resources(LOG)
    assert {name: (one.registers, one.stack_bytes, one.spill_bytes, one.shared_bytes) for name, one in found.items()} == {
        "f": (33, 16, 12, 384),
        "g": (8, 0, 0, 0),
    }
