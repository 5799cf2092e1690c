"""Where a command writes its table, and as what: Parquet, CSV or JSON lines, by the ending of the name; in pieces."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from gcnrec.errors import DataError, UsageError
from gcnrec.ids.id_types import family, plain
from gcnrec.runs.paths import EVENTS, LINEAGE
from gcnrec.storage.files import atomic_file, next_folder
from gcnrec.storage.places import StrPath, place

Kind = Literal["parquet", "csv", "jsonl"]
_KINDS: dict[str, Kind] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_NOT_WRITTEN = (".json", ".tsv", ".txt", ".xlsx", ".xls", ".arrow", ".feather", ".orc", ".avro", ".gz", ".zip", ".zst", ".bz2")
_TEXT = pa.large_string()
Write = Callable[[pa.Table], None]


@dataclass(frozen=True, slots=True)
class Output:
    """A file to write; `force` replaces an existing file.

    Raises UsageError where something is there without `force`, and for a name that ends like a format that is not written.
    """

    path: Path
    force: bool = False

    def __post_init__(self) -> None:
        if self.path.suffix.lower() in _NOT_WRITTEN:
            raise UsageError(
                f"{self.path} must end in .parquet, .csv or .jsonl, {self.path.suffix} is not written; choose one of them"
            )
        if (owner := owner_of(self.path)) is not None and (self.path.exists() or self.path.suffix == ".lock"):
            raise UsageError(f"{self.path} is a file of {owner}, which is never overwritten; choose another --out")
        if self.path.exists() and not (self.force and self.path.is_file()):
            remedy = "choose another --out, or add --force" if self.path.is_file() else "choose another --out"
            raise UsageError(f"{self.path} exists and is never overwritten; {remedy}")

    def refuse_inputs(self, files: Iterable[Path | None]) -> None:
        """UsageError where the output is one of the `files` that the command reads: it would be lost."""
        for file in files:
            if file is not None and self.path.exists() and file.exists() and self.path.samefile(file):
                raise UsageError(f"{self.path} is read by this command, and would be lost; choose another --out")

    @classmethod
    def of(cls, out: StrPath | Output) -> Output:
        """An output as it is, or that of a path, which replaces nothing."""
        return out if isinstance(out, Output) else cls(place(out))

    @property
    def kind(self) -> Kind:
        """The format, by the ending of the name."""
        return _KINDS.get(self.path.suffix.lower(), "parquet")

    @property
    def scratch(self) -> Path:
        """A folder for working files, as the run's own may be read-only: that of the file, or the next one above it."""
        return next_folder(self.path.parent)

    @contextmanager
    def opened(self, schema: pa.Schema) -> Iterator[Write]:
        """What writes tables of `schema`, one after the other; the file appears whole or not at all."""
        with atomic_file(self.path) as path:
            match self.kind:
                case "parquet":
                    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                        yield writer.write_table
                case "csv":
                    words = pa.schema([(each.name, _in_csv(each)) for each in schema])
                    with csv.CSVWriter(str(path), words, write_options=csv.WriteOptions(quoting_style="needed")) as lines:
                        yield lambda table: lines.write_table(_as_words(table, words))
                case "jsonl":
                    with path.open("w", encoding="utf-8") as file:
                        yield lambda table: file.writelines(_json_lines(table))


@dataclass(frozen=True, slots=True)
class Gathered(Output):
    """Takes what would be written into memory: `tables`. `path` is the run's folder, for scratch if it is writable."""

    tables: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is overwritten here."""

    @property
    def scratch(self) -> Path:
        """The run's folder, or where it is read-only, the folder of this system's temporary files."""
        return self.path if os.access(self.path, os.W_OK) else Path(tempfile.gettempdir())

    @contextmanager
    def opened(self, schema: pa.Schema) -> Iterator[Write]:
        """What keeps tables of `schema`."""
        self.tables.append(schema.empty_table())
        yield self.tables.append

    @property
    def table(self) -> pa.Table:
        """All that was written, in its order."""
        return pa.concat_tables(self.tables)


def owner_of(path: Path) -> Path | None:
    """The dataset or run folder that a file belongs to; lists next to a run's own files are not the run's."""
    for folder in (path.parent, path.parent.parent):
        if (folder / "dataset.json").is_file():
            return folder
        if (folder / LINEAGE).is_file():
            own = path.parent != folder or path.suffix not in (".parquet", ".csv", ".jsonl") or path.name == EVENTS
            return folder if own or path.name.startswith("per_user") else None
    return None


def _in_csv(field: pa.Field) -> pa.DataType:
    """The type as which CSV holds a column: numbers as they are, all others as text."""
    kind = field.type
    return kind if pa.types.is_integer(kind) or pa.types.is_floating(kind) else _TEXT


def _as_words(table: pa.Table, words: pa.Schema) -> pa.Table:
    columns = []
    for column, each in zip(table.columns, words, strict=True):
        if pa.types.is_large_string(each.type):
            column = in_words(each.name, column)
            if pc.any(pc.match_substring_regex(column, "[\r\n]")).as_py():
                raise DataError(
                    f"column {each.name!r} holds a line break, and a row of CSV is one line; end --out in .parquet or .jsonl"
                )
        columns.append(column)
    return pa.table(columns, schema=words)


def in_words(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text, in the form in which files of ids are read. DataError for bytes that are no UTF-8."""
    values = column.cast(plain(column.type)) if not pa.types.is_integer(column.type) else column
    if family(column.type) == "UUIDs":
        return pa.chunked_array([pa.array([None if one is None else str(UUID(bytes=one)) for one in values.to_pylist()], _TEXT)])
    try:
        values = values.cast(pa.large_binary()) if pa.types.is_fixed_size_binary(values.type) else values
        words = values.cast(_TEXT)
        words.validate(full=True)
    except pa.ArrowInvalid:
        raise DataError(f"column {name!r} holds bytes that are no text; write Parquet: end --out in .parquet") from None
    return words


def _json_lines(table: pa.Table) -> Iterator[str]:
    """An object a line. Numbers have the fewest digits that give them back in their own width."""
    keys = [json.dumps(name, ensure_ascii=False) for name in table.column_names]
    columns = [_as_json(name, column) for name, column in zip(table.column_names, table.columns, strict=True)]
    for values in zip(*columns, strict=True):
        yield "{" + ", ".join(f"{key}: {value}" for key, value in zip(keys, values, strict=True)) + "}\n"


def _as_json(name: str, column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return ["null" if text is None else text for text in pc.cast(column, _TEXT).to_pylist()]
    return [json.dumps(text, ensure_ascii=False) for text in in_words(name, column).to_pylist()]
