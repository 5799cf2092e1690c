"""Kernel files compiled by NVRTC as CuPy compiles them on a GPU machine, and what the compiler says of each kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from cupy_backends.cuda.libs import nvrtc

from gcnrec.cuda import module

FILES = tuple(sorted(path.name for path in module.FOLDER.glob("*.cu")))
_KERNEL = re.compile(r"Compiling entry function '(?P<kernel>\w+)'")
_SPILLS = re.compile(r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads")
_USED = re.compile(r"Used (?P<registers>\d+) registers(?:.*?, (?P<shared>\d+) bytes smem)?")


@dataclass(frozen=True)
class Resources:
    """What a kernel takes: registers of a thread, bytes of local memory and of spills of a thread, shared bytes of a block."""

    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Compiled:
    """Device code of a file. `ptx` and `cubin` are None, and `log` has the reason, where it does not compile."""

    ptx: str | None
    cubin: bytes | None
    log: str
    kernels: dict[str, Resources]


def options_for(arch: str) -> tuple[str, ...]:
    """What CuPy gives NVRTC. It appends -ftz=true, which no earlier option undoes: numbers below 1e-38 become zero."""
    return (*module.OPTIONS, "-ftz=true", f"-arch={arch}", "--device-as-default-execution-space")


@cache
def compiled(file: str, arch: str) -> Compiled:
    """A file of cuda/ for an architecture, such as sm_90; compiled once in a process."""
    return compile_text(module.source(file), file, arch)


def compile_text(text: str, name: str, arch: str) -> Compiled:
    """Device code of a CUDA source. `log` is without what the compiler says of resources."""
    program = nvrtc.createProgram(text, name, [], [])
    try:
        nvrtc.compileProgram(program, [*options_for(arch), "--ptxas-options=-v"])
        ptx, cubin = nvrtc.getPTX(program), nvrtc.getCUBIN(program) + b"\0"  # CuPy cuts the last byte off, as if it were a text
        log = nvrtc.getProgramLog(program).strip("\n\0 ")
        return Compiled(ptx if isinstance(ptx, str) else ptx.decode(), cubin, _without_facts(log), resources(log))
    except nvrtc.NVRTCError:
        return Compiled(None, None, nvrtc.getProgramLog(program).strip("\n\0 "), {})
    finally:
        nvrtc.destroyProgram(program)


def resources(log: str) -> dict[str, Resources]:
    """Kernels and what they take, from the lines that `ptxas -v` writes."""
    found, parts = {}, _KERNEL.split(log)
    for kernel, part in zip(parts[1::2], parts[2::2], strict=True):
        spills, used = _SPILLS.search(part), _USED.search(part)
        if spills is None or used is None:
            raise ValueError(f"expected stack frame and registers of {kernel} in the compiler's log, got {part[:300]!r}")
        spilled = int(spills["stores"]) + int(spills["loads"])
        found[kernel] = Resources(int(used["registers"]), int(spills["stack"]), spilled, int(used["shared"] or 0))
    return found


def _without_facts(log: str) -> str:
    """The lines of a log that warn."""
    facts = re.compile(r"\s*(ptxas )?info\s*:|\s*Function properties for|.*bytes stack frame|\s*Compile time = |\s*$")
    return "\n".join(line for line in log.splitlines() if not facts.match(line))
