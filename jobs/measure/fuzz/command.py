"""One command line in this process: its exit code, what it prints, and whether a parser raised what no check foresaw."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from typer.main import get_command

PRINTED_BYTES = 2**24


def call(arguments: list[str]) -> tuple[int, str, str, str]:
    """Exit code, stdout and stderr of a command line, native libraries' too, and the reason of an `Unforeseen`."""
    from gcnrec.console import output

    unforeseen: list[str] = []
    report = output.report

    def noted(problem: Any, *more: Any, **named: Any) -> None:
        if type(problem).__name__ == "Unforeseen":
            unforeseen.append(reason_of(str(problem)))
        report(problem, *more, **named)

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, redirected(out.fileno(), err.fileno()):
        try:
            output.report = noted
            command_line()(arguments)
            code: Any = 0
        except SystemExit as end:
            code = end.code
        except BaseException as problem:
            code = 1
            print(f"Traceback: {type(problem).__name__}: {problem} {place_of(problem)}", file=sys.stderr)
        finally:
            output.report = report
        sys.stderr.flush()
        sys.stdout.flush()
        out.seek(0)
        err.seek(0)
        printed = (file.read(PRINTED_BYTES).decode(errors="replace") for file in (out, err))
        return int(code or 0), next(printed), next(printed), unforeseen[0] if unforeseen else ""


@cache
def command_line() -> Any:
    """What `gcnrec.cli.app` makes of its functions at each call, which takes as long as many a command."""
    from gcnrec import cli

    return get_command(cli.app)


@contextmanager
def redirected(out: int, err: int) -> Iterator[None]:
    """stdout and stderr to other descriptors."""
    kept = os.dup(1), os.dup(2)
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        yield
    finally:
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)


def place_of(problem: BaseException) -> str:
    """The last line of the package that an exception passed."""
    place, step = "", problem.__traceback__
    while step:
        name = step.tb_frame.f_code.co_filename
        place = f"{name}:{step.tb_lineno}" if "gcnrec" in name or not place else place
        step = step.tb_next
    return place


def reason_of(sentence: str) -> str:
    """A sentence of `gcnrec.errors.reading` without what differs from case to case: file, kind and words of the exception."""
    found = re.search(r"^(.*?) cannot be read \((\w+: .*)\); ", sentence, re.DOTALL)
    what, said = found.groups() if found else ("", sentence)
    name = re.sub(r"^\S*/", "", what)
    said = re.sub(r"'[^']*'|\"[^\"]*\"|0x[0-9a-f]+|/\S+|-?\d[\d.e+-]*", "#", said)
    return f"{re.sub(r'[0-9]+', '#', name)[:60]}: {said[:100]}"
