"""The program `gcnrec`, which is also `python -m gcnrec`: signals and streams are safe before anything else is imported."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress

from gcnrec.storage.streams import keep_streams
from gcnrec.system.signals import watch


def main() -> None:
    """Run the command line, and end the process: see `gcnrec.cli.main`."""
    if sys.platform != "win32":  # where the command line ends with a sentence
        keep_streams()
        watch()
    code = 1
    atexit.register(lambda: _end(code))  # the first one registered is the last one called
    try:
        from gcnrec.cli import main as command_line

        command_line()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _end(code: int) -> None:
    """Skip the interpreter's own end: it takes some tenths of a second, in which Python drops signals."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
