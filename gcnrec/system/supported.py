"""Which systems gcnrec runs on."""

from __future__ import annotations

import os
from collections.abc import Sequence

WINDOWS = "gcnrec needs Linux, and this is Windows; install and run it inside WSL, which 'wsl --install' sets up"


def refuse_windows(platform: str, arguments: Sequence[str]) -> None:
    """Raise ImportError on Windows, except in the command, which prints the sentence without a traceback.

    `platform`: `sys.platform`. `arguments`: `sys.argv`.
    """
    program = os.path.basename(arguments[0]) if arguments else ""  # noqa: PTH119 (pathlib takes long to import)
    is_command = program in ("-m", "__main__.py") or program.split(".")[0] == "gcnrec"
    if platform == "win32" and not is_command:
        raise ImportError(WINDOWS)
