"""One exception class per exit code. A message is one sentence: what was expected, what came, where, what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class GcnrecError(Exception):
    """Base of every expected error; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(GcnrecError):
    """The command or the job file asks for something that cannot be."""

    exit_code = 2


class Busy(UsageError):
    """Another process writes at that place; it can be waited for."""


class Taken(UsageError):
    """A folder of that name has appeared since the name was chosen."""


class DataError(GcnrecError):
    """The data is missing, damaged or not what it was declared to be."""

    exit_code = 3


class Unforeseen(DataError):
    """A parser raised what no check of the content foresaw: `reading` made a sentence of it."""


class DeviceError(GcnrecError):
    """A device, a driver or memory is missing or too small."""

    exit_code = 4


class DivergedError(GcnrecError):
    """Training produced a loss or gradient that is not finite."""

    exit_code = 5


class PeerLostError(GcnrecError):
    """Another worker of this run ended, was stopped, or cannot be reached; the run can be resumed."""

    exit_code = 6


class Interrupted(GcnrecError):
    """Ctrl-C; the run folder can be resumed."""

    exit_code = 130


class Terminated(BaseException):
    """SIGTERM; the run folder can be resumed. As with KeyboardInterrupt, no `except Exception` of a library keeps it."""

    exit_code = 143


def first_line(problem: BaseException) -> str:
    """The first line of an exception's message, without its full stop; the exception's name where there is none.

    What cannot be printed is a `?`: libraries quote bytes of damaged files.
    """
    lines = str(problem).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(problem).__name__
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


@contextmanager
def reading(what: object, remedy: str) -> Iterator[None]:
    """For a block that reads and parses one file and does nothing else: an exception that no check foresaw is a DataError.

    The sentence names `what` (a file, or a place in one), the kind of the exception, its first line, and the `remedy`. Errors of
    the package, lack of memory and signals pass. A fault that users meet gets a check and a sentence of its own.
    """
    try:
        yield
    except (GcnrecError, MemoryError):
        raise
    except OSError as problem:
        reason = problem.strerror or first_line(problem)
        raise DataError(f"{what} cannot be read ({reason}); {os_remedy(problem, remedy)}") from problem
    except Exception as problem:
        if type(problem).__name__ in ("RuntimeError", "InterruptException") and "interrupted" in str(problem).lower():
            raise KeyboardInterrupt from None  # DuckDB's word for Ctrl-C
        raise Unforeseen(f"{what} cannot be read ({type(problem).__name__}: {first_line(problem)}); {remedy}") from problem


_REMEDIES = {
    errno.ENOSPC: "free some space, or ",
    errno.EDQUOT: "free some of this user's quota, or ",
    errno.EACCES: "change the permissions there, or ",
    errno.EPERM: "change the permissions there, or ",
    errno.ELOOP: "remove the link that leads to itself, or ",
    errno.ENAMETOOLONG: "shorten the name, or ",
    errno.EIO: "check the disk, or ",
    errno.EMFILE: "raise 'ulimit -n', or ",
}


def os_remedy(problem: BaseException, otherwise: str) -> str:
    """What helps after an error of the operating system, by its number; `otherwise` is what helps in any case.

    safetensors and Arrow name the number in their text only.
    """
    named = re.search(r"(?:os error|\[Errno) (\d+)", str(problem))
    number = getattr(problem, "errno", None) or (int(named[1]) if named else None)
    return _REMEDIES.get(number or 0, "") + otherwise


_SHOWN = 200


def shown(value: object) -> str:
    """`value` as messages have it: its representation on one line, of at most 200 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of over 4300 digits, lists of thousands of levels
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def install(extra: str) -> str:
    """How an extra of the package is installed: gcnrec is on no index, so pip needs the checkout."""
    return f"pip install '.[{extra}]' in a checkout of gcnrec"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'user_id'?`, or the list of what is known when nothing is near."""
    names, name = sorted(map(str, known)), name[:_SHOWN]
    same = [known for known in names if known.lower() == name.lower()]  # but for its case
    close = same or get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
