"""The command line: starts a process well, runs a command of `gcnrec.commands`, and ends with a sentence and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from gcnrec.commands import finished, guides, machine, making, studies
from gcnrec.commands.observed import LOG_JSON
from gcnrec.commands.remote import Command
from gcnrec.console import encoding, output
from gcnrec.console.expected import expected
from gcnrec.errors import UsageError
from gcnrec.storage.streams import keep_streams
from gcnrec.system.signals import end_line, follow_parent, stopped, watch
from gcnrec.system.supported import WINDOWS
from gcnrec.version import __version__


class _Commands(TyperGroup):
    """Turns expected errors into one sentence on stderr and their exit code; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BaseException as problem:
            known = expected(stopped() or problem)  # others' errors may be the signal in disguise
            if known is None:
                raise
            output.report(known, ctx.meta.get(LOG_JSON, False))
            raise SystemExit(known.exit_code) from None


app = typer.Typer(
    cls=_Commands,
    help="Graph recommenders trained in offline jobs: Parquet in, recall out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The console script: 0 done, 1 a bug, 2 usage, 3 data, 4 device or memory, 5 diverged, 6 a lost worker, 130, 143 signals."""
    if sys.platform == "win32":
        _end(WINDOWS)
    encoding.speak_utf8()
    if not all(map(encoding.is_utf8, sys.argv)):
        text = next(text for text in sys.argv if not encoding.is_utf8(text))
        _end(f"an argument must be text in UTF-8, got {text!r}; rename that file or folder")
    try:
        Path.cwd()
    except FileNotFoundError:  # torch then ends the process as it loads
        _end("the working directory is not there any more; change to another one, for example by 'cd /'")
    # torch and numba load an OpenMP runtime each: workers that spin for long after their work steal the cores of the other pool.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # a lost worker is a sentence of ours, not forty lines of torch's
    # Without a home, matplotlib advises a cache folder in two lines; the charts of a report need none.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    keep_streams()
    watch()
    end_line(lambda text, _: f"{output.sentence(text)}\n".encode(errors="backslashreplace"))
    follow_parent()
    try:
        app()
    except SystemExit as end:
        if not end.code:
            output.deliver()
        raise


def _end(text: str) -> NoReturn:
    """End the command with a sentence before it has begun."""
    output.report(UsageError(text), log_json=False)
    raise SystemExit(UsageError.exit_code)


def _version(on: bool) -> None:
    if on:
        print(f"gcnrec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)] = False,
) -> None:
    pass


for each in (*guides.COMMANDS, *making.COMMANDS, *finished.COMMANDS, *studies.COMMANDS, *machine.COMMANDS):
    app.command(cls=Command)(each)
