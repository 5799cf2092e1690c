"""One writer at a time for a folder, by a lock on a file: the system releases it when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from gcnrec.errors import Busy, DataError
from gcnrec.system.observer import SILENT

_held: dict[Path, int] = {}
"""Locks of this process, by the thread that holds them: it may ask for them again."""
_POLL_SECONDS = 0.2


@contextmanager
def locked(path: Path, what: Path, warn: Callable[[str], object] = SILENT.warn) -> Iterator[None]:
    """Hold the lock on the file `path`, which names the process that writes into `what` and is removed at the end.

    Raises Busy, naming the process, when another process or thread holds it. A lock that a killed process left behind does
    not count; `warn` gets a sentence about it.
    """
    key, thread = path.resolve(), threading.get_ident()
    if _held.get(key) == thread:
        yield
        return
    try:
        file = _acquired(path, what)
    except OSError as problem:
        raise _unwritable(path, problem) from problem
    with file:
        _held[key] = thread
        try:
            _sign(file, path, what, warn)
            yield
        finally:
            del _held[key]
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


def _acquired(path: Path, what: Path) -> FileIO:
    """The lock's file, locked, and still of that name."""
    while True:
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
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
        raise _unwritable(path, problem) from problem


def _unwritable(path: Path, problem: OSError) -> DataError:
    return DataError(f"cannot write {path}: {problem.strerror or problem}; free some space or choose another disk")


def _holder(file: FileIO) -> str:
    file.seek(0)
    try:
        signed = json.loads(file.read())
        return f"process {signed['pid']} of {signed['host']} since {signed['begun']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
