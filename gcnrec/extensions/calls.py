"""Calls of methods of classes of other packages: what they raise ends the command with one sentence, not with a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gcnrec.errors import GcnrecError, UsageError, first_line, shown
from gcnrec.extensions.names import PAGE

_MOST = 10**6
"""Of an amount: what float32 adds to scores without losing them all."""


@contextmanager
def calling(name: str, what: str) -> Iterator[None]:
    """For a block that calls `what` of the class that a job names by `name`, as sentences have it.

    An exception, or an end of the process, is a UsageError with the line that raised it. Errors of gcnrec, lack of memory and
    signals pass.
    """
    try:
        yield
    except (GcnrecError, MemoryError):
        raise
    except (Exception, SystemExit) as problem:
        if "DefaultCPUAllocator" in str(problem):  # torch's lack of memory has no class
            raise
        raise UsageError(f"{name}: {what} fails ({described(problem)}); see {PAGE}") from problem


def amount(name: str, made: Any, attribute: str) -> float:
    """An attribute of an object of a class, a finite number from 0, by default 0. UsageError for anything else."""
    with calling(name, attribute):
        value = getattr(made, attribute, 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= _MOST:
        raise UsageError(f"{name}: {attribute} must be a number from 0 to {_MOST:,}, got {shown(value)}; see {PAGE}")
    return float(value)


def described(problem: BaseException) -> str:
    """The kind of an exception, the first line of its message, and the line of source that raised it."""
    text, kind = first_line(problem), type(problem).__name__
    frames = traceback.extract_tb(problem.__traceback__)
    place = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return (text if text == kind else f"{kind}: {text}") + place
