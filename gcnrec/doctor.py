"""What this machine offers to gcnrec: versions, devices, threads, limits on pinned memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil

from gcnrec.machine import available_cores, machine, versions

OPTIONAL = ("torch-geometric", "dgl", "implicit", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def examine() -> dict[str, Any]:
    """Sections of plain figures, ready for JSON. Loads torch and numba; starts CUDA only to name the devices."""
    return {
        "machine": machine(),
        "optional": versions(OPTIONAL),
        "devices": _devices(),
        "threads": _threads(),
        "memory": _memory(),
        "disk": {"free_gib_here": _gib(shutil.disk_usage(".").free)},
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    devices = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        devices.append(
            {
                "name": facts.name,
                "capability": f"{facts.major}.{facts.minor}",
                "memory_gib": _gib(total),
                "free_gib": _gib(free),
                "cuda": torch.version.cuda,
            }
        )
    return devices


def _threads() -> dict[str, Any]:
    import numba
    import torch

    from gcnrec.random import Stage, u64

    u64(0, Stage.INIT, 0, 4)  # numba names its threading layer only after a parallel kernel ran
    return {
        "cores": available_cores(),
        "torch": torch.get_num_threads(),
        "numba": numba.get_num_threads(),
        "numba_layer": numba.threading_layer(),
    }


def _memory() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {
        "total_gib": _gib(memory.total),
        "available_gib": _gib(memory.available),
        "container_limit_gib": _container_limit_gib(),
        "lockable_gib": _lockable_gib(),
    }


def _lockable_gib() -> float | None:
    """Limit on memory that this process may lock; None is no limit. CUDA's own pinned memory is not counted here."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if limit == resource.RLIM_INFINITY else _gib(limit)


def _container_limit_gib() -> float | None:
    """The memory limit of the control group (v2), which a container obeys whatever the machine has; None is no limit."""
    try:
        text = _CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return _gib(int(text)) if text.isdigit() else None


def _gib(number_of_bytes: int) -> float:
    return round(number_of_bytes / 2**30, 2)
