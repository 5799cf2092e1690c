"""Which errors end a command with a sentence; all others are bugs and keep their traceback."""

from __future__ import annotations

import errno

from gcnrec.errors import DataError, DeviceError, GcnrecError, Interrupted, Terminated, os_remedy

_LONG_NAME = 300
"""Characters of a path that a sentence shows."""
_THE_SYSTEM_REFUSES = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.EMFILE, errno.EIO,
)  # fmt: skip
"""Errors about a named file that come of the machine or of a name that was typed, wherever they are raised; others are bugs."""


def expected(problem: BaseException) -> GcnrecError | Terminated | None:
    """The error to report for `problem`, or None when it is a bug."""
    if isinstance(problem, (GcnrecError, Terminated)):
        return problem
    if isinstance(problem, KeyboardInterrupt):
        return Interrupted(str(problem) or "stopped by Ctrl-C, nothing half-written stays; start the same command again")
    if isinstance(problem, MemoryError) or "DefaultCPUAllocator" in str(problem):  # torch's own has no class
        details = str(problem).rpartition("DefaultCPUAllocator: ")[2] or "no details"
        return DeviceError(f"memory ran out ({details}); 'gcnrec check' predicts what a job needs")
    if isinstance(problem, RuntimeError) and str(problem).startswith("Symlink loop"):  # of pathlib, up to Python 3.12
        return DataError(f"{str(problem).removeprefix('Symlink loop from ')} is a link that leads back to itself; remove it")
    if "cannot cache function" in str(problem):
        return DeviceError(
            "numba found no folder for compiled kernels; set NUMBA_CACHE_DIR to a folder that only this user may write to"
        )
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"the disk is full ({problem.filename or 'no file named'}); {os_remedy(problem, 'work on another one')}")
    if isinstance(problem, OSError) and problem.errno in _THE_SYSTEM_REFUSES and problem.filename:
        name = str(problem.filename)
        name = name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}..."
        return DataError(f"cannot use {name}: {problem.strerror}; {os_remedy(problem, 'choose another place')}")
    return None
