"""What a machine is, before anything is imported that may fail there: kernel, memory, pages, limits, GPU and link."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LINK = ("gen.current", "gen.max", "width.current", "width.max")
FIELDS = ("name", "driver_version", "memory.total", *(f"pcie.link.{part}" for part in _LINK))
_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
_NODES = Path("/sys/devices/system/node")


def tell(report: Callable[[dict[str, Any]], None]) -> None:
    """A row for each fact; `value` None where the machine does not say."""
    for name, value in _facts():
        report({"bench": "facts", "variant": name, "value": value})
    for name, value in link().items():
        report({"bench": "facts", "variant": name, "value": value})


def link() -> dict[str, str]:
    """GPU, driver and PCIe link by nvidia-smi now; an idle link may be slower. Empty without nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(FIELDS, values, strict=True)) if done.returncode == 0 and len(values) == len(FIELDS) else {}


def _facts() -> Iterator[tuple[str, str | int | None]]:
    yield "kernel", platform.release()
    yield "cores", len(os.sched_getaffinity(0))
    yield "hypervisor", int(" hypervisor" in (_text(Path("/proc/cpuinfo")) or ""))
    memory = dict(line.split(":", 1) for line in (_text(Path("/proc/meminfo")) or "").splitlines())
    for name in ("MemTotal", "MemAvailable", "HugePages_Total"):
        yield name, memory[name].strip() if name in memory else None
    yield "numa nodes", len(list(_NODES.glob("node[0-9]*"))) or None
    for name in ("enabled", "defrag"):
        yield f"huge pages {name}", _text(_PAGES / name)
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    yield "bytes that may be locked", None if limit == resource.RLIM_INFINITY else limit
    for folder in (".", "/dev/shm"):
        yield f"bytes free in {folder}", shutil.disk_usage(folder).free if Path(folder).is_dir() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
