"""Every kernel file compiles by NVRTC, as on a GPU machine and without a word, for the devices that are in use."""

from __future__ import annotations

import pytest

from gcnrec.cuda import module

nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="needs CuPy and nvidia-cuda-nvrtc")


def compiled(text, name, arch, kind=nvrtc.getCUBIN):
    """(the device code or None, the compiler's log)."""
    program = nvrtc.createProgram(text, name, [], [])
    try:
        nvrtc.compileProgram(program, [f"--gpu-architecture={arch}", *module.OPTIONS])
        return kind(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        return None, nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)


@pytest.fixture(scope="module", autouse=True)
def library():
    try:
        nvrtc.getVersion()
    except Exception as problem:
        pytest.skip(f"NVRTC cannot be loaded: {problem}")


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("file", sorted(path.name for path in module.FOLDER.glob("*.cu")))
def test_compiles(file, arch):
    code, log = compiled(module.source(file), file, arch)
    assert code is not None and log.strip("\n\0 ") == "", log


def test_a_wrong_word_is_found():
    code, log = compiled("__global__ void f() { wrong(); }", "f.cu", "sm_90")
    assert code is None and "wrong" in log


@pytest.mark.parametrize("file", sorted(path.name for path in module.FOLDER.glob("*.cu")))
def test_no_load_takes_the_read_only_path(file):
    """Tables are trained between launches: a line that the read-only cache still holds would be stale."""
    text = ptx(module.source(file))
    assert "ld.global" in text and "ld.global.nc" not in text


def test_the_read_only_path_would_be_seen():
    assert "ld.global.nc" in ptx('extern "C" __global__ void f(const int* a, int* b) { *b = __ldg(a); }')


def ptx(text):
    code, log = compiled(text, "file.cu", "compute_90", nvrtc.getPTX)
    assert code is not None, log
    return code if isinstance(code, str) else code.decode()
