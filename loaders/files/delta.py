"""Delta tables: which files count in the current version, and what their partitions are (Delta transaction log protocol).

Rows are read from the Parquet files as from any folder. What a log says beyond names of files is therefore refused: rows that
a deletion vector marks as deleted, columns under other names, partitions that paths do not show, files outside the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from gcnrec.errors import DataError, first_line, install
from gcnrec.loaders.files.hive_keys import keys_of, parsed

EXPORT = "in DuckDB: COPY (FROM delta_scan('{}')) TO 'plain.parquet'"
"""How a table becomes plain Parquet."""
_MAPPING = "delta.columnMapping.mode"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The current version of a table: `paths` of its files below the table's folder, and the types of its partition columns."""

    paths: tuple[str, ...]
    key_types: Mapping[str, pa.DataType]


def snapshot(place: str) -> Snapshot:
    """The current version of the Delta table at a folder or URI.

    Raises DataError where the extra is missing, where the log cannot be read, and for a table of which plain reading of its files
    would give other rows or columns.
    """
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise DataError(
            f"{place} is a Delta table, whose log says which files count, and deltalake is not installed; {install('delta')}, or "
            f"export its current version ({EXPORT.format(place)})"
        ) from None
    try:
        table = DeltaTable(place)
        _refuse_mapped(place, table.metadata().configuration)
        _refuse_deleted(place, table)
        files = pa.table(table.get_add_actions(flatten=True))
    except (DeltaError, OSError) as problem:
        raise DataError(
            f"{place} is a Delta table whose log cannot be read ({first_line(problem)}); repair it, or export its rows as Parquet"
        ) from None
    if not len(files):
        raise DataError(f"{place} is a Delta table without a file in its current version; name a table with rows")
    keys = {name.removeprefix("partition."): name for name in files.column_names if name.startswith("partition.")}
    return Snapshot(tuple(_paths(place, files, keys)), {name: files.schema.field(column).type for name, column in keys.items()})


def _refuse_mapped(place: str, configuration: Mapping[str, str | None]) -> None:
    mode = configuration.get(_MAPPING) or "none"
    if mode != "none":
        raise DataError(
            f"{place} is a Delta table whose columns have other names in its files ({_MAPPING} = {mode}), and files are read as "
            f"they are; export its current version ({EXPORT.format(place)}) and name what comes of it"
        )


def _refuse_deleted(place: str, table: Any) -> None:
    # Whether or not the protocol names the feature: a log is not this machine's.
    if any(len(batch) for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors())):
        raise DataError(
            f"{place} is a Delta table with deletion vectors: its files hold rows that were deleted, and files are read whole; "
            f"purge them (in Spark: REORG TABLE delta.`{place}` APPLY (PURGE)), or export its current version "
            f"({EXPORT.format(place)})"
        )


def _paths(place: str, files: pa.Table, keys: Mapping[str, str]) -> Iterator[str]:
    """The path of each file. DataError for one outside the table, or whose folders do not show its partition."""
    columns = {name: files.column(column).combine_chunks() for name, column in keys.items()}
    for number, text in enumerate(files.column("path").to_pylist()):
        path = unquote(text)
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "://" in path:
            raise DataError(
                f"{place} is a Delta table that counts the file {path}, which lies elsewhere; export its current version "
                f"({EXPORT.format(place)}) and name what comes of it"
            )
        shown = keys_of(path)
        for name, column in columns.items():
            if name not in shown or not parsed(path, name, shown[name], column.type).equals(column[number]):
                raise DataError(
                    f"{place} is a Delta table whose file {path} must lie below a folder {name}=VALUE with the value of its log; "
                    f"export its current version ({EXPORT.format(place)}) and name what comes of it"
                )
        yield path
