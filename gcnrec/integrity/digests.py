"""The sha256 of files, and of JSON documents without their own digest; several files on two threads.

One file is hashed on one thread, as sha256 goes through it in order. A file counts as read only if the system notes the same
state of it before and after.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnrec.errors import DataError, first_line, os_remedy
from gcnrec.storage.documents import open_regular

OWN = "own_sha256"
"""The key of a document that holds the digest of all other keys."""
THREADS = 2
"""More would wait for memory, and take cores from others."""
_PIECE_BYTES = 1 << 20
_SERIAL_BYTES = 1 << 23
"""Files of fewer bytes together are hashed on the calling thread: starting threads costs as much."""
_SETTLED_NS = 2 * 10**9


@dataclass(frozen=True, slots=True)
class State:
    """What the system notes of a file. Times are nanoseconds; `changed_ns` (ctime) cannot be set back by a program."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> State:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Hashed:
    """The sha256 of a file's bytes, and the state that stands for these bytes; None where a later write might leave it equal."""

    sha256: str
    state: State | None


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_digest(document: dict[str, Any]) -> str:
    """The sha256 of a JSON object without its key `own_sha256`, whatever the order of keys and the layout of the text."""
    rest = {key: value for key, value in document.items() if key != OWN}
    return hashlib.sha256(json.dumps(json.loads(json.dumps(rest)), sort_keys=True).encode()).hexdigest()


def hashed(paths: Sequence[Path], remedy: Callable[[Path], str]) -> list[Hashed]:
    """What each of `paths` holds, in their order. DataError, with its remedy, for a file that cannot be read to its end."""
    stop = threading.Event()
    if len(paths) < 2 or sum(path.stat().st_size for path in paths) < _SERIAL_BYTES:
        return [_hashed(path, remedy, stop) for path in paths]
    largest_first = sorted(range(len(paths)), key=lambda at: -paths[at].stat().st_size)
    with ThreadPoolExecutor(THREADS, "sha256") as pool:
        try:
            begun = {at: pool.submit(_hashed, paths[at], remedy, stop) for at in largest_first}
            return [begun[at].result() for at in range(len(paths))]
        except BaseException:  # a signal: the threads must not read on to the end
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _readable(path: Path, remedy: Callable[[Path], str]) -> Iterator[None]:
    """An error of the system is a DataError. The remedy is asked for only then: it may have to read other files."""
    try:
        yield
    except OSError as problem:
        otherwise = os_remedy(problem, remedy(path))
        raise DataError(f"{path} cannot be read ({problem.strerror or first_line(problem)}); {otherwise}") from problem


def state_of(path: Path, remedy: Callable[[Path], str]) -> State:
    """What the system notes of a file. DataError, with its remedy, where there is none."""
    with _readable(path, remedy):
        return State.of(path.stat())


def _hashed(path: Path, remedy: Callable[[Path], str], stop: threading.Event) -> Hashed:
    with _readable(path, remedy), open_regular(path) as file:
        before, now_ns = State.of(os.fstat(file.fileno())), time.time_ns()
        digest, piece = hashlib.sha256(), memoryview(bytearray(min(_PIECE_BYTES, before.size + 1)))
        while count := os.readv(file.fileno(), [piece]):
            if stop.is_set():
                return Hashed("", None)
            digest.update(piece[:count])
        after = State.of(os.fstat(file.fileno()))
    # A write within the same tick of the file system's clock leaves the times as they are; the coarsest ticks are two seconds.
    settled = before == after and now_ns - before.changed_ns > _SETTLED_NS
    return Hashed(digest.hexdigest(), before if settled else None)
