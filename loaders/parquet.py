"""Parquet in, dataset folder out. pyarrow opens the files, DuckDB finds the distinct ids and maps them, numba does the rest.

DuckDB works under the memory limit and spills inside the folder that is being written, which vanishes when anything fails.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import numpy as np
import pyarrow as pa

from gcnrec import interactions
from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError, nearest
from gcnrec.loaders.build import Staged, build, split_of
from gcnrec.loaders.columns import ITEM, RATING, TIME, USER, WEIGHT, Columns, read_columns
from gcnrec.loaders.features import Side, write_features
from gcnrec.loaders.heldout import Report
from gcnrec.loaders.inputs import BATCH_ROWS, Input, first_line, open_input
from gcnrec.loaders.recipe import recipe_of
from gcnrec.loaders.rows import Rows
from gcnrec.loaders.schema import Dataset, new_folder, open_dataset, seal
from gcnrec.loaders.scratch import Scratch, parse_bytes


def ingest(
    data: Data,
    out: Path,
    *,
    data_root: Path | None,
    name: str,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
    work: Callable[[str, int, int], None] | None = None,
) -> Dataset:
    """Read the files that `data` names (relative ones start at `data_root`) and write the dataset folder `out`.

    Memory beyond the vocabularies is bounded by `data.memory_limit`. Everything dropped is counted in
    dataset.json under `report` and told to `progress` as lines of text; `work` hears (what, rows read, rows in all) of each pass.
    Raises DataError for data that is not what it was declared to be and for a full disk; `out` is then untouched.
    """
    limit = parse_bytes(data.memory_limit)
    report = Report(progress, work)
    with new_folder(out, force) as folder:
        spill = folder / "scratch"
        spill.mkdir()
        scratch = Scratch(spill, limit)
        files = _open_all(data, data_root)
        with connect(spill, limit * 6 // 10) as connection:
            staged = _stage(connection, files, data, scratch, report)
        report.begin("splitting, numbering and writing")
        info = build(staged, data, folder, scratch, report)
        del staged
        features = _write_features(data, folder, data_root, scratch, report)
        for left in spill.iterdir():
            left.unlink()
        spill.rmdir()
        described = {
            "name": name,
            **info,
            **features,
            "seed": data.seed,
            "data": recipe_of(data, data_root),
            "report": report.entries,
        }
        seal(folder, described)
    dataset = open_dataset(out)
    report.say(
        f"{name}: {info['num_users']:,} users, {info['num_items']:,} items, {info['num_train']:,} train, "
        f"{info['num_valid']:,} validation and {info['num_test']:,} test interactions ({split_of(data)} split)"
    )
    return dataset


def _write_features(data: Data, folder: Path, data_root: Path | None, scratch: Scratch, report: Report) -> dict[str, Any]:
    sides: tuple[tuple[Side, str | None, str | None], ...] = (
        ("user", data.user_features, data.user),
        ("item", data.item_features, data.item),
    )
    return {
        f"{side}_features": write_features(folder, side, text, data_root, column, data.text_width, scratch, report)
        for side, text, column in sides
        if text and column
    }


@dataclass(frozen=True, slots=True)
class _File:
    """One input with its role (`train`, `valid`, `test`), columns and the SQL condition its rows must meet."""

    role: str
    source: Input
    columns: Columns
    condition: str

    @property
    def rows(self) -> int:
        return int(self.source.dataset.count_rows())


def _open_all(data: Data, data_root: Path | None) -> list[_File]:
    if not data.train:
        raise DataError("train must name a Parquet file, folder, glob or URI, it is unset; add --train")
    if data.test_from is not None and split_of(data) != "temporal":
        raise UsageError(
            f"test_from needs split = 'temporal' and time, the split is '{split_of(data)}'; add --time or leave it out"
        )
    files: list[_File] = []
    conditions = [f"({data.where})"] if data.where else []
    if data.rating and data.min_rating is not None:
        conditions.append(f"({RATING} >= {data.min_rating!r})")
    for role in ("train", "valid", "test"):
        text = getattr(data, role)
        if text:
            source = open_input(text, data_root)
            columns = read_columns(source, data, files[0].columns if files else None)
            files.append(_File(role, source, columns, " AND ".join(conditions) or "true"))
    return files


@contextmanager
def connect(spill: Path, limit: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB that keeps to `limit` bytes, spills into `spill` and downloads nothing."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{limit}B",
            "temp_directory": str(spill / "duckdb"),
            "threads": len(os.sched_getaffinity(0)),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        },
    )
    try:
        yield connection
    finally:
        connection.close()
        for left in (spill / "duckdb").glob("*"):
            left.unlink()
        if (spill / "duckdb").is_dir():
            (spill / "duckdb").rmdir()


def _stage(connection: duckdb.DuckDBPyConnection, files: list[_File], data: Data, scratch: Scratch, report: Report) -> Staged:
    """Provisional numbers for all ids (their sorted order), and every file's rows in these numbers."""
    for file in files:
        _check_condition(connection, file, data)
    ids = [_number_ids(connection, files, side, column, data, report) for side, column in (("users", USER), ("items", ITEM))]
    staged = {}
    for file in files:
        rows = _map_rows(connection, file, data, scratch, report)
        report.entries[f"rows_{file.role}"] = file.rows
        dropped = file.rows - len(rows)
        report.count(f"filtered_{file.role}", dropped, f"{{}} of {file.rows:,} {file.role} rows dropped by where or min_rating")
        if not len(rows):
            raise DataError(f"where or min_rating removes all {file.rows:,} rows of {file.source.text}; loosen the filter")
        staged[file.role] = rows
    first = files[0].columns
    return Staged(
        staged,
        ids[0].cast(first.user_type),
        ids[1].cast(first.item_type),
        first.ticks,
    )


def _number_ids(
    connection: duckdb.DuckDBPyConnection, files: list[_File], side: str, column: str, data: Data, report: Report
) -> pa.ChunkedArray:
    """Fill table `side` (id, n) with the distinct ids of all files by rising id; returns the ids in this order."""
    connection.execute(f"CREATE TABLE {side}_found (id {_sql_type(connection, files[0], column)})")
    for file in files:
        with _reading(connection, file, [column], data, report, f"finding {side} in {file.role}") as view:
            connection.execute(f"INSERT INTO {side}_found SELECT DISTINCT {column} FROM {view} WHERE {file.condition}")
    connection.execute(
        f"CREATE TABLE {side} AS SELECT id, (row_number() OVER (ORDER BY id) - 1)::UBIGINT AS n "
        f"FROM (SELECT DISTINCT id FROM {side}_found)"
    )
    connection.execute(f"DROP TABLE {side}_found")
    if _value(connection, f"SELECT count(*) FROM {side} WHERE id IS NULL"):
        _refuse(connection, files, data, column, f"{column} IS NULL", "holds nulls")
    found = _value(connection, f"SELECT count(*) FROM {side}")
    if found > interactions.MAX_NODES:
        raise DataError(f"{found:,} distinct {side} are more than the {interactions.MAX_NODES:,} that int32 can number")
    return connection.sql(f"SELECT id FROM {side} ORDER BY n").to_arrow_table().column("id")


def _map_rows(connection: duckdb.DuckDBPyConnection, file: _File, data: Data, scratch: Scratch, report: Report) -> Rows:
    """The rows of `file` that meet its condition, in provisional numbers, in any order."""
    extra = [column for column in (TIME, WEIGHT) if column in file.columns.expressions]
    query = (
        f"SELECT ((users.n << 32) | items.n)::UBIGINT AS pair {''.join(', ' + column for column in extra)} "
        f"FROM {{}} AS r JOIN users ON r.{USER} = users.id JOIN items ON r.{ITEM} = items.id WHERE {file.condition}"
    )
    rows = Rows(
        scratch.empty(file.rows, np.uint64),
        scratch.empty(file.rows, np.int64) if TIME in extra else None,
        scratch.empty(file.rows, np.float32) if WEIGHT in extra else None,
    )
    first = 0
    with _reading(connection, file, [USER, ITEM, *extra], data, report, f"reading {file.role}") as view:
        for batch in connection.sql(query.format(view)).to_arrow_reader(BATCH_ROWS):
            last = first + len(batch)
            for target, source, column in zip(rows.columns(), batch.columns, ("pair", *extra), strict=True):
                if source.null_count:
                    _refuse(connection, [file], data, column, f"{column} IS NULL", "holds nulls")
                values = source.to_numpy()
                if column == WEIGHT and not (np.isfinite(values).all() and (values >= 0).all()):
                    bad = f"NOT ({WEIGHT} >= 0 AND isfinite({WEIGHT}))"
                    _refuse(connection, [file], data, column, bad, "holds a negative or non-finite weight")
                target[first:last] = values
            first = last
    return rows.slice(0, first)


@contextmanager
def _reading(
    connection: duckdb.DuckDBPyConnection, file: _File, columns: list[str], data: Data, report: Report, what: str
) -> Iterator[str]:
    """A one-pass view over `columns` of `file` and what its condition needs; failures are told as DataErrors."""
    wanted = {
        name: expression
        for name, expression in file.columns.expressions.items()
        if name in columns or name not in (USER, ITEM, TIME, WEIGHT)
    }
    try:
        connection.register("rows_in", report.counted(file.source.reader(wanted), what, file.rows))
        yield "rows_in"
        connection.unregister("rows_in")
    except (duckdb.Error, pa.ArrowException, OSError) as problem:
        _explain(problem, file, wanted)
        raise


def _explain(problem: Exception, file: _File, wanted: dict[str, object]) -> None:
    """Raise the DataError behind a failed scan: a full disk, too little memory, or the file that cannot be read."""
    text = str(problem)
    if getattr(problem, "errno", None) == errno.ENOSPC or "No space left" in text or "max_temp_directory_size" in text:
        raise DataError(f"the disk is full while reading {file.source.text}; free some space or choose another --out") from None
    if isinstance(problem, duckdb.OutOfMemoryException):
        raise DataError(f"memory_limit is too small for {file.source.text} ({first_line(problem)}); raise it") from None
    damaged = file.source.damaged_file(wanted)
    if damaged:
        raise DataError(f"{damaged[0]} cannot be read ({damaged[1]}); it is damaged, or holds a value of another type") from None
    if isinstance(problem, duckdb.Error) and not isinstance(problem, duckdb.InternalException):
        raise DataError(f"{file.source.text} cannot be read with these columns and filters: {first_line(problem)}") from None


def _refuse(
    connection: duckdb.DuckDBPyConnection, files: list[_File], data: Data, column: str, condition: str, what: str
) -> NoReturn:
    """Raise the DataError that names the first file and row (from 0) where `condition` holds."""
    name = {USER: data.user, ITEM: data.item, TIME: data.time, WEIGHT: data.weight}.get(column)
    # A connection of its own: the scan that met the row may still be open.
    with closing(connection.cursor()) as cursor:
        for file in files:
            for path, reader in file.source.numbered(file.columns.expressions):
                cursor.register("rows_bad", reader)
                row = _value(cursor, f"SELECT min(gcnrec_row) FROM rows_bad WHERE {file.condition} AND {condition}")
                cursor.unregister("rows_bad")
                if row is not None:
                    place = f"first in row {row} of {path}"
                    raise DataError(f"column {name!r} {what}, {place}; drop such rows, for example with --where")
    raise DataError(f"column {name!r} of {files[0].source.text} {what}; drop such rows, for example with --where")


def _check_condition(connection: duckdb.DuckDBPyConnection, file: _File, data: Data) -> None:
    if not data.where:
        return
    schema = file.source.dataset.schema
    connection.register("rows_none", schema.empty_table())
    try:
        connection.execute(f"SELECT count(*) FROM rows_none WHERE ({data.where})").fetchall()
    except duckdb.BinderException as problem:
        unknown = first_line(problem).split('"')[1] if '"' in first_line(problem) else ""
        hint = nearest(unknown, schema.names) if unknown else ""
        raise DataError(f"where = {data.where!r} does not fit {file.source.text}: {first_line(problem)}{hint}") from None
    except duckdb.Error as problem:
        raise DataError(f"where = {data.where!r} is not an SQL condition: {first_line(problem)}") from None
    finally:
        connection.unregister("rows_none")


def _sql_type(connection: duckdb.DuckDBPyConnection, file: _File, column: str) -> str:
    kind = file.columns.user_type if column == USER else file.columns.item_type
    connection.register("rows_none", pa.table({"id": pa.array([], kind)}))
    described = _value(connection, "SELECT column_type FROM (DESCRIBE rows_none)")
    connection.unregister("rows_none")
    return str(described)


def _value(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    return connection.execute(query).fetchall()[0][0]
