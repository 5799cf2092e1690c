"""What this user has verified before, as lines of one text file in a cache folder: the next command need not do it again.

A fact is a line, such as `file 64768 1311 4096 1700000000000000000 1700000000000000000 SHA256`. The file of this device, inode,
size and times (mtime and ctime, nanoseconds) holds what has this digest. Whoever sets an mtime back changes the ctime.

The file is never part of a dataset or a run. It lies where only this user may write (`gcnrec.system.kernel_cache`). Without such
a place nothing is remembered. A line is appended by one write, so that processes need no lock. A damaged line equals no fact
that is asked for: it is ignored, and the file is verified again. Facts of this process are kept in memory, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gcnrec.integrity.digests import State
from gcnrec.storage.documents import open_regular
from gcnrec.storage.files import work_path
from gcnrec.system.kernel_cache import own_folder

FOLDER, FILE = "verified", "facts-1.txt"
MOST_BYTES = 2**19
"""Of the file, some 3,000 facts. A fuller one loses its older half."""
_MOST_HERE = 4096
_OTHERS_WRITE = 0o022
_established: set[str] = set()
"""By this process itself."""


def file_fact(state: State, sha256: str) -> str:
    """The fact that a file in `state` has the digest `sha256`."""
    return f"file {state.device} {state.inode} {state.size} {state.modified_ns} {state.changed_ns} {sha256}"


def established() -> frozenset[str]:
    """The facts that this process has established itself."""
    return frozenset(_established)


def recalled() -> frozenset[str]:
    """The facts that this user's processes have established: as many as are remembered, none where nothing can be kept."""
    folder = own_folder(FOLDER)
    return established() | (frozenset() if folder is None else _lines(folder / FILE))


def remember(facts: Iterable[str]) -> None:
    """Keep facts for this process and, where a place can be had, for later ones."""
    fresh = list(dict.fromkeys(facts))
    if not fresh:
        return
    if len(_established) + len(fresh) > _MOST_HERE:
        _established.clear()
    _established.update(fresh)
    folder = own_folder(FOLDER)
    if folder is not None:
        with suppress(OSError):  # a full disk: it is verified again
            _append(folder / FILE, fresh)


def _lines(path: Path) -> frozenset[str]:
    try:
        with open_regular(path) as file:
            if not _is_own(os.fstat(file.fileno())):
                return frozenset()
            return frozenset(file.read(2 * MOST_BYTES).decode("ascii", "replace").splitlines()) - {""}
    except OSError:
        return frozenset()


def _append(path: Path, facts: list[str]) -> None:
    text = "".join(f"{fact}\n" for fact in facts).encode()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not _is_own(found):
            return
        if found.st_size + len(text) <= MOST_BYTES:
            os.write(descriptor, b"\n" + text)  # the last line may have been cut short
            return
    finally:
        os.close(descriptor)
    _replace(path, text)


def _replace(path: Path, text: bytes) -> None:
    """The newer half of the file, and `text`. What another process appends meanwhile is lost, and verified again."""
    with open_regular(path) as file:
        before = file.read(2 * MOST_BYTES)
    newer = before[-(MOST_BYTES // 2) :].partition(b"\n")[2]
    with work_path(path) as work:
        try:
            work.write_bytes(newer + text[: MOST_BYTES // 2])
            work.chmod(0o600)
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)


def _is_own(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
