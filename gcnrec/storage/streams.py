"""Pipes: text inputs within a bound on bytes and silence, and outputs whose reader may go away or stop reading.

Neither holds a command for ever, and a lost output ends none.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
import time
from typing import TYPE_CHECKING

from gcnrec.errors import DataError, os_remedy

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import ReadableBuffer

PIPE_SECONDS = 60.0
"""How long a pipe may stay silent."""
_CHUNK_BYTES = 2**16
_TAKEN_SECONDS = 30.0
"""How long the reader of stderr may take nothing."""
_lasting: dict[int, Lasting] = {}


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


class Lasting(io.RawIOBase):
    """A descriptor to write to. From the first error on it drops what it gets, and `lost` has the error.

    A reader that takes nothing for `seconds` is an error, too; None waits for ever.
    """

    def __init__(self, descriptor: int, seconds: float | None = None, lost: OSError | None = None) -> None:
        self._descriptor, self._seconds, self.lost = descriptor, seconds, lost
        self._is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode) or stat.S_ISSOCK(os.fstat(descriptor).st_mode)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`, or drop the rest; returns its length either way."""
        left = memoryview(data).cast("B")
        length = len(left)
        try:
            while left and self.lost is None:
                left = left[self._some(left) :]
        except OSError as problem:
            self.lost = problem
        return length

    def _some(self, data: memoryview) -> int:
        """The number of bytes that were written."""
        if self._is_pipe and self._seconds is not None:
            self._wait()
            data = data[: select.PIPE_BUF]  # so much is taken without waiting
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # whoever started this command made it so
            self._wait()
            return 0

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if not poll.poll(None if self._seconds is None else 1000 * self._seconds):
            raise OSError(errno.ETIMEDOUT, f"its reader took nothing for {self._seconds:g} s")


def keep_streams() -> None:
    """Let stdout and stderr of this process be lost without an error, once; see `lost`.

    A descriptor that was closed leads nowhere from now on: the next file that is opened would take its place.
    """
    if _lasting:
        return
    closed = [number for number in range(3) if not _is_open(number)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)
    for number, name, seconds in ((1, "stdout", None), (2, "stderr", _TAKEN_SECONDS)):
        plain = getattr(sys, name)
        raw = Lasting(number, seconds, OSError(errno.EBADF, "it was closed at the start") if number in closed else None)
        _lasting[number] = raw
        encoding = getattr(plain, "encoding", "utf-8")
        errors = "backslashreplace" if number == 2 else getattr(plain, "errors", "strict")
        lines = number == 2 or raw.isatty()
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines))


def lost(descriptor: int) -> OSError | None:
    """The error that a kept stream met, if any; it gets nothing since."""
    return _lasting[descriptor].lost if descriptor in _lasting else None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
