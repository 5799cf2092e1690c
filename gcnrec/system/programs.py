"""Modules of this package as programs of their own: they import what this process imports, whatever the working directory has."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def program(module: str, *arguments: str) -> list[str]:
    """The command that runs `module`. With `-m` alone, Python would import a user's `queue.py` or `numbers.py` first."""
    return [sys.executable, "-P", "-m", module, *arguments]


def import_paths() -> dict[str, str]:
    """What the environment of a `program` must have, so that it finds the modules that this process finds."""
    return {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
