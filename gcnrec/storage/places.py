"""Paths as people write them: text or `pathlib.Path`. Public functions take both and hand on `Path`.

Where a file of ids or of rows is expected, public functions take a table in memory, too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from gcnrec.errors import UsageError, shown
from gcnrec.storage.remote.address import address_of

StrPath = str | os.PathLike[str]
"""A path of a public function."""


@runtime_checkable
class ArrowStream(Protocol):
    """A table in memory: anything with `__arrow_c_stream__` (Arrow's PyCapsule interface), of pandas, Polars, Arrow or DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Given = StrPath | ArrowStream
"""A file of a public function, or a table with the same columns."""


def place(path: Given) -> Path:
    """`path` as `Path`. UsageError for what is no path, and for empty text, which would mean the working directory."""
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"expected a path as text or pathlib.Path, got {type(path).__name__}; name a file or a folder")
    if not os.fspath(path):
        raise UsageError(f"expected a path, got {shown(os.fspath(path))}; name a file or a folder, '.' for the working directory")
    if isinstance(path, str) and address_of(path) is not None:
        raise UsageError(
            f"expected a path of this machine, got the address {shown(path)}; use fetched or published of gcnrec.storage.remote"
        )
    return Path(path)


def place_if_any(path: Given | None) -> Path | None:
    """`path` as `Path`, and None as None."""
    return None if path is None else place(path)


def neither(name: str, value: object) -> str:
    """The sentence about a value of `name` that is neither a path nor a table, such as a lazy frame of Polars or a list."""
    is_lazy = callable(getattr(value, "collect", None))
    remedy = "pass what its .collect() returns" if is_lazy else "make it one by pyarrow.table({'name': values, ...})"
    return f"{name} expects a path, or a table with __arrow_c_stream__, got {type(value).__name__}; {remedy}"
