"""Tables in memory as input: each becomes a Parquet file in scratch, and is read like any other file.

Messages name the key, such as `memory://train`, and never the file. dataset.json has an entry for each table in place of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.config import Data
from gcnrec.config.data import IN_MEMORY, InMemory
from gcnrec.errors import DataError, GcnrecError, first_line
from gcnrec.integrity.digests import sha256_of
from gcnrec.storage.places import ArrowStream

ONLY_COLUMN = "id"
"""What a column is called that came alone, and so without a name."""
_GROUP_ROWS = 131_072
"""Rows of a row group, whatever batches a table comes in."""
_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index without a name, which a selection of rows has: row numbers, no column of the user's."""


@dataclass(frozen=True, slots=True)
class Written:
    """`data` with a file of `folder` for each table, and by key the `entries` of dataset.json: rows, schema and sha256."""

    data: Data
    folder: Path
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def file(self, key: str) -> Path:
        """The file of the table that `key` was given."""
        return self.folder / f"{key}.parquet"

    @property
    def files(self) -> dict[str, Path]:
        """The files of all tables, by key."""
        return {key: self.file(key) for key in self.entries}

    def named(self, text: str) -> str:
        """`text` with `memory://KEY` for the file of a table."""
        return _named(text, self.files)

    def recorded(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What dataset.json says of the input: under `inputs` the files that are no table's, under `tables` the tables."""
        files = {"inputs": {key: each for key, each in inputs.items() if key not in self.entries}}
        return files | ({"tables": self.entries} if self.entries else {})


@contextmanager
def written(data: Data, folder: Path) -> Iterator[Written]:
    """The tables of `data` as files in `folder`, which is there. Errors inside the block name keys in place of these files.

    Raises DataError for a table that is no stream of Arrow, or that Parquet cannot hold.
    """
    made = Written(data, folder.resolve())
    for key, table in data.tables.items():
        made.entries[key] = _write(table, f"data.{key}", made.file(key))
    with keys_named(made.files):
        yield replace(made, data=data.model_copy(update={key: str(file) for key, file in made.files.items()}))


@contextmanager
def keys_named(files: Mapping[str, Path]) -> Iterator[None]:
    """Errors inside the block name `memory://KEY` in place of the file of a table."""
    try:
        yield
    except GcnrecError as problem:
        if (text := _named(str(problem), files)) == str(problem):
            raise
        raise type(problem)(text) from None


def _named(text: str, files: Mapping[str, Path]) -> str:
    for key, file in files.items():
        text = text.replace(str(file), f"{IN_MEMORY}{key}")
    return text


def _write(table: InMemory, name: str, path: Path) -> dict[str, Any]:
    """Write a table, and return its entry of dataset.json.

    `sha256` is that of the Parquet file. Equal rows in columns of equal types have equal ones, by one version of pyarrow.
    """
    rows, schema = write_stream(table.stream, name, path)
    return {"rows": rows, "schema": {each.name: str(each.type) for each in schema}, "sha256": sha256_of(path)}


def write_stream(stream: ArrowStream, name: str, path: Path) -> tuple[int, pa.Schema]:
    """Write a table to the Parquet file `path`; returns its number of rows and its schema.

    Raises DataError with `name` for what is no stream of Arrow, or what Parquet cannot hold.
    """
    with _explained(name):
        reader = _reader(stream)
        names = [each for each in reader.schema.names if not _INDEX.fullmatch(each)]
        schema = pa.schema([(each, _plain(reader.schema.field(each).type)) for each in names])
        file, rows = pq.ParquetWriter(path, schema, compression="zstd"), 0
    with file as writer:
        for group in _even(_batches(reader, name)):
            with _explained(name):
                # copy: rows of a group in one piece, so that the file does not depend on the batches of the stream
                whole = group.select(names).cast(schema).combine_chunks()
            writer.write_table(whole, row_group_size=_GROUP_ROWS)
            rows += len(group)
    return rows, schema


def _reader(stream: ArrowStream) -> pa.RecordBatchReader:
    """The rows of a table. A column alone, such as a Series, is a table of it."""
    try:
        return pa.RecordBatchReader.from_stream(stream)
    except pa.ArrowInvalid:  # a stream of columns that are no structs
        return pa.table({ONLY_COLUMN: pa.chunked_array(stream)}).to_reader()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """DataError for whatever the library behind a stream raises. Lack of memory passes."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as problem:
        raise DataError(
            f"{name} must be a table that Arrow can read and Parquet can hold ({first_line(problem)}); correct it, or write it "
            "as Parquet and name the file"
        ) from None


def _batches(reader: pa.RecordBatchReader, name: str) -> Iterator[pa.RecordBatch]:
    """The batches of a stream."""
    while True:
        with _explained(name):
            # copy: libraries that hold rows in another form convert them here, a batch at a time where they can
            batch = next(reader, None)
        if batch is None:
            return
        yield batch


def _even(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows of a stream, `_GROUP_ROWS` at a time; the last table has the rest, and an empty stream gives none."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        while held + len(batch) >= _GROUP_ROWS:
            cut = _GROUP_ROWS - held
            yield pa.Table.from_batches([*waiting, batch.slice(0, cut)])
            batch, waiting, held = batch.slice(cut), [], 0
        if len(batch):
            waiting.append(batch)
            held += len(batch)
    if waiting:
        yield pa.Table.from_batches(waiting)


def _plain(kind: pa.DataType) -> pa.DataType:
    """`kind` without views of text and bytes, in which Polars hands out columns, and which readers of Parquet do not know."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _plain(kind.value_type), kind.ordered)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(each.name, _plain(each.type)) for each in kind])
    return kind
