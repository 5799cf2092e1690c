"""Which packages a machine has, and whether what training needs of them works: loops of numba on threads, CUDA by CuPy."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

PACKAGES = (
    "torch", "numpy", "numba", "llvmlite", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "psutil", "scipy", "pyarrow",
    "safetensors", "pydantic", "duckdb", "typer", "rich", "hypothesis", "pytest", "dgl", "nvidia-cuda-nvrtc",
)  # fmt: skip
UNSAFE_LAYER = "workqueue"
"""numba's own threads: the process aborts where two threads begin a loop at once, as training does."""


def tell(report: Callable[[dict[str, Any]], None]) -> None:
    """A row for each version and each trial. RuntimeError, with their names, where trials fail."""
    report({"bench": "versions", "variant": "python", "value": platform.python_version()})
    for name in PACKAGES:
        report({"bench": "versions", "variant": name, "value": _version(name)})
    failed = [name for name, trial in TRIALS.items() if not _passes(name, trial, report)]
    if not failed and import_module("torch").cuda.is_available():
        failed = [name for name, trial in GPU_TRIALS.items() if not _passes(name, trial, report)]
    if failed:
        raise RuntimeError(f"cannot be used: {', '.join(failed)}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _passes(name: str, trial: Callable[[], Any], report: Callable[[dict[str, Any]], None]) -> bool:
    try:
        value = trial()
    except Exception as problem:  # whatever a package raises at its import is the finding
        report({"bench": "versions", "variant": name, "error": f"{type(problem).__name__}: {problem}"[:300], "right": False})
        return False
    report({"bench": "versions", "variant": name, "value": value, "right": True})
    return True


def _imported(name: str) -> Callable[[], str]:
    return lambda: str(import_module(name).__version__)


def _threads_of_numba() -> str:
    """The threading layer, after a loop on it."""
    import numba
    import numpy as np

    @numba.njit(parallel=True)
    def add(values):  # type: ignore[no-untyped-def]
        for index in numba.prange(len(values)):
            values[index] += 1

    values = np.zeros(1000)
    add(values)
    layer = numba.threading_layer()
    if values.sum() != len(values):
        raise RuntimeError("a loop on threads gave a wrong sum")
    if layer == UNSAFE_LAYER:
        raise RuntimeError(f"numba's threading layer must not be {layer}; install Intel's TBB or an OpenMP runtime")
    return f"{layer}, {numba.get_num_threads()} threads"


def _torch_device() -> str:
    import torch

    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, priorities {torch.cuda.Stream.priority_range()}"


def _cupy_runtime() -> str:
    from cupy.cuda import nvrtc, runtime

    compiler = ".".join(map(str, nvrtc.getVersion()))
    return f"driver {runtime.driverGetVersion()}, runtime {runtime.runtimeGetVersion()}, NVRTC {compiler}"


TRIALS: dict[str, Callable[[], str]] = {
    **{f"import {name}": _imported(name) for name in ("numpy", "torch", "psutil", "numba")},
    "threads of numba": _threads_of_numba,
}
GPU_TRIALS: dict[str, Callable[[], str]] = {
    "import cupy": _imported("cupy"), "torch's GPU": _torch_device, "CUDA by CuPy": _cupy_runtime,
}  # fmt: skip
