"""What a process and all that it starts take, once a second: memory by kind, major faults, and bytes of a folder on disk.

On disk counts what is allocated (blocks), not lengths: holes are free, and a file without a name counts as long as a process
holds it open or maps it.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_KINDS = {"Rss": "rss_bytes", "Pss_Anon": "private_bytes", "Pss_Shmem": "private_bytes"}
"""Lines of smaps_rollup, and what they add to. Anonymous memory is shared by forks alone; its parts sum to what is there."""
_BLOCK = 512
_MAJOR_FAULTS = 9
"""Place in /proc/PID/stat behind the name of the program."""


@dataclass
class Peaks:
    """The largest of each figure, by name, and the seconds: of one stage, or of a phase of it."""

    seconds: float = 0.0
    largest: dict[str, int] = field(default_factory=dict)

    def take(self, seconds: float, figures: dict[str, int]) -> None:
        self.seconds += seconds
        for name, value in figures.items():
            self.largest[name] = max(self.largest.get(name, 0), value)


class Sampler:
    """Samples the process `pid`, what it starts, and `folder`, until `stop`. `phases`: peaks by the phase that `phase` names."""

    def __init__(self, pid: int, folder: Path, phase: Callable[[], str], every: float = 1.0) -> None:
        self.phases: dict[str, Peaks] = {}
        self._faults: dict[int, int] = {}
        self._pid, self._folder, self._phase, self._every = pid, folder, phase, every
        self._ended, self._last = threading.Event(), time.perf_counter()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def major_faults(self) -> int:
        """Of all processes so far."""
        return sum(self._faults.values())

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            pids = processes(self._pid)
            figures = memory(pids) | {"disk_bytes": disk(self._folder, pids)}
            for pid in pids:
                self._faults[pid] = max(self._faults.get(pid, 0), faults(pid))
            now = time.perf_counter()
            self.phases.setdefault(self._phase(), Peaks()).take(now - self._last, figures)
            self._last = now
            if self._ended.wait(self._every):
                return


def processes(pid: int) -> list[int]:
    """The process and all that it started, as far as they live."""
    try:
        top = psutil.Process(pid)
        return [pid, *(child.pid for child in top.children(recursive=True))]
    except psutil.Error:
        return []


def memory(pids: list[int]) -> dict[str, int]:
    """`rss_bytes` and `private_bytes` (anonymous and shared memory, each page once), summed over the processes."""
    total = {"rss_bytes": 0, "private_bytes": 0}
    for pid in pids:
        with suppress(OSError):  # it has ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in _KINDS:
                    total[_KINDS[name]] += 1024 * int(rest.split()[0])
    return total


def faults(pid: int) -> int:
    """Major page faults of a process: pages that were read from a disk."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_MAJOR_FAULTS])
    return 0


def disk(folder: Path, pids: list[int]) -> int:
    """Allocated bytes of the regular files below `folder`, and of nameless ones on its disk that processes hold; each once."""
    device = folder.stat().st_dev
    found = {each.st_ino: each for each in _named(folder)}
    found |= {each.st_ino: each for each in _nameless(pids) if each.st_dev == device}
    return _BLOCK * sum(each.st_blocks for each in found.values())


def _named(folder: Path) -> Iterator[os.stat_result]:
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it is gone by now
                each = Path(root, name).lstat()
                if stat.S_ISREG(each.st_mode):
                    yield each


def _nameless(pids: list[int]) -> Iterator[os.stat_result]:
    for pid in pids:
        for kind in ("fd", "map_files"):
            with suppress(OSError):
                for path in Path(f"/proc/{pid}/{kind}").iterdir():
                    with suppress(OSError):
                        if str(path.readlink()).endswith(" (deleted)"):
                            each = path.stat()
                            if stat.S_ISREG(each.st_mode) and not each.st_nlink:
                                yield each
