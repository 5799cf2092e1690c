"""What a command prints: its result on stdout, an expected error as one sentence on stderr."""

from __future__ import annotations

import errno
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from gcnrec.errors import DataError, GcnrecError, Terminated, os_remedy
from gcnrec.storage.remote.address import masked
from gcnrec.storage.streams import lost

_UNREAD = (errno.EPIPE, errno.EBADF)
"""How a stdout is lost whose reader has all it wants, as `head` has, or that there was none of."""


_names: dict[str, str] = {}
"""Addresses by the path of this machine that stands for each while a command works."""


def name_as(path: Path, address: str) -> None:
    """Show `address` in place of `path` from now on."""
    _names[str(path)] = address


def note(text: str) -> None:
    """Say on a terminal what takes its time before or after a command."""
    if sys.stderr.isatty():
        print(sentence(text), file=sys.stderr)


def _named(text: str) -> str:
    """`text` with addresses in place of paths that stand for them, the longest first."""
    for path in sorted(_names, key=len, reverse=True):
        text = text.replace(path, _names[path])
    return text


def end_with_failed(code: int, what: str, logs: Path, log_json: bool) -> NoReturn:
    """End a sweep with the exit code of its worst run."""
    problem = DataError(f"{what}, their logs lie in {logs}; start the same command again to try them anew")
    problem.exit_code = code
    report(problem, log_json)
    raise SystemExit(code)


def show(result: Any) -> None:
    """Print lines as they are, anything else as JSON."""
    if isinstance(result, list):
        print(_named("\n".join(result)))
    else:
        print(_named(json.dumps(result, indent=2, default=str)))


def deliver() -> None:
    """End the command with an error where nothing took its results. A reader that left, as `head` does, had what it wanted."""
    with suppress(OSError):
        sys.stdout.flush()
    problem = lost(1)
    if problem and problem.errno not in _UNREAD:
        remedy = os_remedy(
            problem, "its files are whole; for its results, start it again with another stdout, and another --out if it has one"
        )
        report(DataError(f"stdout took no results ({problem.strerror}); {remedy}"), log_json=False)
        raise SystemExit(DataError.exit_code)


def report(problem: GcnrecError | Terminated, log_json: bool) -> None:
    """Print an expected error on stderr: a sentence, or with `log_json` an object. Secrets of addresses in it are masked."""
    text = masked(_named(str(problem)))
    if log_json:
        from gcnrec.reports.progress import log

        log("error", "error", {"text": text, "exit_code": problem.exit_code})
    else:
        print(sentence(text), file=sys.stderr)


def sentence(text: str) -> str:
    """A name or value of somebody's data may hold characters that control a terminal."""
    return "gcnrec: " + "".join(each if each.isprintable() else "?" for each in text)
