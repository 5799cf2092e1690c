"""What this machine offers to gcnrec: versions, extras, devices, threads, memory and its limits, disk; and what is amiss."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import gettempdir
from types import MappingProxyType
from typing import Any

import psutil

from gcnrec.errors import DataError, DeviceError, install
from gcnrec.system.limits import read_limits
from gcnrec.system.machine import PACKAGES, available_cores, machine, versions

EXTRAS = {
    "gpu": (("cupy-cuda13x", "cupy-cuda12x", "numba-cuda"), "training on an NVIDIA GPU; one of the CuPys, as the driver has it"),
    "faiss": (("faiss-cpu",), "gcnrec export --format faiss"),
    "usearch": (("usearch",), "gcnrec export --format usearch"),
    "onnx": (("onnx",), "gcnrec export --format onnx, the encoder of graphsage"),
    "remote": (("fsspec", "s3fs", "gcsfs", "adlfs"), "addresses such as s3://; the driver of a store is installed by itself"),
    "delta": (("deltalake",), "Delta tables as inputs"),
    "tracking": (("tensorboard", "mlflow"), "run.tensorboard and run.mlflow (MLflow is installed by itself)"),
    "tune": (("optuna",), 'gcnrec tune with sampler = "tpe"'),
    "pyg": (("torch-geometric",), "batches and samplers for PyTorch Geometric, gcnrec.loaders.pyg"),
    "dgl": (("dgl",), "batches and samplers for DGL, gcnrec.loaders.dgl"),
    "docs": (("mkdocs-material",), "the site of docs/, python -m mkdocs build"),
    "bench": (("torch-geometric", "dgl", "implicit"), "gcnrec bench against other libraries"),
}
"""Extras of the package: distributions, any of which may be absent, and what they are for."""
OPTIONAL = tuple(dict.fromkeys(name for names, _ in EXTRAS.values() for name in names))
REQUIRED = ("jinja2", "matplotlib", "psutil", "pydantic", "rich", "safetensors", "typer", *PACKAGES[:-1])
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CGROUP_CORES = Path("/sys/fs/cgroup/cpu.max")
_PCI = Path("/sys/bus/pci/devices")
_DRIVER = Path("/sys/module/nvidia/version")
# Speed of one lane, as the kernel prints it, of each generation of PCI Express.
_PCIE = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}
_NO_LIMIT = 2**62
_LEAST_MEMORY_GIB = 1.0
_LEAST_DISK_GIB = 1.0
_DEVICE, _DATA, _ADVICE = DeviceError.exit_code, DataError.exit_code, 0


def examine(more: Mapping[str, Callable[[], Any]] = MappingProxyType({})) -> dict[str, Any]:
    """Sections of plain figures, ready for JSON. Loads torch and numba; starts CUDA only to name the devices.

    `more`: sections of higher rooms, by name. A section that cannot be read holds the reason as `problem`: the doctor must work
    on a broken machine, too. `findings` says what is amiss.
    """
    facts = {
        "machine": _attempt(machine),
        "required": _attempt(lambda: versions(REQUIRED)),
        "optional": _attempt(lambda: versions(OPTIONAL)),
        "extras": _attempt(_extras),
        "cuda": _attempt(_cuda),
        "devices": _attempt(_devices),
        "threads": _attempt(_threads),
        "memory": _attempt(_memory),
        "disk": _attempt(_disk),
        **{name: _attempt(section) for name, section in more.items()},
    }
    return {**facts, "findings": findings(facts)}


def _attempt(section: Callable[[], Any]) -> Any:
    try:
        return section()
    except Exception as problem:  # whatever it is, it is the finding
        return {"problem": f"{type(problem).__name__}: {problem}"}


def _extras() -> dict[str, str]:
    """What each extra is for, and whether it can be used."""
    described = {}
    for extra, (names, purpose) in EXTRAS.items():
        found = {name: version for name, version in versions(names).items() if version}
        what = ", ".join(f"{name} {version}" for name, version in found.items()) or f"absent: {install(extra)}"
        described[extra] = f"{purpose}: {what}"
    return described


def _disk() -> dict[str, float]:
    """Free space where runs and data go by default, and where programs put what is temporary."""
    return {"free_gib_here": _gib(shutil.disk_usage(".").free), "free_gib_temporary": _gib(shutil.disk_usage(gettempdir()).free)}


def _cuda() -> dict[str, Any]:
    """What must fit together: the driver, and the runtime that torch was built for (None: torch for the CPU only)."""
    import torch

    return {"driver": _word(_DRIVER), "runtime": torch.version.cuda, "no_device_because": _obstacle()}


def _obstacle() -> str | None:
    """What torch says when it is made to start CUDA; None when it starts."""
    import torch

    if torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()
    except Exception as problem:  # torch raises AssertionError and RuntimeError here
        return str(problem).partition("\n")[0]
    return "no device is visible"


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
                **_link(facts),
            }
        )
    return devices


def _link(facts: Any) -> dict[str, Any]:
    """Generation and lanes of a device's link at its best: idle, it may run slower. None where the kernel does not say."""
    if not hasattr(facts, "pci_bus_id"):  # a torch that does not know it
        return {"pcie_generation": None, "pcie_lanes": None}
    folder = _PCI / f"{facts.pci_domain_id:04x}:{facts.pci_bus_id:02x}:{facts.pci_device_id:02x}.0"
    lanes = _word(folder / "max_link_width")
    return {
        "pcie_generation": _PCIE.get(_word(folder / "max_link_speed") or ""),
        "pcie_lanes": int(lanes) if lanes and lanes.isdigit() else None,
    }


def _threads() -> dict[str, Any]:
    import numba
    import torch

    from gcnrec.random import Stage, u64

    u64(0, Stage.INIT, 0, 4)  # numba names its threading layer only after a parallel kernel ran
    return {
        "cores": available_cores(),
        "container_cores": _container_cores(),
        "torch": torch.get_num_threads(),
        "numba": numba.get_num_threads(),
        "numba_layer": numba.threading_layer(),
    }


def _memory() -> dict[str, Any]:
    memory, limits, shared = psutil.virtual_memory(), read_limits(), Path("/dev/shm")
    return {
        "total_gib": _gib(memory.total),
        "available_gib": _gib(memory.available),
        "container_limit_gib": _container_limit_gib(),
        "left_for_tables_gib": _gib(limits.available),
        # None: no limit binds (CAP_IPC_LOCK lifts `ulimit -l`); NVIDIA's driver pins by another way, mostly
        "lockable_gib": None if limits.lockable is None else _gib(limits.lockable),
        "shared_memory_free_gib": _gib(shutil.disk_usage(shared).free) if shared.is_dir() else None,
    }


def _container_cores() -> float | None:
    """Cores' worth of time that the control group grants, which may be fewer than the process may run on; None is no limit."""
    try:
        quota, period = _CGROUP_CORES.read_text(encoding="ascii").split()
        return None if quota == "max" else round(int(quota) / int(period), 2)
    except (OSError, ValueError):
        return None


def _container_limit_gib() -> float | None:
    """The memory limit of the control group, which a container obeys whatever the machine has; None is no limit."""
    texts = [_word(path) or "" for path in _CGROUP_LIMITS]  # version 2, version 1
    limits = [int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT]
    return _gib(min(limits)) if limits else None


def _word(path: Path) -> str | None:
    """The first word of a small file of the kernel; None where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace").split()[0]
    except (OSError, IndexError):
        return None


def _gib(number_of_bytes: int) -> float:
    return round(number_of_bytes / 2**30, 2)


def findings(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """`text` and `exit_code` of everything in `examine`'s sections that is amiss; code 0 is advice."""
    return [{"text": text, "exit_code": code} for text, code in (*_broken(facts), *_gpu(facts), *_room(facts), *_workers(facts))]


def _broken(facts: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, section in facts.items():
        if isinstance(section, dict) and "problem" in section:
            yield f"{name} cannot be examined: {section['problem']}", _DEVICE
    for package, version in _section(facts, "required").items():
        if version is None:
            yield f"{package}, which gcnrec needs, is not installed; pip install . in a checkout of gcnrec", _DEVICE


def _gpu(facts: dict[str, Any]) -> Iterator[tuple[str, int]]:
    cuda = _section(facts, "cuda")
    devices = facts["devices"] if isinstance(facts.get("devices"), list) else []
    if cuda.get("driver") and cuda.get("no_device_because"):
        if cuda.get("runtime"):
            yield f"a driver is there ({cuda['driver']}), and torch finds no GPU: {cuda['no_device_because']}", _DEVICE
        else:
            yield (
                "a driver is there, and this torch is built for the CPU only; install one for CUDA to train on it",
                _ADVICE,
            )
    optional = _section(facts, "optional")
    if devices and not any(optional.get(name) for name in ("cupy-cuda13x", "cupy-cuda12x")):
        yield f"a GPU is there, and CuPy is not; {install('gpu')} to train on the GPU", _ADVICE
    lockable = _section(facts, "memory").get("lockable_gib")
    if devices and lockable is not None:
        yield f"this process may lock {lockable} GiB (ulimit -l); larger tables in host memory may not be pinned", _ADVICE


def _room(facts: dict[str, Any]) -> Iterator[tuple[str, int]]:
    memory, threads, disk = (_section(facts, name) for name in ("memory", "threads", "disk"))
    if memory.get("available_gib", _LEAST_MEMORY_GIB) < _LEAST_MEMORY_GIB:
        yield f"only {memory['available_gib']} GiB of memory are free; end other programs, or take a larger machine", _DEVICE
    limit = memory.get("container_limit_gib")
    if limit is not None and limit < memory["total_gib"]:
        yield f"this container may use {limit} of the machine's {memory['total_gib']} GiB; beyond that it is killed", _ADVICE
    cores = threads.get("container_cores")
    if cores is not None and cores < threads["cores"]:
        yield (
            f"this container may use {cores} of {threads['cores']} cores, and more threads than that stand in each other's way; "
            f"set train.threads = {max(1, int(cores))}",
            _ADVICE,
        )
    if disk.get("free_gib_here", _LEAST_DISK_GIB) < _LEAST_DISK_GIB:
        yield f"only {disk['free_gib_here']} GiB are free on the disk of this folder; free some, or work elsewhere", _DATA


def _workers(facts: dict[str, Any]) -> Iterator[tuple[str, int]]:
    why = _section(facts, "workers").get("no_exchange_because")
    if why:
        yield f"workers of this machine cannot exchange rows ({why}); leave --workers out, and one process trains", _ADVICE


def _section(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """A section that could be read; empty otherwise."""
    section = facts.get(name)
    return section if isinstance(section, dict) and "problem" not in section else {}
