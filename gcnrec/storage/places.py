"""Paths as people write them: text or `pathlib.Path`. Public functions take both and hand on `Path`."""

from __future__ import annotations

import os
from pathlib import Path

from gcnrec.errors import UsageError, shown

StrPath = str | os.PathLike[str]
"""A path of a public function."""


def place(path: StrPath) -> Path:
    """`path` as `Path`. UsageError for what is no path, and for empty text, which would mean the working directory."""
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"expected a path as text or pathlib.Path, got {type(path).__name__}; name a file or a folder")
    if not os.fspath(path):
        raise UsageError(f"expected a path, got {shown(os.fspath(path))}; name a file or a folder, '.' for the working directory")
    return Path(path)


def place_if_any(path: StrPath | None) -> Path | None:
    """`path` as `Path`, and None as None."""
    return None if path is None else place(path)
