"""Parquet in, dataset folder out. pyarrow reads the files in small batches, DuckDB filters them, numba does the rest.

What does not fit the memory limit lies inside the folder that is being written, which vanishes when anything fails.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from gcnrec.config import Data
from gcnrec.config.unused import unused_data_settings
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.loaders.buckets.build import build_by_buckets
from gcnrec.loaders.buckets.deal import Source
from gcnrec.loaders.buckets.work import Work, end_work, goes_on, taken_up, work_key
from gcnrec.loaders.conditions.bound import FROM_DUCKDB, Bound, bind, bind_number, reason
from gcnrec.loaders.conditions.condition import Condition, locked, parse_condition
from gcnrec.loaders.conditions.expressions import OWN
from gcnrec.loaders.conditions.moments import words_of_the_moment
from gcnrec.loaders.features.encode import FeatureFile, Side, write_features
from gcnrec.loaders.features.fits import Choices, check_columns
from gcnrec.loaders.files.common_types import is_bytes, is_text
from gcnrec.loaders.files.id_columns import id_types, key_types
from gcnrec.loaders.files.in_memory import written
from gcnrec.loaders.ingest.behaviours import Kinds
from gcnrec.loaders.ingest.build import Staged, build, split_of
from gcnrec.loaders.ingest.columns import (
    BEHAVIOUR,
    ITEM,
    NEGATIVE,
    RATING,
    TIME,
    USER,
    WEIGHT,
    Columns,
    is_expression,
    read_columns,
    time_advice,
)
from gcnrec.loaders.ingest.heldout import Report
from gcnrec.loaders.ingest.inputs import BATCH_ROWS, Input, open_input
from gcnrec.loaders.ingest.negatives import Negatives
from gcnrec.loaders.ingest.numbering import is_number
from gcnrec.loaders.ingest.rows import Rows
from gcnrec.loaders.ingest.staging import Staging
from gcnrec.loaders.recipe import RULES, Inputs, conditions_of, first_change, inputs_of, recipe_of
from gcnrec.loaders.schema import Dataset, new_folder, open_dataset, refuse_foreign, seal
from gcnrec.system.limits import parse_bytes
from gcnrec.system.machine import available_cores
from gcnrec.system.observer import SILENT
from gcnrec.system.scratch import Scratch, memory_errors_as_sentences, scratch_in

_THREAD_BYTES = 50 * 10**6
"""Memory of DuckDB per thread."""
_FILTERED_ROWS = 2 * 2048
"""Rows that must fit the limit where DuckDB filters: it gathers small batches into vectors of 2048 rows, each text copied."""
_IN, _ROW = f"{OWN}in", f"{OWN}row"
"""The table of the rows of a file, and the column of their numbers inside it."""


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

    `data.memory_limit` bounds memory, whatever the input. The process itself with its threads does not count, nor do mapped
    files, which the system takes from memory as it needs. `dataset.json` counts under `report` whatever is dropped. `progress`
    gets the same as lines of text, `work` (what, rows read, rows in all) of each pass.
    Raises DataError for data that is not what it was declared to be or changes while it is read, for a full disk, and where
    `force` would replace another folder; UsageError for a `where` that is no condition on a row. `out` then stays as it is.
    Tables in memory (`Data.tables`) are written into the scratch first, and dataset.json says of them what they held.
    """
    refuse_foreign(out)
    limit, note = parse_bytes(data.memory_limit), progress or SILENT.note
    conditions = _conditions(data)

    def can_go_on(left: Path) -> bool:
        return not data.tables and goes_on(left, _key(data, data_root, inputs_of(data, data_root)), note)

    with new_folder(out, force, note, can_go_on) as folder, memory_errors_as_sentences(data.memory_limit):
        with scratch_in(folder / "scratch", limit) as scratch, written(data, scratch.folder) as given:
            report = Report(note, work or SILENT.work, given.named)
            read, inputs = given.data, inputs_of(given.data, data_root)
            files = _open_all(read, data_root, conditions, report)
            remarks = _remarks(read, files[0].source)
            check_features(read, data_root)
            _check_listed(files, inputs)
            info = _build(files, read, _key(data, data_root, inputs), folder, scratch, report)
            features = write_all_features(read, folder, data_root, scratch, report)
            _check_unchanged(inputs, read, data_root)
        settings = {"seed": data.seed, "data": recipe_of(data, data_root), "rules": RULES}
        recipe = {**settings, **given.recorded(inputs), "report": report.entries}
        seal(folder, {"name": name, **info, **features, **recipe})
        end_work(folder)
    dataset = open_dataset(out)
    report.say(
        f"{name}: {info['num_users']:,} users, {info['num_items']:,} items, {info['num_train']:,} train, "
        f"{info['num_valid']:,} validation and {info['num_test']:,} test interactions ({split_of(data)} split)"
    )
    for remark in remarks:
        report.say(remark)
    return dataset


def _remarks(data: Data, train: Input) -> list[str]:
    """Warnings of settings without effect, and advice for the split."""
    advice = time_advice(data, split_of(data), train.columns())
    warnings = [f"warning: {sentence}" for sentence in unused_data_settings(data, split_of(data))]
    return [*warnings, f"advice: {advice}"] if advice else warnings


def _check_listed(files: list[_File], inputs: Inputs) -> None:
    """DataError where a file came or went between listing and opening the inputs."""
    for file in files:
        if len(list(file.source.dataset.get_fragments())) != len(inputs[file.role]):
            raise DataError(f"{file.source.text} got or lost files while it was opened; ingest again when nothing writes there")


def _check_unchanged(before: Inputs, data: Data, data_root: Path | None) -> None:
    """DataError where a file changed while it was read. Files that came meanwhile were not read: they are no change."""
    known = {key: {path for path, _, _ in files} for key, files in before.items()}
    now = {key: [file for file in files if file[0] in known[key]] for key, files in inputs_of(data, data_root).items()}
    change = first_change(before, now)
    if change:
        raise DataError(f"the input must stay as it is while it is read, {change}; ingest again when nothing writes there")


def write_all_features(data: Data, folder: Path, data_root: Path | None, scratch: Scratch, report: Report) -> dict[str, Any]:
    """Encode the feature files that `data` names into the dataset folder; returns their entries of dataset.json."""
    files, choices = _feature_files(data, data_root), _choices(data)
    return {f"{file.side}_features": write_features(file, folder, choices, scratch, report) for file in files}


def check_features(data: Data, data_root: Path | None) -> None:
    """Raise before the interactions are read where a feature file has a column that cannot be used, or lacks a named one."""
    files, choices, limit = _feature_files(data, data_root), _choices(data), parse_bytes(data.memory_limit)
    opened = [file.opened() for file in files]
    columns = [name for source, _ in opened for name in source.dataset.schema.names]
    for key, names in (("features_text", choices.texts), ("feature_weights", choices.weights)):
        for name in names:
            if files and name not in columns:
                texts = " and ".join(file.text for file in files)
                raise DataError(f"{key} names column {name!r}, {texts} has {', '.join(map(repr, columns))}; correct the name")
    for source, column in opened:
        check_columns(source, column, choices, limit)


def _choices(data: Data) -> Choices:
    return Choices(data.text_width, data.features_text or (), data.feature_weights or {})


def _feature_files(data: Data, data_root: Path | None) -> list[FeatureFile]:
    sides: tuple[tuple[Side, str | None, str | None], ...] = (
        ("user", data.user_features, data.user),
        ("item", data.item_features, data.item),
    )
    types, allowed = data.partition_type, Allowed(parse_bytes(data.memory_limit))
    return [FeatureFile(side, text, data_root, column, types, allowed) for side, text, column in sides if text and column]


@dataclass(frozen=True, slots=True)
class _File:
    """One input with its role (`train`, `valid`, `test`), its columns, and the condition that its rows must meet."""

    role: str
    source: Input
    columns: Columns
    where: Bound | None
    weight: Bound | None = None
    """An expression that weighs a row."""

    @property
    def rows(self) -> int:
        return self.source.rows


def _conditions(data: Data) -> dict[str, Condition]:
    """The conditions that are set, by their keys. Raises UsageError for a text that is none."""
    texts = {"where": data.where, "where_test": data.where_test}
    return {key: parse_condition(text, key=key) for key, text in texts.items() if text is not None}


def _open_all(data: Data, data_root: Path | None, conditions: dict[str, Condition], report: Report) -> list[_File]:
    if not data.train:
        raise DataError(
            "train must name a Parquet file, folder, glob or URI, it is unset; set train or card in [data], or name a dataset "
            "folder by 'gcnrec run JOB.toml --data DIR'"
        )
    if data.test_from is not None and split_of(data) != "temporal":
        remedy = "leave test_from out: the test file is the test set" if data.test else "set time, or leave test_from out"
        raise UsageError(f"test_from needs split = 'temporal' and time, the split is '{split_of(data)}'; {remedy}")
    files: list[_File] = []
    keys = key_types(data.partition_type, data.user, data.item)
    texts = {role: getattr(data, role) for role in ("train", "valid", "test")}
    longest = {column: data.max_id_bytes for column in (data.user, data.item) if column}
    limit = parse_bytes(data.memory_limit)
    allowed = Allowed(limit, longest, _FILTERED_ROWS) if conditions else Allowed(limit, longest)
    sources = {role: open_input(text, data_root, keys, allowed) for role, text in texts.items() if text}
    ids = id_types(list(sources.values()), data)
    if is_expression(data.weight, sources["train"]):
        conditions = {**conditions, "weight": parse_condition(str(data.weight), key="weight")}
    for role, source in sources.items():
        where = _bound(role, source, conditions, report)
        weight = _weighing(role, source, conditions, len(where.columns) if where else 0)
        given = [condition for condition in (where, weight) if condition]
        columns = read_columns(source, data, given, ids, "weight" in conditions, files[0].columns if files else None)
        files.append(_File(role, source, columns, where, weight))
    return files


def _bound(role: str, source: Input, conditions: dict[str, Condition], report: Report) -> Bound | None:
    """The condition on the rows of one input.

    `where` speaks of the rows that are split. A file of held-out rows has its own condition, `where_test`; without it, `where`
    filters the file if it has all the columns, and the report says so if not.
    """
    names, schema = source.dataset.schema.names, source.dataset.schema
    where = conditions.get("where")
    if role != "train" and "where_test" in conditions:
        where = conditions["where_test"]
    elif role != "train" and where is not None and (absent := where.missing(names)) is not None:
        report.say(
            f"where does not filter the {role} file {source.text}, which has no column {absent!r}; where_test filters such files"
        )
        where = None
    if where is None:
        return None
    for name in {path[0] for path in where.references}.intersection(names):
        source.field(name)  # refuses a column without a common type
    return bind(where, schema, source.text)


def _weighing(role: str, source: Input, conditions: dict[str, Condition], first: int) -> Bound | None:
    """The expression that weighs rows of one input; None without one, and for held-out files without its columns."""
    weight = conditions.get("weight")
    if weight is None or (role != "train" and weight.missing(source.dataset.schema.names) is not None):
        return None
    bound = bind_number(weight, source.dataset.schema, source.text, first)
    for path in bound.columns.values():
        source.field(".".join(path))  # refuses a column without a common type
    return bound


@contextmanager
def connect(spill: Path, limit: int, folders: Sequence[Path] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB that keeps to `limit` bytes and spills into `spill`; its SQL reaches no file outside `folders`."""
    config = {
        "memory_limit": f"{limit}B",
        "temp_directory": str(spill / "duckdb"),
        "threads": max(min(available_cores(), limit // _THREAD_BYTES), 1),
        "preserve_insertion_order": False,
    }
    connection = locked(config, folders)
    try:
        yield connection
    finally:
        connection.close()
        shutil.rmtree(spill / "duckdb", ignore_errors=True)


def _stage(files: list[_File], data: Data, scratch: Scratch, report: Report) -> Staged:
    """Every file's rows in provisional numbers (the order of the ids), and the ids in this order."""
    first, staged, kinds = files[0].columns, dict[str, Rows](), dict[str, Kinds | None]()
    staging = Staging(first.user_type, first.item_type, scratch)
    with connect(scratch.folder, scratch.limit // 4) as connection:
        connection.execute("BEGIN")  # of one transaction, in which every file has the same now()
        _note_moment(connection, data, report)
        for file in files:
            extra = [
                column for column in (TIME, WEIGHT) if column in file.columns.expressions or (column == WEIGHT and file.weight)
            ]
            ratings, size = _Ratings(data.target), file.source.batch_rows(file.columns.paths, scratch.limit)
            kinds[file.role] = _kinds_of(file, data, scratch)
            with _explained(file):
                read = file.source.batches(file.columns.expressions, file.columns.paths, size, scratch.limit / 200)
                reader = pa.RecordBatchReader.from_batches(
                    file.source.schema_of(file.columns.expressions), report.counted(read, file.role, file.rows)
                )
                kind = kinds[file.role]
                kinds_of_rows = [column for column in (BEHAVIOUR, NEGATIVE) if column in file.columns.expressions]
                kept = _kept(connection, file, [USER, ITEM, *extra, *kinds_of_rows], reader, ratings, size)
                checked = _checked(connection, file, data, kept)
                rows = staging.read(kind.taken(checked) if kind else checked, file.rows, extra)
            _count_filtered(file, len(rows), ratings, report)
            if kind:
                kind.require_target(file.source.text)
            staged[file.role] = rows
    report.work("numbering users and items", 0, 0)
    ids = staging.settle()
    of_train = kinds["train"] if NEGATIVE in first.expressions else None
    negative = of_train.negatives(staged["train"], scratch) if of_train else None
    files_and_others = _by_behaviour(staged, kinds, scratch, report)
    return Staged(*files_and_others, *ids, first.ticks, Negatives.of(negative, (len(ids[0]), len(ids[1])), scratch))


def _key(data: Data, data_root: Path | None, inputs: Inputs) -> str:
    """Of what may go on from where a killed process stopped."""
    return work_key({"data": recipe_of(data, data_root), "rules": RULES, "inputs": inputs})


def _build(files: list[_File], data: Data, key: str, folder: Path, scratch: Scratch, report: Report) -> dict[str, Any]:
    """Write the files of a dataset folder but features and dataset.json; returns what that file says about the data."""
    if _go_by_buckets(files, data):
        return _build_by_buckets(files, data, taken_up(folder, key), scratch, report)
    staged = _stage(files, data, scratch, report)
    report.work("splitting, numbering and writing", 0, 0)
    return build(staged, data, folder, scratch, report)


def _go_by_buckets(files: list[_File], data: Data) -> bool:
    """Whether rows are pairs of numeric ids alone, and files say which are held out: then nothing but pairs is ever at hand."""
    plain = all(file.columns.expressions.keys() == {USER, ITEM} and not (file.where or file.weight) for file in files)
    given = split_of(data) == "given" and (bool(data.valid) or not data.valid_size) and data.k_core <= 1
    return plain and given and is_number(files[0].columns.user_type) and is_number(files[0].columns.item_type)


def _build_by_buckets(files: list[_File], data: Data, work: Work, scratch: Scratch, report: Report) -> dict[str, Any]:
    """What `build` makes of rows that `_go_by_buckets`."""
    for file in files:
        _count_filtered(file, file.rows, _Ratings(None), report)
    with connect(scratch.folder, scratch.limit // 4) as connection:
        sources = {f.role: Source(f.role, f.rows, partial(_plain_batches, connection, f, data)) for f in files}
        kinds = files[0].columns.user_type, files[0].columns.item_type
        return build_by_buckets(sources, kinds, data, work, scratch, report)


def _plain_batches(connection: duckdb.DuckDBPyConnection, file: _File, data: Data) -> Iterator[pa.RecordBatch]:
    """Users and items of all rows of a file, checked, in their order."""
    expressions, paths, limit = file.columns.expressions, file.columns.paths, parse_bytes(data.memory_limit)
    with _explained(file):
        batches = file.source.batches(expressions, paths, file.source.batch_rows(paths, limit), limit / 200)
        yield from _checked(connection, file, data, (batch.select([USER, ITEM]) for batch in batches))


def _kinds_of(file: _File, data: Data, scratch: Scratch) -> Kinds | None:
    """What takes the behaviours of a file's rows, and which of them are negative; None where it has neither column."""
    if not {BEHAVIOUR, NEGATIVE} & file.columns.expressions.keys():
        return None
    column = data.behaviour if BEHAVIOUR in file.columns.expressions else None
    return Kinds(data.target or (), column, scratch.codes(file.rows))


def _by_behaviour(
    staged: dict[str, Rows], kinds: dict[str, Kinds | None], scratch: Scratch, report: Report
) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """The target's rows of every file, and the train rows of the other behaviours by name. Other held-out rows are dropped."""
    others: dict[str, Rows] = {}
    for role, kind in kinds.items():
        if kind is None:
            continue
        rows = staged[role]
        staged[role], found = kind.split(rows, scratch)
        if role == "train":
            others = found
        else:
            dropped = len(rows) - len(staged[role])
            report.count(
                f"other_{role}", dropped, f"{{}} {role} rows of other behaviours dropped: held-out pairs are of the target"
            )
    return staged, others


@dataclass(slots=True)
class _Ratings:
    """Rows that the condition kept and a rating drops: how many have none and need one, and how many have one that is too low.

    Rows of the `target` need a rating, and so do all rows without a column of behaviours.
    """

    target: tuple[str, ...] | None
    absent: int = 0
    low: int = 0

    def counting(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of `batch` whose rating counts, as positive or negative, and the rows of other behaviours without one."""
        counts = batch.column(RATING)
        if NEGATIVE in batch.schema.names:
            counts = pc.or_(counts, batch.column(NEGATIVE))
        if BEHAVIOUR in batch.schema.names and counts.null_count:
            is_other = pc.invert(pc.is_in(batch.column(BEHAVIOUR), pa.array(self.target or (), pa.string())))
            counts = pc.if_else(pc.is_null(counts), pc.if_else(is_other, True, None), counts)
        kept = batch.filter(counts)
        self.absent += counts.null_count
        self.low += len(batch) - len(kept) - counts.null_count
        return kept


def _count_filtered(file: _File, kept: int, ratings: _Ratings, report: Report) -> None:
    """Report the rows of a file that where and min_rating drop. Raises DataError where none is left."""
    role, rows = file.role, file.rows
    report.entries[f"rows_{role}"] = rows
    report.count(f"filtered_{role}", rows - kept, f"{{}} of {rows:,} {role} rows dropped by where or min_rating")
    if RATING in file.columns.expressions:
        report.count(f"no_rating_{role}", ratings.absent, f"{{}} of these {role} rows have no rating: it is null or NaN")
        report.entries[f"low_rating_{role}"] = ratings.low
    if not kept:
        raise DataError(f"where or min_rating removes all {rows:,} rows of {file.source.text}; loosen the filter")


def _note_moment(connection: duckdb.DuckDBPyConnection, data: Data, report: Report) -> None:
    """Put the moment into the report where a condition depends on it."""
    words = [word for condition in conditions_of(data) for word in words_of_the_moment(condition)]
    if words:
        moment = connection.execute("SELECT strftime(now() AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%f+00:00')").fetchall()[0][0]
        report.entries["moment"] = moment
        report.say(f"where depends on the moment of ingestion ({', '.join(words)}): it is {moment} for all files")


def _checked(
    connection: duckdb.DuckDBPyConnection, file: _File, data: Data, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The same batches; DataError for nulls, for ids that are too long and for weights that are none."""
    for batch in batches:
        for column in batch.schema.names:
            for fault in _FAULTS[column]:
                if pc.any(fault.rows(batch.column(column))).as_py():
                    _refuse(connection, file, data, column, fault)
            if column in (USER, ITEM) and (long := _too_long(batch.column(column), data.max_id_bytes)):
                _refuse(connection, file, data, column, long)
        yield batch


def _kept(
    connection: duckdb.DuckDBPyConnection,
    file: _File,
    columns: list[str],
    reader: pa.RecordBatchReader,
    ratings: _Ratings,
    size: int,
) -> Iterator[pa.RecordBatch]:
    """`columns` of the rows of `reader` that meet the file's condition and whose rating counts, about `size` rows at a time."""
    rated = [column for column in (RATING, NEGATIVE, BEHAVIOUR) if column in file.columns.expressions]
    rated = rated if RATING in rated else []
    batches: Iterable[pa.RecordBatch] = reader
    if file.where or file.weight:
        connection.register(_IN, reader)
        weight = f"CAST({file.weight.sql} AS FLOAT) AS {WEIGHT}" if file.weight else WEIGHT
        wanted = ", ".join(weight if column == WEIGHT else column for column in dict.fromkeys([*columns, *rated]))
        condition = file.where.sql if file.where else "true"
        batches = connection.sql(f"SELECT {wanted} FROM {_IN} WHERE {condition}").to_arrow_reader(size)
    for batch in batches:
        yield (ratings.counting(batch) if rated else batch).select(columns)
    if file.where or file.weight:
        connection.unregister(_IN)


@dataclass(frozen=True, slots=True)
class _Fault:
    """What a column must not hold: in words, which of its values are such, and what to do."""

    what: str
    rows: Callable[[pa.Array], pa.Array]
    remedy: str = "drop such rows, for example with --where"


def _too_long(ids: pa.Array, most: int) -> _Fault | None:
    """The fault of texts or bytes that are longer than `most`; None where there are none."""
    if not (is_text(ids.type) or is_bytes(ids.type)):
        return None
    lengths = pc.binary_length(ids)
    if (pc.max(lengths).as_py() or 0) <= most:
        return None
    first = lengths.filter(pc.greater(lengths, most))[0].as_py()
    what = f"holds an id of {first:,} bytes and may hold {most:,}"
    return _Fault(
        what,
        lambda column: pc.greater(pc.binary_length(column), most),
        f"shorten or drop it, or set --max-id-bytes {first} (data.max_id_bytes in a job)",
    )


def _is_no_weight(values: pa.Array) -> pa.Array:
    return pc.invert(pc.and_(pc.is_finite(values), pc.greater_equal(values, 0)))


_NULLS = _Fault("holds nulls", pc.is_null)
_FAULTS = {
    USER: [_NULLS],
    ITEM: [_NULLS],
    TIME: [_Fault("holds nulls or numbers that are no time", pc.is_null)],
    WEIGHT: [_NULLS, _Fault("holds a negative or non-finite weight", _is_no_weight)],
    BEHAVIOUR: [_NULLS],
    NEGATIVE: [],
}


@contextmanager
def _explained(file: _File) -> Iterator[None]:
    """Failures to read `file` become DataErrors: a full disk, too little memory, or the file that cannot be read."""
    try:
        yield
    except (*FROM_DUCKDB, pa.ArrowException, OSError, RuntimeError) as problem:
        _stop_if_interrupted(problem)
        text, name = str(problem), file.source.text
        if isinstance(problem, MemoryError):  # Arrow's is an ArrowException, too
            raise
        if getattr(problem, "errno", None) == errno.ENOSPC or "No space left" in text or "max_temp_directory_size" in text:
            raise DataError(f"the disk is full while reading {name}; free some space, or work on another disk") from None
        if isinstance(problem, duckdb.OutOfMemoryException):
            raise DataError(f"memory_limit is too small for {name} ({reason(problem)}); raise it") from None
        file.source.check(file.columns.expressions, file.columns.paths)
        # An internal error of DuckDB is the condition's doing where there is one; elsewhere it is a mistake to be seen.
        internal = isinstance(problem, duckdb.InternalException) and not (file.where or file.weight)
        if isinstance(problem, FROM_DUCKDB) and not internal:
            why = reason(problem)
            for bound in (file.where, file.weight):
                why = bound.in_names_of_the_file(why) if bound else why
            raise DataError(f"{name} cannot be read with these columns and filters: {why}") from None
        raise


def _stop_if_interrupted(problem: Exception) -> None:
    """KeyboardInterrupt for what DuckDB makes of Ctrl-C: a RuntimeError."""
    if type(problem) is RuntimeError and "interrupted" in str(problem):
        raise KeyboardInterrupt from None


def _refuse(connection: duckdb.DuckDBPyConnection, file: _File, data: Data, column: str, fault: _Fault) -> NoReturn:
    """Raise the DataError that names the first part and row (from 0) of `file` with a `fault` in `column`."""
    name = {USER: data.user, ITEM: data.item, TIME: data.time, WEIGHT: data.weight, BEHAVIOUR: data.behaviour}.get(column)
    # A connection of its own: the scan that met the row may still be open.
    with closing(connection.cursor()) as cursor:
        for path, reader in file.source.numbered(file.columns.expressions, file.columns.paths):
            first: int | None = None
            for batch in _kept(cursor, file, [column, _ROW], reader, _Ratings(data.target), BATCH_ROWS):
                found = pc.min(batch.column(_ROW).filter(fault.rows(batch.column(column)))).as_py()
                first = found if first is None else min(first, first if found is None else found)
                if first is not None and not file.where:
                    break  # the rows come in their order
            if first is not None:
                place = f"first in row {first} of {path}"
                raise DataError(f"column {name!r} {fault.what}, {place}; {fault.remedy}")
    raise DataError(f"column {name!r} of {file.source.text} {fault.what}; {fault.remedy}")
