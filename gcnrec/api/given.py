"""Tables in memory where files of ids and rows are expected: each is a Parquet file while a call lasts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gcnrec.errors import UsageError
from gcnrec.loaders.files.in_memory import keys_named, write_stream
from gcnrec.storage.places import ArrowStream, Given, neither, place_if_any


@contextmanager
def as_files(given: Mapping[str, Given | None]) -> Iterator[dict[str, Path | None]]:
    """Each value as the path of a file, and None as None. Errors inside the block name `memory://KEY` for a table.

    A table lies as Parquet in the folder of temporary files until the end of the block.
    Raises UsageError for what is neither a path nor a table, DataError for a table that Parquet cannot hold.
    """
    with TemporaryDirectory(prefix="gcnrec-") as folder:
        tables = {key: value for key, value in given.items() if isinstance(value, ArrowStream)}
        files = {key: Path(folder) / f"{key}.parquet" for key in tables}
        paths = {key: files.get(key) or _path(key, value) for key, value in given.items()}
        for key, table in tables.items():
            write_stream(table, key, files[key])
        with keys_named(files):
            yield paths


def _path(key: str, value: Given | None) -> Path | None:
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise UsageError(neither(key, value))
    return place_if_any(value)
