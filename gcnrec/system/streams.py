"""Text inputs that may be pipes: read within a bound on bytes and on silence, so that none of them holds a command for ever."""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path

from gcnrec.errors import DataError, os_remedy

PIPE_SECONDS = 60.0
"""How long a pipe may stay silent."""
_CHUNK_BYTES = 2**16


def is_pipe(path: Path) -> bool:
    """Whether `path` is a pipe, a socket or a terminal (`/dev/stdin`, `<(...)`), which can be read once and has no size.

    False for what is absent. A file that a shell feeds to `/dev/stdin` is a file.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def check_regular(path: Path, what: str = "a file") -> None:
    """DataError unless `path`, or what it links to, is a regular file: opening a pipe or a device may never return."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read ({_reason(problem)}); {os_remedy(problem, 'name ' + what)}") from None
    if not stat.S_ISREG(mode):
        came = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise DataError(f"{path} must be {what}, is {came}; write it to a file first")


def pipe_bytes(path: Path, most_bytes: int, seconds: float = PIPE_SECONDS) -> bytes:
    """All bytes of a text input: a regular file, or a pipe that is silent for at most `seconds` at a time.

    Raises DataError for more than `most_bytes`, for a silent pipe, for a folder or a disk, and where the system refuses.
    """
    try:
        # Without waiting: a named pipe that nothing writes into would keep `open` for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as problem:
        raise _unreadable(path, problem) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
            raise DataError(f"{path} must be a file or a pipe, is a {'folder' if stat.S_ISDIR(mode) else 'disk'}; name a file")
        waits = None if stat.S_ISREG(mode) else seconds
        parts, left = [], most_bytes + 1
        while left > 0 and (part := _part(path, descriptor, left, waits)):
            parts.append(part)
            left -= len(part)
    except OSError as problem:
        raise _unreadable(path, problem) from None
    finally:
        os.close(descriptor)
    if left <= 0:
        raise DataError(f"{path} must hold at most {most_bytes:,} bytes, it holds more; name another file, or split it")
    return b"".join(parts)


def _part(path: Path, descriptor: int, most: int, seconds: float | None) -> bytes:
    """The next bytes, none at the end; a pipe is waited for until it has some or its writer has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + (seconds or 0.0)
    while True:
        left = max(0.0, deadline - time.monotonic())
        if seconds is not None and not poll.poll(1000 * left):
            raise DataError(f"{path} is a pipe that brought no byte for {seconds:g} s; see what writes into it, or name a file")
        try:
            return os.read(descriptor, min(most, _CHUNK_BYTES))
        except BlockingIOError:  # another reader was faster
            continue


def _reason(problem: BaseException) -> str:
    return getattr(problem, "strerror", None) or str(problem)


def _unreadable(path: Path, problem: BaseException) -> DataError:
    return DataError(f"{path} cannot be read ({_reason(problem)}); {os_remedy(problem, 'name another file')}")
