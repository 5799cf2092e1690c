"""Compiles every kernel for each architecture in use, and holds it to its budget of registers, memory and loads on their way.

    python -m jobs.measure.gpu.kernels

Needs CuPy, nvidia-cuda-nvrtc and nvidia-cuda-nvdisasm, and no GPU. The exit code is 1 where a kernel warns or breaks its budget.
"""

from __future__ import annotations

import sys

ARCHES = ("sm_80", "sm_90", "sm_100")


def main() -> int:
    """Print a line for each kernel and architecture."""
    try:
        from jobs.measure.gpu.kernels.compiled import FILES
    except ImportError as problem:
        print(f"skipped: needs CuPy and nvidia-cuda-nvrtc ({problem})")
        return 0
    problems = [sentence for arch in ARCHES for file in FILES for sentence in _problems(file, arch)]
    print("\n".join(problems) or f"{len(FILES)} files for {len(ARCHES)} architectures, all within budget")
    return 1 if problems else 0


def _problems(file: str, arch: str) -> list[str]:
    from jobs.measure.gpu.kernels.budget import flights, over_budget, short_flights
    from jobs.measure.gpu.kernels.compiled import compiled
    from jobs.measure.gpu.kernels.sass import disassembler

    one, tool = compiled(file, arch), disassembler()
    if one.cubin is None or one.log:
        return [f"{arch}: {file} must compile without a word, got {one.log}"]
    counted = flights(tool, file, one) if tool else []
    for kernel, own in one.kernels.items():
        loads = "  ".join(f"{count} {each.kind}" for each, count in counted if each.kernel == kernel)
        print(f"{arch:7} {file:14} {kernel:36} {own.registers:4} registers {own.shared_bytes:6} B shared  {loads}")
    broken = over_budget(file, one.kernels) + short_flights(counted)
    return [f"{arch}: {sentence}" for sentence in broken]


if __name__ == "__main__":
    sys.exit(main())
