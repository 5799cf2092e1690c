"""What `pyarrow.dataset` can open: Parquet files, folders, globs, hive partitions and URIs, checked before use.

Files are read as streams of small batches: never a row group at a time, as a scan of `pyarrow.dataset` reads it, however large.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import acero, fs

from gcnrec.config.toml import to_parquet
from gcnrec.errors import DataError, first_line, nearest, os_remedy, reading
from gcnrec.loaders.bounds.allowed import DEFAULT, Allowed
from gcnrec.loaders.bounds.footer import Footer, Group, footer_size
from gcnrec.loaders.bounds.pieces import has_dictionary, pieces
from gcnrec.loaders.bounds.weight import weigh
from gcnrec.loaders.files.common_types import Conflict, is_text, merged
from gcnrec.loaders.files.hive_keys import keys_of, parsed, types_of
from gcnrec.loaders.ingest.listing import Listing, listed

BATCH_ROWS = 131_072
_FEW_ROWS = 1024
"""Rows that are read at a time where only something wrong is looked for."""


@dataclass(frozen=True, slots=True)
class Input:
    """An opened Parquet input: `text` is how the user named it; `keys` are the columns that some path brings.

    `conflicts`: by the path of a column, the files that hold it in types which have none in common. `rows`: of all files.
    `sizes` remembers what `Wanted` does.
    """

    text: str
    dataset: ds.Dataset
    keys: frozenset[str]
    conflicts: Mapping[str, Conflict]
    rows: int
    allowed: Allowed
    sizes: dict[tuple[str, int, tuple[str, ...], Most], int] = field(default_factory=dict)

    def field(self, path: str) -> pa.Field:
        """The field at `path`; `a.b` is field b of struct a unless a column is really called so.

        Raises DataError where it is absent, and where files hold it in types which have none in common.
        """
        schema = self.dataset.schema
        if path not in schema.names:
            known = [leaf for leaf, _ in _leaves(schema)]
            if path not in known:
                raise DataError(f"{self.text} has no column {path!r}{nearest(path, known)}")
            if known.count(path) > 1:
                raise DataError(f"{self.text} has {known.count(path)} fields that {path!r} may mean; rename all but one")
        for conflict in self.conflicts.values():
            if _below(path, conflict.path) or _below(conflict.path, path):
                raise self.refused(conflict)
        return schema.field(path) if path in schema.names else dict(_leaves(schema))[path]

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
        """What reads the field at `path`."""
        return ds.field(*_steps(self.dataset.schema, path))

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

    def batch_rows(self, paths: Sequence[str], limit: int) -> int:
        """Rows to read at a time: as many as take a two-hundredth of the limit in the columns `paths`."""
        return int(max(min(limit / 200 / max(self.mean_row_bytes(paths), 16.0), BATCH_ROWS), 1))

    def schema_of(self, columns: dict[str, ds.Expression]) -> pa.Schema:
        """What `batches` yields."""
        return _projected(pa.Table.from_batches([], self.dataset.schema), columns).schema

    def batches(
        self, columns: dict[str, ds.Expression], paths: Sequence[str], rows: int, most_bytes: float = math.inf
    ) -> Iterator[pa.RecordBatch]:
        """The columns in the order of the files and their rows, at most `rows` and about `most_bytes` at a time; see `stream`."""
        for batches in self.by_file(columns, paths, rows, most_bytes).values():
            yield from batches

    def by_file(
        self, columns: dict[str, ds.Expression], paths: Sequence[str], rows: int, most_bytes: float = math.inf
    ) -> dict[str, Iterator[pa.RecordBatch]]:
        """What `batches` yields, by the path of each file. A file is opened when its first batch is asked for."""
        wanted = self._wanted(columns, paths, Most(rows, most_bytes))
        return {fragment.path: stream(wanted, fragment) for fragment in self.dataset.get_fragments()}

    def numbered(self, columns: dict[str, ds.Expression], paths: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatchReader]]:
        """Per file: its path and a stream of the columns with the row number inside the file as `gcnrec_row`."""
        schema = self.schema_of(columns).append(pa.field("gcnrec_row", pa.int64()))
        wanted = self._wanted(columns, paths, Most(_FEW_ROWS))
        for fragment in self.dataset.get_fragments():
            batches = stream(wanted, fragment)
            yield fragment.path, pa.RecordBatchReader.from_batches(schema, _with_row_numbers(batches, schema))

    def check(self, columns: dict[str, ds.Expression], paths: Sequence[str]) -> None:
        """Read the columns of all files. DataError naming the first file whose columns cannot be read."""
        wanted = self._wanted(columns, paths, Most(_FEW_ROWS))
        for fragment in self.dataset.get_fragments():
            for _ in stream(wanted, fragment):
                pass

    def _wanted(self, columns: dict[str, ds.Expression], paths: Sequence[str], most: Most) -> Wanted:
        return Wanted(self.dataset, columns, tuple(paths), most, self.allowed, self.sizes)


def open_input(
    text: str,
    base: Path | None = None,
    key_types: Mapping[str, pa.DataType] | None = None,
    allowed: Allowed = DEFAULT,
) -> Input:
    """Open `text`: a file, a folder (hive partitions become columns), a glob or a URI; relative paths start at `base`.

    See `open_files`. Raises DataError also where there are no rows.
    """
    source = open_files(text, base, key_types, allowed)
    if source.rows == 0:
        raise DataError(f"{text} holds no rows; nothing can be ingested from it")
    return source


def open_files(
    text: str,
    base: Path | None = None,
    key_types: Mapping[str, pa.DataType] | None = None,
    allowed: Allowed = DEFAULT,
) -> Input:
    """The files that `text` names as one input, which may have no rows.

    A column of a file wins over `key=value` in its path; `key_types` declares types of such keys (`types_of` guesses others).
    A column that files hold in several types has their common one. Raises DataError when nothing is there, when a folder or glob
    holds no Parquet, naming a file that is damaged or empty, and for a key whose value has not its declared type; DeviceError for
    a footer that takes more to parse than is `allowed`.
    """
    listing = listed(text, base)
    for info in listing.infos:
        _check_footer(listing.filesystem, info.path, allowed)
    try:
        rows, schemas = 0, list[tuple[str, pa.Schema]]()
        for info in listing.infos:
            file = _opened(listing, info)  # one at a time: what Arrow makes of a footer is large
            rows += int(file.metadata.num_rows)
            schema = _schema_of(file)
            # One object for equal ones: a folder of hundreds of files would hold as many copies.
            same = bool(schemas) and schema.equals(schemas[-1][1], check_metadata=True)
            schemas.append((file.path, schemas[-1][1] if same else schema))
            _read_names(file)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as problem:
        for path in listing.files:
            _check_file(listing.filesystem, path)
        raise DataError(f"{text} cannot be read as Parquet ({first_line(problem)})") from None
    for path, schema in schemas:
        if len(set(schema.names)) != len(schema.names):
            raise DataError(f"{path} has two columns of one name among {', '.join(schema.names)}; rename one")
    return Input(listing.text, *_joined(listing, schemas, {**listing.key_types, **(key_types or {})}), rows, allowed)


def _check_footer(filesystem: fs.FileSystem, path: str, allowed: Allowed) -> None:
    """Refuse a footer that Arrow should not parse: a large one, or one of columns that are nested too deeply."""
    try:
        with filesystem.open_input_file(path) as source:
            if size := footer_size(source):
                allowed.check_footer(path, size)
                Footer(source)
    except (OSError, pa.ArrowException) as problem:
        remedy = os_remedy(problem, "it may be truncated or damaged")
        raise DataError(f"{path} is not a readable Parquet file ({first_line(problem)}); {remedy}") from None


def _opened(listing: Listing, info: fs.FileInfo) -> ds.ParquetFileFragment:
    fragment = ds.ParquetFileFormat().make_fragment(info.path, listing.filesystem, file_size=info.size)
    fragment.ensure_complete_metadata()
    return fragment


def _joined(
    listing: Listing, schemas: list[tuple[str, pa.Schema]], key_types: Mapping[str, pa.DataType]
) -> tuple[ds.Dataset, frozenset[str], dict[str, Conflict]]:
    """The files as one data set: keys of their paths where they lack such a column, and one type for each column.

    Also which columns are keys, and the columns that have no type in common.
    """
    values = []
    for path, schema in schemas:
        keys = keys_of(listing.inside(path))
        values.append({name: value for name, value in keys.items() if name not in schema.names})
    types = types_of(values, key_types)
    for (path, _), keys in zip(list(schemas), values, strict=True):
        schemas.append((f"the path of {path}", pa.schema([(name, types[name]) for name in keys])))
    schema, conflicts = merged(schemas)
    parts = []
    for info, keys in zip(listing.infos, values, strict=True):
        scalars = {name: parsed(info.path, name, text, types[name]) for name, text in keys.items()}
        parts.append(_with_keys(listing, info, scalars))
    return ds.FileSystemDataset(parts, schema, ds.ParquetFileFormat(), listing.filesystem), frozenset(types), conflicts


def _with_keys(listing: Listing, info: fs.FileInfo, keys: Mapping[str, pa.Scalar]) -> ds.ParquetFileFragment:
    equal = [ds.field(name) == value if value.is_valid else ds.field(name).is_null() for name, value in keys.items()]
    together = reduce(and_, equal) if equal else None
    return ds.ParquetFileFormat().make_fragment(info.path, listing.filesystem, together, file_size=info.size)


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


def _check_file(filesystem: fs.FileSystem, path: str) -> None:
    try:
        ds.ParquetFileFormat().make_fragment(path, filesystem).ensure_complete_metadata()
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


def _steps(fields: Iterable[pa.Field], path: str) -> list[str]:
    """The names of columns and fields, from the outside in, that lead to the leaf `path`; empty where there is none."""
    for each in fields:
        if path == each.name:
            return [each.name]
    for each in fields:
        if pa.types.is_struct(each.type) and path.startswith(f"{each.name}."):
            inside = _steps(list(each.type), path.removeprefix(f"{each.name}."))
            if inside:
                return [each.name, *inside]
    return []


_BUFFER, _LEAST_BUFFER = 2**18, 2**12
"""Bytes of a column that are read from the disk at a time; fewer where there are many columns and little memory."""


_VALUE_BYTES = 16
"""What a value is taken to have at least: one of a dictionary, or of a run of equal ones, takes less in the file."""


_TIMES_MOST = 4
"""Batches may be that much larger than wanted: only row groups that are heavier than the others get smaller ones."""


_TIMES_WORST = 12
"""Batches may take that much more than wanted before they are cut: where values of a dictionary are as long as its longest."""


_DICTIONARY_COPIES = 3
"""Of a dictionary where a batch brings it: hashed while it is read, in the batch, and in the one before."""


@dataclass(frozen=True, slots=True)
class Most:
    """How much may be read at a time: `rows`, and `nbytes` before compression, by the metadata of the file."""

    rows: int
    nbytes: float = math.inf


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read of the files of `dataset`: `columns`, for which `paths` are read, at most `most` of them at a time.

    A path `a.b` names a field of a struct. `sizes` remembers rows at a time by file and row group.
    """

    dataset: ds.Dataset
    columns: dict[str, ds.Expression]
    paths: tuple[str, ...]
    most: Most
    allowed: Allowed
    sizes: dict[tuple[str, int, tuple[str, ...], Most], int]


def stream(wanted: Wanted, fragment: ds.ParquetFileFragment) -> Iterator[pa.RecordBatch]:
    """The columns of one file in the order of its rows. At hand are a batch and, for each column, a page and its dictionary.

    Raises DeviceError for a file that takes more to decode than is allowed; DataError naming the file where it is damaged, has
    fewer or more rows than its metadata says, or text that is no UTF-8.
    """
    with closing(_read(wanted, fragment)) as batches:
        while True:
            with _damage_named(fragment.path):
                batch = next(batches, None)
            if batch is None:
                break
            yield batch


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    """Makes a sentence of what Arrow raises for damage, naming the file. Lack of memory passes."""
    with reading(path, "it may be damaged, write it anew"):
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
            if isinstance(problem, MemoryError) or getattr(problem, "errno", None):
                raise
            why = f"({first_line(problem)}); it is damaged, or holds a value of another type"
            raise DataError(f"{path} cannot be read {why}") from None


def _read(wanted: Wanted, fragment: ds.ParquetFileFragment) -> Generator[pa.RecordBatch, None, None]:
    names = _prefixes(wanted.paths)
    fields = [each for each in wanted.dataset.schema if each.name in names]
    with fragment.filesystem.open_input_file(fragment.path) as source:
        present, groups = _present(source, wanted.paths)
        columns = max((len(group.chunks) for group in groups), default=0)
        file = pq.ParquetFile(source, buffer_size=_buffer(columns, wanted.allowed), pre_buffer=False)
        copies = _DICTIONARY_COPIES * any(has_dictionary(each.type) for each in file.schema_arrow if each.name in names)
        # Without any column, a batch would not know its rows.
        read = present or [file.schema.column(0).path]
        first = 0
        for numbers, rows in _portions(source, groups, wanted, fragment.path, copies):
            for batch in file.iter_batches(rows, row_groups=numbers, columns=read, use_threads=False):
                for piece in pieces(batch, _TIMES_MOST * wanted.most.nbytes, fragment.path, first, wanted.allowed):
                    _check_texts(piece, fragment.path)
                    whole = _completed(piece, fields, fragment)
                    table = _projected(pa.Table.from_batches([whole]), wanted.columns)
                    yield from table.combine_chunks().to_batches()
                first += len(batch)
        # Not of the fragment, which would keep what Arrow makes of the footer for as long as the data set lives.
        expected = file.metadata.num_rows
    if first != expected:
        raise DataError(f"{fragment.path} must hold {expected:,} rows by its metadata, it holds {first:,}; it is damaged")


def _check_texts(batch: pa.RecordBatch, path: str) -> None:
    """DataError for text that is no UTF-8, which neither Arrow nor DuckDB looks for."""
    for each, column in zip(batch.schema, batch.columns, strict=True):
        if not _holds_text(each.type):
            continue
        values = column.dictionary_decode() if pa.types.is_dictionary(each.type) else column
        if _is_ascii(values):
            continue
        try:
            values.validate(full=True)
        except pa.ArrowInvalid as problem:
            raise DataError(
                f"{path}: column {each.name!r} must hold text in UTF-8 ({first_line(problem)}); write it as UTF-8, or as binary"
            ) from None


def _is_ascii(values: pa.Array) -> bool:
    """Whether the bytes of plain text are ASCII, as most ids are: measured, found in a tenth of the time of `validate`."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return False
    _, ends, content = values.buffers()
    if not len(values) or content is None:
        return True
    whole = np.frombuffer(ends, np.int32 if pa.types.is_string(values.type) else np.int64)
    first, last = whole[values.offset], whole[values.offset + len(values)]
    return int(np.frombuffer(content, np.uint8)[first:last].max(initial=0)) < 128


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    inside = [kind.field(number).type for number in range(kind.num_fields)]
    return is_text(kind) or any(map(_holds_text, inside))


def _projected(table: pa.Table, columns: dict[str, ds.Expression]) -> pa.Table:
    """What `columns` make of a table. A scan of `pyarrow.dataset` would add columns of its own, such as `__filename`."""
    source = acero.Declaration("table_source", acero.TableSourceNodeOptions(table))
    project = acero.ProjectNodeOptions(list(columns.values()), list(columns))
    return acero.Declaration("project", project, [source]).to_table(use_threads=False)


def _present(source: pa.NativeFile, paths: Iterable[str]) -> tuple[list[str], list[Group]]:
    """The `paths` that a file has, which may be structs, and its row groups with their columns of values."""
    footer = Footer(source)
    held = _prefixes(leaf.path for leaf in footer.leaves)
    present = [path for path in dict.fromkeys(paths) if path in held]
    wanted = frozenset(present)
    return present, footer.groups(lambda leaf: not wanted.isdisjoint(_prefixes([leaf])))


def _prefixes(paths: Iterable[str]) -> set[str]:
    """The paths, and the paths of all structs around them."""
    found = set()
    for path in paths:
        found.add(path)
        found.update(path[:at] for at, letter in enumerate(path) if letter == ".")
    return found


def _portions(
    source: pa.NativeFile, groups: list[Group], wanted: Wanted, path: str, copies: int
) -> Iterator[tuple[list[int], int]]:
    """Row groups to read together, and rows at a time: fewer where a row takes more than `wanted.most` allows.

    `copies`: of a dictionary, that come with a batch.
    """
    numbers: list[int] = []
    last = 0
    for group in groups:
        key = path, group.number, wanted.paths, wanted.most
        if key not in wanted.sizes:
            wanted.sizes[key] = _rows_at_a_time(source, group, wanted, path, copies)
        rows = wanted.sizes[key]
        if numbers and (rows != last or rows != wanted.most.rows):
            yield numbers, last
            numbers = []
        numbers, last = [*numbers, group.number], rows
    if numbers:
        yield numbers, last


def _rows_at_a_time(source: pa.NativeFile, group: Group, wanted: Wanted, path: str, copies: int) -> int:
    """Rows of a group to decode at a time. Raises DeviceError where one row with its pages takes more than is allowed."""
    most, allowed = wanted.most, wanted.allowed
    if not group.chunks or not group.rows:
        return most.rows
    size, rows = _group_size(group), most.rows
    if rows * size > _TIMES_MOST * most.nbytes * group.rows:
        rows = max(int(most.nbytes * group.rows / size), 1)
    place = f"row group {group.number} of {path}"
    weights = [weigh(source, chunk, place, rows, allowed) for chunk in group.chunks]
    per_row = sum(weight.per_row for weight in weights)
    worst = min(_TIMES_WORST * most.nbytes, allowed.at_hand / 4)
    rows = max(min(rows, int(worst / max(per_row, 1))), 1)
    heaviest = max(zip(weights, group.chunks, strict=True), key=lambda both: both[0].at_hand + rows * both[0].per_row)
    batch = sum(rows * weight.per_row + weight.extra for weight in weights)
    needed = int(sum(weight.at_hand + copies * weight.dictionary for weight in weights) + batch)
    needed += len(weights) * _buffer(len(weights), allowed)
    allowed.check_at_hand(place, heaviest[1].leaf.path, needed, heaviest[0].longest)
    return rows


def _buffer(columns: int, allowed: Allowed) -> int:
    """Bytes of each of `columns` that are read from the disk at a time."""
    return max(min(_BUFFER, allowed.at_hand // (8 * max(columns, 1))), _LEAST_BUFFER)


def bytes_and_rows(fragment: ds.ParquetFileFragment, paths: Sequence[str]) -> tuple[int, int]:
    """Bytes of the columns `paths` of a file before compression, by its metadata, and its rows; repeated long texts take more.

    Raises OSError or ArrowException where the metadata is damaged.
    """
    with fragment.filesystem.open_input_file(fragment.path) as source:
        groups = [group for group in _present(source, paths)[1] if group.chunks]
    return sum(map(_group_size, groups)), sum(group.rows for group in groups)


def _group_size(group: Group) -> int:
    """Bytes before compression of the columns of a row group; none without a row."""
    sizes = [max(chunk.uncompressed, _VALUE_BYTES * chunk.values) for chunk in group.chunks]
    return sum(sizes) if group.rows else 0


def _below(leaf: str, path: str) -> bool:
    return leaf == path or leaf.startswith(f"{path}.")


def _completed(batch: pa.RecordBatch, fields: list[pa.Field], fragment: ds.Fragment) -> pa.RecordBatch:
    """The batch in the types of the whole data set, with the partition's values, and nulls for columns that this file lacks."""
    partition = ds.get_partition_keys(fragment.partition_expression)
    columns = []
    for name, kind in ((each.name, each.type) for each in fields):
        if name in batch.schema.names:
            columns.append(_cast(batch.column(batch.schema.get_field_index(name)), kind))
        elif name in partition:
            columns.append(pa.repeat(_key_scalar(partition[name]).cast(kind), len(batch)))
        else:
            columns.append(pa.nulls(len(batch), kind))
    return pa.RecordBatch.from_arrays(columns, [each.name for each in fields])


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
