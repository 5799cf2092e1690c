"""Feature files: one Parquet row per user or item, every column except the id encoded by its Arrow type into float32.

The id column is the one called as in the interactions, else as the last part of that name (`product.sku`: `sku`), else `user`
or `item`, else `id`. What the other columns become, fitted on all rows of the file, also of ids without interactions:

* numbers, booleans, dates, timestamps (seconds): standardised; a constant one is zero;
* lists of floats, and of any numbers when the type fixes their length: vectors, centred, with one scale for all columns;
* text, dictionary-encoded or not: one column per value, or hashed beyond `CATEGORIES` values;
* lists of integers or text: one column per value, or beyond `CATEGORIES` values and always with counts, TF-IDF, projected on
  `text_width` singular vectors when there are more words. Counts of column `x` are the list column `x_counts`, or `counts`.

Every input column then has a part of squared length 1, on average or at most. Absent values are zero: the mean, or no category
or word; so are all of a node without a row. NaN and infinite values are refused. Letters: R rows, N nodes, F columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from gcnrec.errors import DataError, first_line, reading
from gcnrec.ids.id_types import as_ids, held
from gcnrec.loaders.bounds.allowed import DEFAULT, Allowed
from gcnrec.loaders.features.bag_of_words import BagFit, TfIdf
from gcnrec.loaders.features.categories import CategoryFit, Hashed, MultiHot, OneHot
from gcnrec.loaders.features.node_rows import node_numbers
from gcnrec.loaders.features.numbers import NumberFit, Numbers
from gcnrec.loaders.features.values import Kind, Place, is_list, kind_of
from gcnrec.loaders.files.id_columns import key_types
from gcnrec.loaders.ingest.heldout import Report
from gcnrec.loaders.ingest.inputs import BATCH_ROWS, Input, open_input
from gcnrec.loaders.schema import Dataset, StoredVocabulary
from gcnrec.system.scratch import Scratch, new_npy

Side = Literal["user", "item"]

_BATCH_ROWS = 4096
_BATCH_BYTES = 2**20
"""Of rows that are read at a time; what is made of them takes ten times as much. The same for every memory limit, as sums over a
column depend on where batches begin."""
_MOST_HELD = 2**28
"""Bytes of words that are counted in one array: Arrow's texts must stay below 2 GiB."""
_CELLS = 2**18
"""Features that are encoded at a time."""
_KINDS: dict[str, Kind] = {
    "standardised": "number",
    "centred": "vector",
    "one-hot": "category",
    "hashed": "category",
    "multi-hot": "bag",
    "tf-idf": "bag",
    "tf-idf, truncated svd": "bag",
}


Encoder = Numbers | OneHot | Hashed | MultiHot | TfIdf
"""A fitted input column."""


@dataclass(frozen=True, slots=True)
class NodeFeatures:
    """Rows of a feature file: `ids` in the type of the dataset, `rows_RF` float32 as the dataset's own features."""

    ids: pa.Array
    rows_RF: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """The Parquet input `text` of features of users or items. Relative paths start at `base`; the data has their ids in `ids`.

    `key_types`: declared types of partition keys, as `data.partition_type`. `allowed`: what reading it may take.
    """

    side: Side
    text: str
    base: Path | None
    ids: str
    key_types: Mapping[str, str] | None = None
    allowed: Allowed = DEFAULT

    def opened(self) -> tuple[Input, str]:
        """The input and the column that holds its ids. DataError where there is none."""
        keys = key_types(self.key_types, *_id_names(self.side, self.ids))
        source = open_input(self.text, self.base, keys, self.allowed)
        return source, _id_column(source, self.side, self.ids)


def write_features(file: FeatureFile, folder: Path, text_width: int, scratch: Scratch, report: Report) -> dict[str, Any]:
    """Write `{side}_features.npy`, float32 (N, F) in the order of the nodes, and tables of words, into a dataset folder.

    A bag of more than `text_width` words becomes that many columns. The file is streamed: statistics first, then the matrix;
    memory keeps to `scratch`, beyond the ids. Returns the entry of dataset.json: the rule of each input column, its fit, and the
    columns made of it. Nodes without a row, and rows of ids that the data set does not have, are counted in `report`.
    Raises DataError for a file or a column that cannot be used.
    """
    side, text = file.side, file.text
    source, column = file.opened()
    ids = StoredVocabulary(folder / f"{side}s.parquet")
    try:
        numbers_R = node_numbers(source, column, ids, scratch)
        encoders = _fit(source, column, text_width, scratch)
        width = sum(encoder.width for encoder in encoders)
        found, unknown = scratch.full(len(ids), np.bool_, 0), 0
        out = new_npy(folder / f"{side}_features.npy", (len(ids), width), np.float32)
        for first, batch in _narrow(_batches(source, column), width):
            numbers = numbers_R[first : first + len(batch)]
            out[numbers[numbers >= 0]] = _encode(encoders, batch, first, text)[numbers >= 0]
            found[numbers[numbers >= 0]] = True
            unknown += int((numbers < 0).sum())
    except (pa.ArrowException, OSError) as problem:
        if isinstance(problem, MemoryError) or (isinstance(problem, OSError) and problem.errno):
            raise
        raise DataError(f"{text} cannot be read ({first_line(problem)}); give whole Parquet or CSV files") from None
    key = f"{side}_features"
    with_row = int(np.count_nonzero(found))
    missing = len(ids) - with_row
    report.count(f"{key}_missing", missing, f"{{}} of {len(ids):,} rows of {key} are zero: {text} has no such id")
    report.count(f"{key}_unknown", unknown, f"{{}} rows of {text} belong to ids that have no interaction")
    columns = list(_described(encoders, folder, key))
    _check_texts(columns, text)
    for entry in columns:
        report.say(f"{key}: column {entry['column']!r} is {entry['rule']}, {entry['width']} of {width} columns")
    return {"rows": with_row, "width": width, "columns": columns}


def encode_features(dataset: Dataset, side: Side, text: str, base: Path | None = None) -> NodeFeatures:
    """Features of any nodes, known to `dataset` or new, by the rules that ingestion fitted; for files that fit into memory.

    Raises DataError when the dataset has no features of this side, and for a file that lacks one of their columns.
    """
    fitted = dataset.info.get(f"{side}_features")
    if fitted is None:
        raise DataError(f"{dataset.folder} has no {side} features to encode {text} by; ingest with --{side}-features")
    recipe = dataset.info.get("data", {})
    source, column = FeatureFile(side, text, base, str(recipe.get(side, side)), recipe.get("partition_type")).opened()
    with reading(dataset.folder / "dataset.json", "ingest again"):
        encoders = [_opened(entry, dataset.folder) for entry in fitted["columns"]]
    for entry in fitted["columns"]:
        _check_column(source, entry)
    kind = (dataset.user_ids if side == "user" else dataset.item_ids).type
    try:
        ids = _ids(source, column, kind)
        if ids.null_count or len(ids.unique()) != len(ids):
            raise DataError(f"{text}: column {column!r} must hold every id once and no null; drop the others")
        rows = [_encode(encoders, batch, first, text) for first, batch in _batches(source, column)]
    except (pa.ArrowException, OSError) as problem:
        if isinstance(problem, MemoryError):
            raise
        raise DataError(f"{text} cannot be read ({first_line(problem)}); give a whole Parquet file") from None
    return NodeFeatures(ids, np.concatenate(rows))


def _id_column(source: Input, side: Side, named: str) -> str:
    """The column that holds the ids; DataError listing what was looked for."""
    names = source.dataset.schema.names
    tried = _id_names(side, named)
    for name in tried:
        if name in names:
            return name
    if "." in named and named.split(".")[0] in names:
        source.field(named)  # a struct that lacks the field is an error of its own
        return named
    raise DataError(
        f"{source.text} must hold the ids of {side}s in a column {' or '.join(map(repr, tried))}, "
        f"it has {', '.join(map(repr, names))}; rename one"
    )


def _id_names(side: Side, named: str) -> list[str]:
    """What the column of ids may be called, the likeliest name first."""
    return list(dict.fromkeys((named, named.rsplit(".", 1)[-1], side, "id")))


def _ids(source: Input, column: str, kind: pa.DataType) -> pa.Array:
    """All ids of the file in the plain form of `kind`, or of a wider type that holds them. DataError for another family."""
    batches = source.batches({"id": source.expression(column)}, [column], BATCH_ROWS)
    given = pa.chunked_array([batch.column(0) for batch in batches])
    try:
        return as_ids(given, held(kind, given)).combine_chunks()
    except ValueError as problem:
        raise DataError(f"{source.text}: column {column!r} of type {given.type} must hold {kind} ids ({problem})") from None


def _fit(source: Input, column: str, text_width: int, scratch: Scratch) -> list[Encoder]:
    """One pass for the statistics of all columns, and one more for each bag of words that is projected."""
    fits = _fits(source, column, text_width, scratch.limit // 4)
    for first, batch in _batches(source, column):
        for fit in fits:
            fit.observe(batch, first)
        _check_size(fits, scratch.limit // 4)
    encoders: list[Encoder] = []
    for fit in fits:
        if not isinstance(fit, BagFit):
            encoders.append(fit.fitted())
            continue
        bag = fit.fitted()
        if isinstance(bag, TfIdf) and bag.width > text_width:
            bag = bag.projected(text_width, _batches(source, column), scratch, fit.place)
        encoders.append(bag)
    return encoders


def _check_size(fits: Iterable[NumberFit | CategoryFit | BagFit], most: int) -> None:
    """DeviceError, naming the largest, where statistics and distinct values of all columns take more than `most` bytes.

    What bags hold has a bound of its own.
    """
    sizes = [(fit.nbytes, fit.place) for fit in fits if not isinstance(fit, BagFit)]
    total = sum(size for size, _ in sizes)
    if total > most:
        size, place = max(sizes, key=lambda each: each[0])
        raise place.too_large(
            f"takes {size:,} bytes of {total:,} for the statistics of all columns, of which memory_limit allows {most:,}; "
            f"shorten its texts or vectors, leave it out, or set --memory-limit {4 * total // 10**6 + 1}MB"
        )


def _fits(source: Input, column: str, text_width: int, limit: int) -> list[NumberFit | CategoryFit | BagFit]:
    """What gathers the statistics of each column, in the order of the file."""
    schema = source.dataset.schema
    names = [name for name in schema.names if name != column.split(".")[0]]
    if not names:
        raise DataError(f"{source.text} holds no feature column other than {column!r}")
    kinds = {name: kind_of(source.field(name).type, Place(source.text, name)) for name in names}
    counts = _counts(source, kinds)
    fits: list[NumberFit | CategoryFit | BagFit] = []
    bags = sum(kind == "bag" for kind in kinds.values())
    for name, kind in kinds.items():
        place = Place(source.text, name)
        if name in counts.values():
            continue
        if kind == "bag":
            fits.append(BagFit(place, counts.get(name), limit, min(limit // (8 * bags), _MOST_HELD), text_width))
        elif kind == "category":
            fits.append(CategoryFit(place))
        else:
            fits.append(NumberFit(place, kind == "vector"))
    return fits


def _counts(source: Input, kinds: dict[str, Kind]) -> dict[str, str]:
    """Which list column counts the values of which bag."""
    numeric = {name for name in kinds if is_list(kind := source.dataset.schema.field(name).type) and _counting(kind.value_type)}
    pairs = {name: f"{name}_counts" for name, kind in kinds.items() if kind == "bag" and f"{name}_counts" in numeric}
    if "counts" in numeric:
        free = [name for name, kind in kinds.items() if kind == "bag" and name not in (*pairs, *pairs.values(), "counts")]
        if len(free) > 1:
            raise DataError(
                f"{source.text}: column 'counts' may belong to {' or '.join(map(repr, free))}; name it after one of them"
            )
        pairs |= dict.fromkeys(free, "counts")
    return pairs


def _counting(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _batches(source: Input, column: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The number of the first row and the columns except the id, the same each time, in small batches as lists may be long."""
    names = [name for name in source.dataset.schema.names if name != column.split(".")[0]]
    first, rows = 0, int(max(min(_BATCH_BYTES / max(source.mean_row_bytes(names), 1.0), _BATCH_ROWS), 1))
    for batch in source.batches({name: ds.field(name) for name in names}, names, rows, _BATCH_BYTES):
        yield first, batch
        first += len(batch)


def _narrow(batches: Iterable[tuple[int, pa.RecordBatch]], width: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The same rows, so few at a time that `width` features of them are not much."""
    rows = max(_CELLS // width, 1)
    for first, batch in batches:
        for at in range(0, len(batch), rows):
            yield first + at, batch.slice(at, rows)


def _encode(encoders: list[Encoder], batch: pa.RecordBatch, first: int, text: str) -> NDArray[np.float32]:
    return np.concatenate([encoder.encode(batch, first, Place(text, encoder.name)) for encoder in encoders], axis=1)


def _described(encoders: list[Encoder], folder: Path, key: str) -> Iterator[dict[str, Any]]:
    """Entries for dataset.json: `first` is the number of the column's first feature; words go into files of their own."""
    first = 0
    for number, encoder in enumerate(encoders):
        entry = {**encoder.described(), "first": first}
        if isinstance(encoder, TfIdf):
            entry["file"] = f"{key}.{number}.parquet"
            encoder.save(folder / entry["file"])
        first += encoder.width
        yield entry


def _check_texts(columns: list[dict[str, Any]], text: str) -> None:
    """DataError for a name or value with a zero byte, which dataset.json does not hold."""
    for entry in columns:
        if any("\0" in each for each in (entry["column"], *entry.get("values", ())) if isinstance(each, str)):
            raise Place(text, entry["column"]).refuse("has a name or a value with a zero byte; rename it, or drop such values")


def _opened(entry: dict[str, Any], folder: Path) -> Encoder:
    """The encoder that an entry of `_described` describes."""
    name, rule = str(entry["column"]), str(entry["rule"])
    if rule in ("standardised", "centred"):
        return Numbers.of(entry)
    if rule == "one-hot":
        return OneHot(name, pa.array(entry["values"]))
    if rule == "multi-hot":
        return MultiHot(name, pa.array(entry["values"]))
    if rule == "hashed":
        return Hashed(name, int(entry["width"]))
    return TfIdf.load(folder / entry["file"], name, entry["counts"])


def _check_column(source: Input, entry: dict[str, Any]) -> None:
    """DataError unless `source` has the column of `entry` in a type that its rule can read."""
    name, rule = str(entry["column"]), str(entry["rule"])
    place = Place(source.text, name)
    came, wanted = kind_of(source.field(name).type, place), _KINDS[rule]
    if came != wanted:
        raise place.refuse(f"must hold a {wanted}, as it did when the data set was ingested ({rule}), it holds a {came}; cast it")
    if entry.get("counts"):
        source.field(str(entry["counts"]))
