"""What `pyarrow.dataset` can open: Parquet files, folders, globs, hive partitions and URIs, checked before use.

Files are read as streams of small batches: never a row group at a time, as a scan of `pyarrow.dataset` reads it, however large.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from gcnrec.config.toml import to_parquet
from gcnrec.errors import DataError, first_line, nearest
from gcnrec.loaders.files.common_types import Conflict, merged
from gcnrec.loaders.files.hive_keys import keys_of, parsed, types_of
from gcnrec.loaders.ingest.listing import Listing, listed

BATCH_ROWS = 131_072
_FEW_ROWS = 1024
"""Rows that are read at a time where only something wrong is looked for."""


@dataclass(frozen=True, slots=True)
class Input:
    """An opened Parquet input: `text` is how the user named it; `keys` are the columns that some path brings.

    `conflicts`: by the path of a column, the files that hold it in types which have none in common.
    """

    text: str
    dataset: ds.Dataset
    keys: frozenset[str]
    conflicts: Mapping[str, Conflict]

    def field(self, path: str) -> pa.Field:
        """The field at `path`; `a.b` is field b of struct a unless a column is really called so.

        Raises DataError where it is absent, and where files hold it in types which have none in common.
        """
        schema = self.dataset.schema
        known = {} if path in schema.names else dict(_leaves(schema))
        if path not in schema.names and path not in known:
            raise DataError(f"{self.text} has no column {path!r}{nearest(path, known)}")
        for conflict in self.conflicts.values():
            if _below(path, conflict.path) or _below(conflict.path, path):
                raise self.refused(conflict)
        return known.get(path) or schema.field(path)

    def refused(self, conflict: Conflict) -> DataError:
        """The error for a column that is needed and has no type in common."""
        (first, second), (a, b) = conflict.files, conflict.types
        remedy = f"declare --partition-type {conflict.path}=TYPE, or " if conflict.path in self.keys else ""
        return DataError(
            f"{self.text}: column {conflict.path!r} must have one type in all files, it is {a} in {first} and {b} in {second}; "
            f"{remedy}cast it in one of them"
        )

    def columns(self) -> list[tuple[str, pa.Field]]:
        """Paths and fields of all columns, also inside structs, in the order of their paths."""
        return sorted(_leaves(self.dataset.schema), key=lambda leaf: leaf[0])

    def expression(self, path: str) -> ds.Expression:
        return ds.field(path) if path in self.dataset.schema.names else ds.field(*path.split("."))

    def mean_row_bytes(self, paths: Sequence[str]) -> float:
        """Mean bytes of a row in the columns `paths`; see `bytes_and_rows`. DataError naming a file that is damaged."""
        size = rows = 0
        for fragment in self.dataset.get_fragments():
            try:
                more = bytes_and_rows(fragment, paths)
            except (OSError, pa.ArrowException) as problem:
                raise DataError(
                    f"{fragment.path} cannot be read ({first_line(problem)}); it may be truncated or damaged"
                ) from None
            size, rows = size + more[0], rows + more[1]
        return size / max(rows, 1)

    def schema_of(self, columns: dict[str, ds.Expression]) -> pa.Schema:
        """What `batches` yields."""
        return ds.InMemoryDataset(pa.Table.from_batches([], self.dataset.schema)).scanner(columns=columns).projected_schema

    def batches(
        self, columns: dict[str, ds.Expression], paths: Sequence[str], rows: int, most_bytes: float = math.inf
    ) -> Iterator[pa.RecordBatch]:
        """The columns in the order of the files and their rows, at most `rows` and about `most_bytes` at a time; see `stream`."""
        for fragment in self.dataset.get_fragments():
            yield from stream(self.dataset, fragment, columns, paths, Most(rows, most_bytes))

    def numbered(self, columns: dict[str, ds.Expression], paths: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatchReader]]:
        """Per file: its path and a stream of the columns with the row number inside the file as `gcnrec_row`."""
        schema = self.schema_of(columns).append(pa.field("gcnrec_row", pa.int64()))
        for fragment in self.dataset.get_fragments():
            batches = stream(self.dataset, fragment, columns, paths, Most(_FEW_ROWS))
            yield fragment.path, pa.RecordBatchReader.from_batches(schema, _with_row_numbers(batches, schema))

    def damaged_file(self, columns: dict[str, ds.Expression], paths: Sequence[str]) -> tuple[str, str] | None:
        """The first file whose columns cannot be read, and why."""
        for fragment in self.dataset.get_fragments():
            try:
                for _ in stream(self.dataset, fragment, columns, paths, Most(_FEW_ROWS)):
                    pass
            except (OSError, pa.ArrowException) as problem:
                return fragment.path, first_line(problem)
        return None


def open_input(text: str, base: Path | None = None, key_types: Mapping[str, pa.DataType] | None = None) -> Input:
    """Open `text`: a file, a folder (hive partitions become columns), a glob or a URI; relative paths start at `base`.

    A column of a file wins over `key=value` in its path; `key_types` declares types of such keys (`types_of` guesses others).
    A column that files hold in several types has their common one. Raises DataError when nothing is there, when a folder or glob
    holds no Parquet, naming a file that is damaged or empty, and for a key whose value has not its declared type.
    """
    listing = listed(text, base)
    try:
        files = [_opened(listing, info) for info in listing.infos]
        rows = sum(map(_rows, files))
        schemas = [(file.path, _schema_of(file)) for file in files]
        for file in files:
            _read_names(file)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as problem:
        for path in listing.files:
            _check_file(listing.filesystem, path)
        raise DataError(f"{text} cannot be read as Parquet ({first_line(problem)})") from None
    if rows == 0:
        raise DataError(f"{text} holds no rows; nothing can be ingested from it")
    for path, schema in schemas:
        if len(set(schema.names)) != len(schema.names):
            raise DataError(f"{path} has two columns of one name among {', '.join(schema.names)}; rename one")
    return _joined(listing, files, schemas, key_types or {})


def _opened(listing: Listing, info: fs.FileInfo) -> ds.ParquetFileFragment:
    fragment = ds.ParquetFileFormat().make_fragment(info.path, listing.filesystem, file_size=info.size)
    fragment.ensure_complete_metadata()
    return fragment


def _joined(
    listing: Listing,
    files: list[ds.ParquetFileFragment],
    schemas: list[tuple[str, pa.Schema]],
    key_types: Mapping[str, pa.DataType],
) -> Input:
    """The files as one input: keys of their paths where they lack such a column, and one type for each column."""
    values = []
    for path, schema in schemas:
        keys = keys_of(listing.inside(path))
        values.append({name: value for name, value in keys.items() if name not in schema.names})
    types = types_of(values, key_types)
    for (path, _), keys in zip(list(schemas), values, strict=True):
        schemas.append((f"the path of {path}", pa.schema([(name, types[name]) for name in keys])))
    schema, conflicts = merged(schemas)
    parts = []
    for file, keys in zip(files, values, strict=True):
        scalars = {name: parsed(file.path, name, text, types[name]) for name, text in keys.items()}
        parts.append(_with_keys(file, scalars))
    dataset = ds.FileSystemDataset(parts, schema, ds.ParquetFileFormat(), listing.filesystem)
    return Input(listing.text, dataset, frozenset(types), conflicts)


def _with_keys(file: ds.ParquetFileFragment, keys: Mapping[str, pa.Scalar]) -> ds.ParquetFileFragment:
    equal = [ds.field(name) == value if value.is_valid else ds.field(name).is_null() for name, value in keys.items()]
    if not equal:
        return file
    return ds.ParquetFileFormat().make_fragment(file.path, file.filesystem, partition_expression=reduce(and_, equal))


def _schema_of(file: ds.ParquetFileFragment) -> pa.Schema:
    """The columns of a file. UUIDs are UUIDs whoever wrote them: Arrow's own files note its type, others only Parquet's."""
    columns = map(file.metadata.schema.column, range(len(file.metadata.schema)))
    uuids = {column.path for column in columns if column.logical_type.type == "UUID"}
    if not uuids:
        return file.physical_schema
    return pa.schema([field.with_type(_with_uuids(field.name, field.type, uuids)) for field in file.physical_schema])


def _with_uuids(path: str, kind: pa.DataType, uuids: set[str]) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_uuids(f"{path}.{field.name}", field.type, uuids)) for field in kind])
    return pa.uuid() if path in uuids and pa.types.is_fixed_size_binary(kind) else kind


def _read_names(file: ds.ParquetFileFragment) -> None:
    """Read every column name, so that a damaged name that is no UTF-8 fails here and nowhere else."""
    list(_leaves(file.physical_schema))
    schema = file.metadata.schema
    for number in range(len(schema)):
        schema.column(number).path  # noqa: B018


def _rows(fragment: ds.ParquetFileFragment) -> int:
    fragment.ensure_complete_metadata()
    return int(fragment.metadata.num_rows)


def _check_file(filesystem: fs.FileSystem, path: str) -> None:
    try:
        _rows(ds.ParquetFileFormat().make_fragment(path, filesystem))
    except (OSError, pa.ArrowException) as problem:
        reason = "it is empty" if filesystem.get_file_info(path).size == 0 else first_line(problem)
        is_table = path.endswith((".csv", ".tsv", ".txt"))
        remedy = f"write it as Parquet by {to_parquet(Path(path))}" if is_table else "it may be truncated or damaged"
        raise DataError(f"{path} is not a readable Parquet file ({reason}); {remedy}") from None


def _with_row_numbers(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in batches:
        numbers = pa.array(range(first, first + len(batch)), pa.int64())
        first += len(batch)
        yield pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=schema)


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.Field]]:
    pending = [(field.name, field) for field in schema]
    while pending:
        path, field = pending.pop()
        yield path, field
        if pa.types.is_struct(field.type):
            pending += [(f"{path}.{inner.name}", inner) for inner in field.type]


_BUFFER = 2**18
"""Bytes of a column that are read at a time."""


_VALUE_BYTES = 16
"""What a value is taken to have at least: one of a dictionary, or of a run of equal ones, takes less in the file."""


_TIMES_MOST = 4
"""Batches may be that much larger than wanted: only row groups that are heavier than the others get smaller ones."""


@dataclass(frozen=True, slots=True)
class Most:
    """How much may be read at a time: `rows`, and `nbytes` before compression, by the metadata of the file."""

    rows: int
    nbytes: float = math.inf


def stream(
    dataset: ds.Dataset, fragment: ds.ParquetFileFragment, columns: dict[str, ds.Expression], paths: Sequence[str], most: Most
) -> Iterator[pa.RecordBatch]:
    """`columns` of one file of `dataset`, in the order of its rows, at most `most` of them at a time.

    `paths` names what the expressions read, `a.b` a field of a struct; other columns are not read. At hand are a batch and, for
    each column, a page of the file and its dictionary.
    """
    with fragment.filesystem.open_input_file(fragment.path) as source:
        file = pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False)
        present = [path for path in dict.fromkeys(paths) if _holds(file, path)]
        for groups, rows in _portions(file, present, most):
            # Without any column, a batch would not know its rows.
            read = present or [file.schema.column(0).path]
            for batch in file.iter_batches(rows, row_groups=groups, columns=read, use_threads=False):
                whole = _completed(batch, dataset.schema, fragment, paths)
                table = ds.InMemoryDataset(whole).to_table(columns=columns, use_threads=False)
                yield from table.combine_chunks().to_batches()


def _portions(file: pq.ParquetFile, present: list[str], most: Most) -> Iterator[tuple[list[int], int]]:
    """Row groups to read together, and rows at a time: fewer where a group has more bytes a row than `most` allows."""
    if most.nbytes == math.inf:
        yield list(range(file.num_row_groups)), most.rows
        return
    groups: list[int] = []
    for number in range(file.num_row_groups):
        size, count = _group_size(file, number, present)
        if most.rows * size <= _TIMES_MOST * most.nbytes * count:
            groups.append(number)
            continue
        if groups:
            yield groups, most.rows
        yield [number], max(int(most.nbytes * count / size), 1)
        groups = []
    if groups:
        yield groups, most.rows


def bytes_and_rows(fragment: ds.ParquetFileFragment, paths: Sequence[str]) -> tuple[int, int]:
    """Bytes of the columns `paths` of a file before compression, by its metadata, and its rows; repeated long texts take more.

    Raises OSError or ArrowException where the metadata is damaged.
    """
    size = rows = 0
    with fragment.filesystem.open_input_file(fragment.path) as source:
        file = pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False)
        present = [path for path in dict.fromkeys(paths) if _holds(file, path)]
        for number in range(file.num_row_groups):
            more = _group_size(file, number, present)
            size, rows = size + more[0], rows + more[1]
    return size, rows


def _group_size(file: pq.ParquetFile, number: int, present: list[str]) -> tuple[int, int]:
    """Bytes before compression of the columns `present` of a row group, and its rows; nothing without a column or row."""
    # Asked for what a damaged group says of a column, Arrow ends the process. When it reads one, it raises.
    if not present or next(file.iter_batches(1, row_groups=[number], columns=present, use_threads=False), None) is None:
        return 0, 0
    group = file.metadata.row_group(number)
    leaves = [leaf for leaf, path in enumerate(_leaf_paths(file)) if any(_below(path, each) for each in present)]
    sizes = [max(column.total_uncompressed_size, _VALUE_BYTES * column.num_values) for column in map(group.column, leaves)]
    return sum(sizes), group.num_rows


def _leaf_paths(file: pq.ParquetFile) -> list[str]:
    return [file.schema.column(number).path for number in range(len(file.schema.names))]


def _holds(file: pq.ParquetFile, path: str) -> bool:
    """Whether the file has a column, or columns of a struct, at `path`."""
    return any(_below(leaf, path) for leaf in _leaf_paths(file))


def _below(leaf: str, path: str) -> bool:
    return leaf == path or leaf.startswith(f"{path}.")


def _completed(batch: pa.RecordBatch, schema: pa.Schema, fragment: ds.Fragment, paths: Sequence[str]) -> pa.RecordBatch:
    """The batch in the types of the whole data set, with the partition's values, and nulls for columns that this file lacks."""
    partition = ds.get_partition_keys(fragment.partition_expression)
    names = [name for name in schema.names if any(_below(path, name) for path in paths)]
    columns = []
    for name in names:
        kind = schema.field(name).type
        if name in batch.schema.names:
            columns.append(_cast(batch.column(batch.schema.get_field_index(name)), kind))
        elif name in partition:
            columns.append(pa.repeat(_key_scalar(partition[name]).cast(kind), len(batch)))
        else:
            columns.append(pa.nulls(len(batch), kind))
    return pa.RecordBatch.from_arrays(columns, names)


def _key_scalar(value: object) -> pa.Scalar:
    """The value of a partition key; of integers, pyarrow guesses signed types alone."""
    return pa.scalar(value, pa.uint64() if isinstance(value, int) and value >= 2**63 else None)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as `kind`; fields of a struct go by name, and are null where absent or not requested.

    What reads the batches later believes their schema: a struct of another layout would be read as other fields.
    """
    if column.type == kind:
        return column
    if not (pa.types.is_struct(kind) and pa.types.is_struct(column.type)):
        return column.cast(kind)
    own = {field.name: number for number, field in enumerate(column.type)}
    children = [
        _cast(pc.struct_field(column, [own[field.name]]), field.type) if field.name in own else pa.nulls(len(column), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=column.is_null())
