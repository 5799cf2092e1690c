"""The GPU of a record, its driver and its link."""

from __future__ import annotations

import subprocess
from typing import Any

import torch

from gcnrec.system.machine import machine, versions

_LINK = ("gen.current", "gen.max", "width.current", "width.max")
FIELDS = ("name", "driver_version", *(f"pcie.link.{part}" for part in _LINK))
PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "numba-cuda")


def facts(device: torch.device) -> dict[str, Any]:
    """Machine, packages and GPU; `link` reads the link's generation while the bus is in use."""
    packages = {name: version for name, version in versions(PACKAGES).items() if version}
    if device.type != "cuda":
        return {**machine(), **packages, "gpu": None}
    properties = torch.cuda.get_device_properties(device)
    gpu = {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda_of_torch": torch.version.cuda,
    }
    return {**machine(), **packages, "gpu": gpu}


def link() -> dict[str, Any]:
    """Driver and PCIe link by nvidia-smi now; an idle link may be slower. Empty without nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(FIELDS, values, strict=True)) if done.returncode == 0 and len(values) == len(FIELDS) else {}
