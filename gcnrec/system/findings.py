"""What the doctor makes of what it found: sentences that say what to do, each with the exit code that a job would end with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gcnrec.errors import DataError, DeviceError

_LEAST_MEMORY_GIB = 1.0
_LEAST_DISK_GIB = 1.0
_DEVICE, _DATA, _ADVICE = DeviceError.exit_code, DataError.exit_code, 0


def findings(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """`text` and `exit_code` of everything in `gcnrec.system.doctor.examine`'s sections that is amiss; code 0 is advice."""
    return [{"text": text, "exit_code": code} for text, code in (*_broken(facts), *_gpu(facts), *_room(facts))]


def _broken(facts: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, section in facts.items():
        if isinstance(section, dict) and "problem" in section:
            yield f"{name} cannot be examined: {section['problem']}", _DEVICE
    for package, version in _section(facts, "required").items():
        if version is None:
            yield f"{package}, which gcnrec needs, is not installed; pip install gcnrec again", _DEVICE


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
        yield "a GPU is there, and CuPy is not; pip install 'gcnrec[gpu]' to train on the GPU", _ADVICE
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


def _section(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """A section that could be read; empty otherwise."""
    section = facts.get(name)
    return section if isinstance(section, dict) and "problem" not in section else {}
