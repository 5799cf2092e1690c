"""One writer at a time for a folder, by a lock on a file: the system releases it when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from pydantic import Field

from gcnrec.errors import Busy, DataError, UsageError, os_remedy
from gcnrec.storage.documents import Document, parsed, typed
from gcnrec.system.observer import SILENT

_held: dict[Path, int] = {}
"""Locks of this process, by the thread that holds them: it may ask for them again."""
_POLL_SECONDS = 0.2
_MOST_BYTES = 4096


class _Signed(Document):
    """What a lock says of its holder. Anybody may have written it: it goes into messages as far as it is what it should be."""

    pid: int = Field(ge=1, lt=2**32)
    host: str = Field(pattern=r"^[A-Za-z0-9._-]{1,255}$")
    begun: str = Field(pattern=r"^[0-9T:+-]{1,40}$")


@contextmanager
def locked(path: Path, what: Path, warn: Callable[[str], object] = SILENT.warn) -> Iterator[None]:
    """Hold the lock on the file `path`, which names the process that writes into `what` and is removed at the end.

    Raises Busy, naming the process, when another process or thread holds it. A lock that a killed process left behind does
    not count; `warn` gets a sentence about it.
    """
    key, thread = path.parent.resolve() / path.name, threading.get_ident()
    if _held.get(key) == thread:
        yield
        return
    try:
        file = _acquired(path, what)
    except OSError as problem:
        raise _unwritable(path, what, problem) from problem
    with file:
        _refuse_other(file, path, what)
        _held[key] = thread
        try:
            _sign(file, path, what, warn)
            yield
        finally:
            del _held[key]
            path.unlink(missing_ok=True)


def abandon_locks() -> None:
    """Remove the files of all locks that this process holds: for a thread that is about to end the process."""
    for path in list(_held):
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def awaited(path: Path, what: Path, note: Callable[[str], object] = SILENT.note) -> Iterator[bool]:
    """The same as `locked`, which waits while another process holds the lock; yields whether it had to.

    `note` gets a sentence at the first wait.
    """
    waited = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path, what, note))
                break
            except Busy as problem:
                if not waited:
                    note(f"{str(problem).partition(';')[0]}; waiting for its end")
                waited = True
                time.sleep(_POLL_SECONDS)
        yield waited


def open_lock(path: Path, what: Path) -> FileIO:
    """The file of a lock, which is made where it is missing, open for reading and writing; nothing in it is changed.

    It is a file of its own: a link, a second name of another file, a folder, a pipe or a device is a DataError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        file = FileIO(os.open(path, flags, 0o666), "r+")
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _foreign(path, what, problem.strerror or str(problem)) from None
        raise _unwritable(path, what, problem) from problem
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        file.close()
        raise _foreign(path, what, "it is a pipe, a device or the second name of a file")
    return file


def _foreign(path: Path, what: Path, reason: str) -> DataError:
    return DataError(f"the lock of {what} must be a plain file at {path}, is none ({reason.lower()}); remove what lies there")


def _acquired(path: Path, what: Path) -> FileIO:
    """The lock's file, locked, and still of that name."""
    while True:
        file = open_lock(path, what)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), os.fstat(file.fileno())):
                    return file
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            raise Busy(f"{what} is being written by {holder}; wait until it has ended, or stop it") from None
        except BaseException:
            file.close()
            raise
        file.close()  # its holder removed it between our two steps


def _sign(file: FileIO, path: Path, what: Path, warn: Callable[[str], object]) -> None:
    if file.seek(0, os.SEEK_END):
        warn(f"{what} was locked by {_holder(file)}, which ended without unlocking it; continuing")
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "begun": begun}).encode())
    except OSError as problem:
        raise _unwritable(path, what, problem) from problem


def _unwritable(path: Path, what: Path, problem: OSError) -> DataError:
    otherwise = f"copy {what} to where it can be written" if what.is_dir() else "choose another place for it"
    return DataError(f"cannot write {path}: {problem.strerror or problem}; {os_remedy(problem, otherwise)}")


def _refuse_other(file: FileIO, path: Path, what: Path) -> None:
    """DataError unless the file is a lock, whole or cut short: what it holds is going to be replaced."""
    file.seek(0)
    content = file.read(_MOST_BYTES + 1).strip(b"\0")  # zeros: the machine crashed before the content was on its disk
    if len(content) > _MOST_BYTES or (content and not content.startswith((b"{", b"[]"))):
        raise _foreign(path, what, "it holds something else than the name of a process")


def _holder(file: FileIO) -> str:
    file.seek(0)
    try:
        signed = typed(_Signed, parsed(file.read(_MOST_BYTES)))
    except ValueError:
        return "another process"
    return f"process {signed.pid} of {signed.host} since {signed.begun}"


@contextmanager
def inherited_lock(path: Path, verb: str) -> Iterator[int]:
    """A descriptor that children inherit: the folder stays locked until the last process that writes into it has ended.

    UsageError where it is locked: it is being `verb` by another process.
    """
    with open_lock(path, path.parent) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{path.parent} is being {verb} by another process; wait for it, or choose another --out") from None
        yield file.fileno()
