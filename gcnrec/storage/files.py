"""One output file that is whole or absent: written under a temporary name, fsynced, renamed; and what killed writers left."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from gcnrec.errors import DataError, os_remedy

_UNFINISHED = re.compile(
    r"\.(?P<name>.+)\.(?P<process>[1-9][0-9]*)(@(?P<host>[A-Za-z0-9_-]+))?\.(?P<ending>part|dir|old)", re.DOTALL
)
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")
"""What safetensors calls a file while it writes it."""
_CLOCK_SECONDS = 60.0
"""By which the start of a process and the time of a file may be wrong against each other."""
_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux."""
_mine: set[Path] = set()
"""What this process is writing now."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A file or folder that a process is writing, or left unfinished, until it becomes `name` next to it.

    `ending` is `part`, `dir` for a folder of what is written on the way to it, or `old` for what has been moved aside. `host` is
    empty where an earlier version wrote it.
    """

    path: Path
    name: str
    process: int
    host: str
    ending: str

    @property
    def writer(self) -> str:
        """The process, as messages have it."""
        return f"process {self.process}" + (f" of {self.host}" if self.host else "")

    @property
    def is_abandoned(self) -> bool:
        """Whether its writer has ended. False for another host's, whose processes cannot be seen from here.

        A process of the same number counts as the writer, unless it began after the last change.
        """
        if self.host not in ("", _host()):
            return False
        if self.process == os.getpid():
            return _key(self.path) not in _mine
        try:
            writer = psutil.Process(self.process)
            if writer.status() == psutil.STATUS_ZOMBIE:  # ended, and its parent has not looked
                return True
            return writer.create_time() > self.path.lstat().st_mtime + _CLOCK_SECONDS
        except psutil.NoSuchProcess:
            return True
        except (psutil.Error, OSError):
            return False


@contextmanager
def work_path(target: Path, ending: str = "part") -> Iterator[Path]:
    """The name next to `target` under which this process writes it, or keeps what it replaces (`ending` "old")."""
    path = local(target.parent / f".{target.name}.{os.getpid()}@{_host()}.{ending}")
    with _writing(path):
        yield path


def local(path: Path) -> Path:
    """The path as Arrow takes it for one of this machine: it reads a relative `12:30/x` or `file:/x` as an address."""
    return path.absolute() if ":" in str(path) else path


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    key = _key(path)
    _mine.add(key)
    try:
        yield
    finally:
        _mine.discard(key)


def _key(path: Path) -> Path:
    return path.parent.resolve() / path.name


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to that becomes `target` (replacing it) when the block succeeds, and vanishes when it fails.

    What killed writers of `target` left is removed first. A link is followed: the file that it leads to is replaced. Raises
    DataError when the file cannot be written, for example on a full disk, and where `target` is a folder or a device.
    """
    place = followed(target)
    if place.exists() and not place.is_file():
        raise DataError(f"{target} must be a file, is a folder or a device; choose another name")
    with work_path(place) as work:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _clear(unfinished(place.parent, place.name))
            yield work
            sync(work)
            work.replace(place)
            sync(place.parent)
        except OSError as problem:
            reason = problem.strerror or problem
            raise DataError(f"cannot write {target}: {reason}; {os_remedy(problem, 'choose another place')}") from problem
        finally:
            work.unlink(missing_ok=True)


def next_folder(folder: Path) -> Path:
    """`folder`, or the next one above it that is there."""
    return folder if folder.is_dir() or folder == folder.parent else next_folder(folder.parent)


def followed(path: Path) -> Path:
    """Where a link leads, which need not exist; any other path stays as it is. DataError for a link that leads nowhere."""
    if not path.is_symlink():
        return path
    try:
        place = path.resolve()
    except (OSError, RuntimeError):
        raise DataError(f"{path} is a link that leads back to itself; remove it, or choose another name") from None
    if not place.parent.is_dir():
        raise DataError(f"{path} is a link to {place}, whose folder is absent; make {place.parent}, or remove the link")
    return place


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, last through a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unfinished(folder: Path, name: str | None = None) -> list[Unfinished]:
    """What is unfinished in `folder`, sorted by path; with `name`, only what is to become exactly that."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        parts = _UNFINISHED.fullmatch(path.name)
        if parts and name in (None, parts["name"]):
            found.append(Unfinished(path, parts["name"], int(parts["process"]), parts["host"] or "", parts["ending"]))
    return found


def clear_leftovers(folder: Path) -> None:
    """Remove the unfinished files of killed writers in a `folder` that no other process writes into now.

    A process that lives keeps its own, and so does another host.
    """
    _clear(unfinished(folder))
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _OF_SAFETENSORS.fullmatch(path.name) and path.is_file() and not path.is_symlink() and not _is_open(path):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _clear(found: Iterable[Unfinished]) -> None:
    for left in found:
        if left.ending != "old" and left.is_abandoned:
            with suppress(OSError):  # another process has removed it, or this user may not
                remove(left.path)


def is_writing() -> bool:
    """Whether this process has a file or folder that is unfinished."""
    return bool(_mine)


def abandon_all() -> None:
    """Remove what this process is writing now, and bring back what it moved aside: for a thread that is about to end the process.

    The writer may go on meanwhile. A folder therefore gets another name first: it becomes `name` whole, or not at all.
    """
    for path in sorted(_mine, key=lambda each: each.suffix):  # `old` first
        parts = _UNFINISHED.fullmatch(path.name)
        place = path.with_name(parts["name"]) if parts else path
        with suppress(OSError):
            if path.suffix == ".old" and not place.exists():
                path.rename(place)
            elif path.is_dir() and not path.is_symlink():
                remove(path.rename(path.with_name(f".{place.name}.abandoned{path.name.removeprefix(f'.{place.name}')}")))
            else:
                remove(path)


def exchanged(one: Path, other: Path) -> bool:
    """Let two names change places in one step, as Linux does on most file systems; False where it cannot: both stay."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, as far as the system allows; a link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _host() -> str:
    """This machine's name, of characters that separate nothing in the name of a file."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:32] or "host"


def _is_open(path: Path) -> bool:
    """Whether a process has the file open, as far as Linux shows: the name of a file of safetensors names no writer."""
    wanted = path.stat()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.path.samestat(descriptor.stat(), wanted):
                return True
        except OSError:  # closed meanwhile, or another user's
            continue
    return False
