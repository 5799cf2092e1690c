"""What a measurement ran on: kept in records and in a run's lineage, so that numbers can be compared later."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "numba", "numpy", "scipy", "pyarrow", "duckdb", "gcnrec")


def machine() -> dict[str, Any]:
    """CPU model, cores this process may use, memory in GiB, Python and package versions; no host name, no path."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(PACKAGES),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Installed version of every distribution in `packages`; None where one is absent. Imports none of them."""
    return {package: _version(package) for package in packages}


def available_cores() -> int:
    """Cores that the process may run on, which an affinity mask makes fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
