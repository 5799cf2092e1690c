"""One output file that is whole or absent: written under a temporary name, fsynced, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from gcnrec.errors import DataError, os_remedy


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to that becomes `target` (replacing it) when the block succeeds, and vanishes when it fails.

    Raises DataError when the file cannot be written, for example on a full disk.
    """
    work = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield work
        sync(work)
        work.replace(target)
        sync(target.parent)
    except (OSError, SafetensorError) as problem:  # safetensors reports a full disk by an error of its own
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"cannot write {target}: {reason}; {os_remedy(problem, 'choose another place')}") from problem
    finally:
        work.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, last through a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_leftovers(folder: Path) -> None:
    """Remove the unfinished files of killed writers in a `folder` that no other process writes into now.

    A process that lives keeps its own.
    """
    for path in folder.glob(".*.part"):
        writer = path.name.split(".")[-2]
        if writer.isdigit() and not _alive(int(writer)):
            path.unlink(missing_ok=True)
    for path in folder.glob(".tmp??????"):  # safetensors writes a temporary file of its own, too
        path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether another process of this number is there: this one, just begun, has nothing unfinished."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
