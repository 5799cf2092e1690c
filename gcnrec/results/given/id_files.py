"""Files of ids that come with a command: users to serve, items, candidate pairs, segments. Parquet, or CSV, also from a pipe.

A column is found by the obvious name (`user`, `item`), by the name it had when the data set was ingested, or because it
is the only one of a file that needs no other. A file is read once, in pieces, and only the columns that are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.errors import DataError, first_line, reading
from gcnrec.ids.id_types import as_ids, from_text, held
from gcnrec.interactions import Vocabulary
from gcnrec.loaders.schema import Dataset
from gcnrec.results.given.text_tables import TextTable, open_text
from gcnrec.storage.streams import check_regular, is_pipe

_BATCH_ROWS = 2**16
_SHOWN = 200
_PARQUET = (".parquet", ".parq", ".pq")
_REMEDY = "give Parquet, or CSV with a header in UTF-8 ending in .csv"


@dataclass(frozen=True, slots=True)
class IdColumn:
    """What a file calls a kind of id: `names`, most likely first; `vocabulary` gives the type ids are read as.

    `others`: what it calls the other kind. An only column with such a name is not taken.
    """

    names: tuple[str, ...]
    vocabulary: Vocabulary
    others: tuple[str, ...]

    def find(self, names: Sequence[str]) -> str | None:
        return next((name for name in self.names if name in names), None)


def columns_of(dataset: Dataset) -> tuple[IdColumn, IdColumn]:
    """User ids and item ids: columns called `user` and `item`, or as in the data that the dataset was ingested from."""
    given = dataset.info.get("data", {})

    def names(role: str) -> tuple[str, ...]:
        original = given.get(role)
        return tuple(dict.fromkeys(name for name in (role, original, original and original.rsplit(".", 1)[-1]) if name))

    users, items = names("user"), names("item")
    return IdColumn(users, dataset.user_ids, others=items), IdColumn(items, dataset.item_ids, others=users)


@dataclass(frozen=True, slots=True)
class IdTable:
    """An opened file: the `names` of its columns; `batches` gives some of them in pieces, once."""

    path: Path
    names: list[str]
    is_text: bool
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]

    def ids(self, column: IdColumn) -> pa.ChunkedArray:
        """The ids of `column` in the plain form of the vocabulary's type, or of a wider type for ids beyond its range.

        A column that is the only one may have any name but one of the other kind of ids.
        Raises DataError where the column is absent, for nulls and for ids of another family.
        """
        return self._read({self.name_of(column): column.vocabulary.type})[0]

    def pairs(self, users: IdColumn, items: IdColumn) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """The ids of both columns of a file of pairs, as `ids`. Raises DataError also for a file of a single column."""
        user_ids, item_ids = self.pairs_with(users, items, ())
        return user_ids, item_ids

    def pairs_with(self, users: IdColumn, items: IdColumn, names: Sequence[str]) -> list[pa.ChunkedArray]:
        """As `pairs`, and the values of other columns as they are in the file, by one pass: a CSV may be a pipe."""
        if len(self.names) == 1:
            raise DataError(
                f"{self.path} must have two columns, {users.names[0]!r} and {items.names[0]!r}, "
                f"it has only {self.names[0]!r}; add the other one"
            )
        kinds = {self.name_of(column): column.vocabulary.type for column in (users, items)}
        if len(kinds) == 1:
            raise DataError(
                f"{self.path} must have columns of users and of items, {next(iter(kinds))!r} may be either; "
                f"call them {users.names[0]!r} and {items.names[0]!r}"
            )
        return self._read({**kinds, **dict.fromkeys(names)})

    def labelled(self, column: IdColumn, label: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """The ids of `column`, and the values of column `label` as they are in the file."""
        ids, labels = self._read({self.name_of(column): column.vocabulary.type, label: None})
        return ids, labels

    def with_columns(self, column: IdColumn, names: Sequence[str]) -> list[pa.ChunkedArray]:
        """The ids of `column`, and the values of other columns as they are in the file."""
        return self._read({self.name_of(column): column.vocabulary.type, **dict.fromkeys(names)})

    def name_of(self, column: IdColumn) -> str:
        """The name of the column that holds ids of `column`."""
        name = column.find(self.names)
        if name is None and len(self.names) == 1 and self.names[0] not in column.others:
            name = self.names[0]
            if _is_known(name, column):
                raise DataError(
                    f"{self.path} must begin with a header, its first line is the id {name!r}; add a line {column.names[0]!r}"
                )
        if name is None:
            wanted, came = " or ".join(map(repr, column.names)), ", ".join(map(repr, self.names))[:_SHOWN]
            raise DataError(f"{self.path} must have a column {wanted}, it has {came}; rename or add one")
        return name

    def _read(self, kinds: dict[str, pa.DataType | None]) -> list[pa.ChunkedArray]:
        """The columns that `kinds` names, as ids of its types, or as they are where it has None."""
        parts: dict[str, list[pa.Array]] = {name: [] for name in kinds}
        absent = dict.fromkeys(kinds, 0)
        for batch in self.batches(list(kinds)):
            for name, kind in kinds.items():
                given = batch.column(batch.schema.names.index(name))
                part = given if kind is None else self._ids(name, given, kind)
                absent[name] += 0 if kind is None else part.null_count
                parts[name].append(part)
        if not any(map(len, parts[next(iter(kinds))])):
            raise DataError(f"{self.path} holds no rows; leave the option out, or name the file that was meant")
        for name, count in absent.items():
            if count:
                raise DataError(f"{self.path}: ids must not be null, {count} of column {name!r} are; drop them")
        return [_joined(parts[name], kind) for name, kind in kinds.items()]

    def _ids(self, name: str, given: pa.Array, kind: pa.DataType) -> pa.Array:
        try:
            return from_text(given, kind) if self.is_text else as_ids(given, held(kind, given))
        except (pa.ArrowException, ValueError) as problem:
            came = "" if self.is_text else f" of type {given.type}"
            reason = first_line(problem)[:_SHOWN]
            remedy = "; correct it" if self.is_text else ""  # of other files, the reason has one
            raise DataError(f"{self.path}: column {name!r}{came} must hold {kind} ids ({reason}){remedy}") from None


def _joined(parts: list[pa.Array], kind: pa.DataType | None) -> pa.ChunkedArray:
    """One column of all pieces, in the widest type of theirs."""
    if kind is not None and len({part.type for part in parts}) > 1:
        wide = held(kind, *parts)
        parts = [as_ids(part, wide) for part in parts]
    return pa.chunked_array(parts)


@contextmanager
def open_ids(path: Path) -> Iterator[IdTable]:
    """A Parquet file, or CSV with a header: a name that ends in `.csv`, or a pipe. No type of a CSV's columns is guessed.

    Raises DataError when the file is missing, empty or damaged, has two columns of one name, and for held-out pairs of a dataset
    folder: node numbers, no ids.
    """
    with reading(path, _REMEDY):
        if not path.exists():
            raise DataError(f"no such file: {path}; ids come in a file, Parquet or CSV with a header")
        is_text = path.suffix.lower() == ".csv" or (is_pipe(path) and path.suffix.lower() not in _PARQUET)
        _check_holds_ids(path)
    opened: AbstractContextManager[TextTable | _Parquet] = open_text(path) if is_text else _open_parquet(path)
    with opened as table:
        twins = [name for name in table.names if table.names.count(name) > 1]
        if twins:
            raise DataError(f"{path} must have each column once, {twins[0]!r} comes {twins.count(twins[0])} times; rename one")
        if not table.names:
            raise DataError(
                f"{path} must be Parquet, or CSV with a header, it is empty; leave the option out, or name another file"
            )
        yield IdTable(path, table.names, is_text, table.batches)


def _check_holds_ids(path: Path) -> None:
    if path.name in ("valid.parquet", "test.parquet") and (path.parent / "dataset.json").is_file():
        raise DataError(
            f"{path} must hold ids, it belongs to a dataset folder and holds node numbers; "
            f"take the ids by number from {path.parent / 'users.parquet'} and {path.parent / 'items.parquet'}"
        )


@dataclass(frozen=True, slots=True)
class _Parquet:
    path: Path
    file: pq.ParquetFile

    @property
    def names(self) -> list[str]:
        return list(self.file.schema_arrow.names)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The columns `names`, each value checked to be one of its type: text is UTF-8, an index lies in its dictionary."""
        read = self.file.iter_batches(_BATCH_ROWS, columns=list(names), use_threads=False)
        while True:
            with reading(self.path, _REMEDY), _damage_named(self.path):
                batch = next(read, None)
                if batch is None:
                    return
                for name in names:
                    self._check(name, batch.column(batch.schema.names.index(name)))
            yield batch

    def _check(self, name: str, values: pa.Array) -> None:
        try:
            values.validate(full=True)
        except pa.ArrowInvalid as problem:
            reason = first_line(problem)[:_SHOWN]
            raise DataError(
                f"{self.path}: column {name!r} holds values that are no {values.type} ({reason}); write it anew"
            ) from None


@contextmanager
def _open_parquet(path: Path) -> Iterator[_Parquet]:
    check_regular(path, "a Parquet file or CSV ending in .csv")
    with reading(path, _REMEDY), _damage_named(path):
        file = pq.ParquetFile(path)
        table = _Parquet(path, file)
        table.names  # noqa: B018 (may be no UTF-8)
    with file:
        yield table


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Makes a sentence of what Arrow raises for a file that is no Parquet, or is damaged. Lack of memory passes."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        if isinstance(problem, MemoryError) or getattr(problem, "errno", None):
            raise
        reason = first_line(problem)[:_SHOWN]
        raise DataError(
            f"{path} must be Parquet, or CSV with a header in UTF-8 ending in .csv ({reason}); write it anew"
        ) from None


def _is_known(text: str, column: IdColumn) -> bool:
    try:
        return bool(column.vocabulary.numbers(from_text(pa.array([text]), column.vocabulary.type)) >= 0)
    except (ValueError, pa.ArrowException):
        return False
