"""Small files of ids that come with a command: users to serve, items, candidate pairs, segments. Parquet or CSV.

A column is found by the obvious name (`user`, `item`), by the name it had when the data set was ingested, or because it
is the only one of a file that needs no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from gcnrec.errors import DataError, first_line
from gcnrec.ids.id_types import as_ids, from_text, held
from gcnrec.interactions import Vocabulary
from gcnrec.loaders.schema import Dataset


@dataclass(frozen=True, slots=True)
class IdColumn:
    """What a file calls a kind of id: `names`, most likely first; `vocabulary` gives the type ids are read as.

    `others`: what it calls the other kind. An only column with such a name is not taken.
    """

    names: tuple[str, ...]
    vocabulary: Vocabulary
    others: tuple[str, ...]

    def find(self, table: pa.Table) -> str | None:
        return next((name for name in self.names if name in table.column_names), None)


def columns_of(dataset: Dataset) -> tuple[IdColumn, IdColumn]:
    """User ids and item ids: columns called `user` and `item`, or as in the data that the dataset was ingested from."""
    given = dataset.info.get("data", {})

    def names(role: str) -> tuple[str, ...]:
        original = given.get(role)
        return tuple(dict.fromkeys(name for name in (role, original, original and original.rsplit(".", 1)[-1]) if name))

    users, items = names("user"), names("item")
    return IdColumn(users, dataset.user_ids, others=items), IdColumn(items, dataset.item_ids, others=users)


def read_table(path: Path) -> pa.Table:
    """A Parquet or CSV (`.csv`, with a header) file; the columns of a CSV are text, for `ids_of` to read, and never guessed.

    Raises DataError when the file is missing, empty or damaged, has two columns of one name, and for held-out pairs of a dataset
    folder: node numbers, no ids.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    if path.name in ("valid.parquet", "test.parquet") and (path.parent / "dataset.json").is_file():
        raise DataError(
            f"{path} must hold ids, it belongs to a dataset folder and holds node numbers; "
            f"take the ids by number from {path.parent / 'users.parquet'} and {path.parent / 'items.parquet'}"
        )
    try:
        table = _read_csv(path) if _is_csv(path) else pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as problem:
        raise DataError(f"{path} must be Parquet, or CSV with a header in UTF-8 ending in .csv ({first_line(problem)})") from None
    twins = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twins:
        raise DataError(f"{path} must have each column once, {twins[0]!r} comes {twins.count(twins[0])} times; rename one")
    if table.num_rows == 0:
        raise DataError(f"{path} holds no rows; leave the option out, or name the file that was meant")
    return table


def ids_of(path: Path, table: pa.Table, column: IdColumn) -> pa.ChunkedArray:
    """The ids of `column` in the plain form of the vocabulary's type, or of a wider one that holds those beyond its range.

    A column that is the only one may have any name but one of the other kind of ids.
    Raises DataError where the column is absent, for nulls and for ids of another family.
    """
    name = column.find(table)
    if name is None and table.num_columns == 1 and table.column_names[0] not in column.others:
        name = table.column_names[0]
        if _is_known(name, column):
            raise DataError(f"{path} must begin with a header, its first line is the id {name!r}; add a line {column.names[0]!r}")
    if name is None:
        wanted, came = " or ".join(map(repr, column.names)), ", ".join(map(repr, table.column_names))
        raise DataError(f"{path} must have a column {wanted}, it has {came}; rename or add one")
    given, kind = table.column(name), column.vocabulary.type
    try:
        ids = from_text(given, kind) if _is_csv(path) else given
        absent = ids.null_count
        ids = ids if _is_csv(path) else as_ids(given, held(kind, given))
    except (pa.ArrowException, ValueError) as problem:
        reason = first_line(problem)
        came = "" if _is_csv(path) else f" of type {given.type}"
        raise DataError(f"{path}: column {name!r}{came} must hold {kind} ids ({reason})") from None
    if absent:
        raise DataError(f"{path}: ids must not be null, {absent} of column {name!r} are; drop them")
    return ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([ids])


def pair_ids_of(path: Path, table: pa.Table, users: IdColumn, items: IdColumn) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """The ids of both columns of a file of pairs, as `ids_of`. Raises DataError also for a file of a single column."""
    if table.num_columns == 1:
        raise DataError(
            f"{path} must have two columns, {users.names[0]!r} and {items.names[0]!r}, "
            f"it has only {table.column_names[0]!r}; add the other one"
        )
    return ids_of(path, table, users), ids_of(path, table, items)


def _is_known(text: str, column: IdColumn) -> bool:
    try:
        return bool(column.vocabulary.numbers(from_text(pa.array([text]), column.vocabulary.type)) >= 0)
    except ValueError:
        return False


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _read_csv(path: Path) -> pa.Table:
    with csv.open_csv(path) as reader:
        names = reader.schema.names
    return csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())))
