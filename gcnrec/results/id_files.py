"""Small files of ids that come with a command: users to serve, items, candidate pairs, segments. Parquet or CSV.

A column is found by the obvious name (`user`, `item`), by the name it had when the data set was ingested, or because it
is the only one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from gcnrec.errors import DataError, first_line
from gcnrec.interactions import Vocabulary
from gcnrec.loaders.schema import Dataset


@dataclass(frozen=True, slots=True)
class IdColumn:
    """What a file calls a kind of id: `names`, most likely first; `vocabulary` gives the type ids are read as."""

    names: tuple[str, ...]
    vocabulary: Vocabulary

    @property
    def type(self) -> pa.DataType:
        kind = self.vocabulary.ids.type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def find(self, table: pa.Table) -> str | None:
        return next((name for name in self.names if name in table.column_names), None)


def columns_of(dataset: Dataset) -> tuple[IdColumn, IdColumn]:
    """User ids and item ids: columns called `user` and `item`, or as in the data that the dataset was ingested from."""
    given = dataset.info.get("data", {})

    def names(role: str) -> tuple[str, ...]:
        original = given.get(role)
        return tuple(dict.fromkeys(name for name in (role, original, original and original.rsplit(".", 1)[-1]) if name))

    return IdColumn(names("user"), dataset.user_ids), IdColumn(names("item"), dataset.item_ids)


def read_table(path: Path, *columns: IdColumn) -> pa.Table:
    """A Parquet or CSV (`.csv`, with a header) file; `columns` of a CSV are read as their vocabulary's type, never guessed.

    Raises DataError when the file is missing, empty or damaged.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        table = _read_csv(path, columns) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except (OSError, pa.ArrowException) as problem:
        raise DataError(f"{path} must be Parquet, or CSV with a header in UTF-8 ending in .csv ({first_line(problem)})") from None
    if table.num_rows == 0:
        raise DataError(f"{path} holds no rows; leave the option out, or name the file that was meant")
    return table


def ids_of(path: Path, table: pa.Table, column: IdColumn) -> pa.ChunkedArray:
    """The ids of `column` in the vocabulary's type; nulls are refused. A column that is the only one may have any name."""
    name = column.find(table)
    if name is None and table.num_columns == 1:
        name = table.column_names[0]
        if _is_known(name, column):
            raise DataError(f"{path} must begin with a header, its first line is the id {name!r}; add a line {column.names[0]!r}")
    if name is None:
        wanted = " or ".join(map(repr, column.names))
        raise DataError(f"{path} must have a column {wanted}, it has {', '.join(map(repr, table.column_names))}; rename one")
    ids = table.column(name)
    if ids.null_count:
        raise DataError(f"{path}: ids must not be null, {ids.null_count} of column {name!r} are; drop them")
    try:
        return ids.cast(column.type)
    except pa.ArrowException as problem:
        reason = first_line(problem)
        raise DataError(f"{path}: column {name!r} of type {ids.type} must hold {column.type} ids ({reason})") from None


def _is_known(text: str, column: IdColumn) -> bool:
    try:
        return bool(column.vocabulary.numbers(pa.array([text])) >= 0)
    except DataError:
        return False


def _read_csv(path: Path, columns: tuple[IdColumn, ...]) -> pa.Table:
    with csv.open_csv(path) as reader:
        names = reader.schema.names
    types = {name: column.type for column in columns for name in column.names}
    if len(names) == 1 and len(columns) == 1:
        types[names[0]] = columns[0].type
    return csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types))
