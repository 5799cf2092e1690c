"""How much host memory may still be taken, read before anything is allocated or pinned. All sizes in bytes."""

from __future__ import annotations

import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from gcnrec.errors import DeviceError, UsageError, shown

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_STATUS = Path("/proc/self/status")
_IPC_LOCK = 14  # the bit of CAP_IPC_LOCK, which lifts RLIMIT_MEMLOCK
# (limit, in use, line of memory.stat that can be given back) of a control group, version 2 and version 1.
_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(e\+?[0-9]{1,2})? *([kmgt]i?b|b?)")
_LEAST_BYTES, _MOST_BYTES = 64 * 10**6, 10**18
_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `2GB` or `512MiB`; raises UsageError when it is none, below 64 MB, or above 10^18 bytes."""
    parts = _SIZE.fullmatch(text.strip().lower()) if text.isascii() else None
    if parts is None:
        raise UsageError(f"memory_limit expects a size such as 2GB or 512MB, got {shown(text)}")
    size = float(parts[1] + (parts[2] or "")) * _UNITS[parts[3]]
    if size < _LEAST_BYTES:
        raise UsageError(f"memory_limit must be at least 64MB, got {shown(text)}")
    if size > _MOST_BYTES:
        raise UsageError(f"memory_limit must be at most 1000000TB, got {shown(text)}")
    return int(size)


@dataclass(frozen=True, slots=True)
class Limits:
    """`available`: bytes that this process may make resident, with a reserve left to the machine.

    `lockable`: RLIMIT_MEMLOCK; None where it does not bind this process. NVIDIA's driver pins pages without asking for this
    limit on most systems, so it explains a refusal rather than making one.
    """

    available: int
    lockable: int | None


def read_limits() -> Limits:
    """What the kernel and the control groups leave to this process now, less a sixteenth: pinned pages are never given back."""
    room = min([psutil.virtual_memory().available, *_group_rooms()])
    lockable, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unbound = lockable == resource.RLIM_INFINITY or _may_lock_anything()
    return Limits(room - room // 16, None if unbound else lockable)


def require_memory(nbytes: int, limits: Limits) -> None:
    """DeviceError unless `nbytes` more can be resident."""
    if nbytes > limits.available:
        raise DeviceError(
            f"{nbytes:,} bytes of host memory were asked for and {limits.available:,} are available to this process "
            '(free memory and control group, less a reserve); lower table.budget or set table.placement = "disk"'
        )


def _lockable() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if limit == resource.RLIM_INFINITY or _may_lock_anything() else limit


def _may_lock_anything() -> bool:
    if not _STATUS.is_file():
        return False
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _IPC_LOCK & 1)


def _group_rooms() -> list[int]:
    """Bytes left in every control group that this process is in, the parents too: each of them binds."""
    rooms = []
    for line in _MEMBERSHIP.read_text(encoding="utf-8").splitlines() if _MEMBERSHIP.is_file() else []:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            version, root = (2, _GROUPS) if number == "0" else (1, _GROUPS / "memory")
            group = root / path.lstrip("/")
            rooms += [_room(folder, version) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return [room for room in rooms if room is not None]


def _room(group: Path, version: int) -> int | None:
    """Limit less use of one control group, file cache that can be given back not counted; None is no limit."""
    limit_name, use_name, cache_name = _FILES[version]
    try:
        limit, use = (group / limit_name).read_text().strip(), int((group / use_name).read_text())
    except (OSError, ValueError):  # the root group has no such files; a container may hide its own
        return None
    return max(0, int(limit) - use + _cache(group / "memory.stat", cache_name)) if limit.isdigit() else None


def _cache(stat: Path, name: str) -> int:
    try:
        return next((int(line.split()[1]) for line in stat.read_text().splitlines() if line.startswith(f"{name} ")), 0)
    except OSError:
        return 0


def major_faults() -> int:
    """How often this process has waited for a page of a file, or of swap, that was not in RAM."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def private_bytes() -> int:
    """Anonymous and shared memory of this process now, without mapped files; all that is resident where the kernel does not
    list the kinds."""
    if not _STATUS.is_file():
        return int(psutil.Process().memory_info().rss)
    parts = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines())
    return 1024 * sum(int(parts[name].split()[0]) for name in ("RssAnon", "RssShmem") if name in parts)


def peak_rss_bytes() -> int:
    """The largest resident size that this process has had (getrusage counts KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
