"""Feature files: one Parquet row per user or item, every column except the id encoded by its Arrow type into float32.

The id column is the one called as in the interactions, else as the last part of that name (`product.sku`: `sku`), else `user`
or `item`, else `id`. What the other columns become, fitted on all rows of the file, also of ids without interactions:

* numbers, booleans, dates, timestamps (seconds): standardised; a constant one is zero;
* lists of floats, and of any numbers when the type fixes their length: vectors, centred, with one scale for all columns;
* text, dictionary-encoded or not: one column per value, or hashed beyond `CATEGORIES` values; but text of several words on
  average, not dictionary-encoded and of as many values, is a list of its words;
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
from numpy.typing import NDArray

from gcnrec.errors import DataError, first_line, reading
from gcnrec.ids.id_types import as_ids, held
from gcnrec.loaders.bounds.allowed import DEFAULT, Allowed
from gcnrec.loaders.features.bag_of_words import TfIdf
from gcnrec.loaders.features.categories import Hashed, MultiHot, OneHot
from gcnrec.loaders.features.fits import Choices, Encoder, batches, fitted
from gcnrec.loaders.features.node_rows import node_numbers
from gcnrec.loaders.features.numbers import Numbers
from gcnrec.loaders.features.texts import RULE, Texts
from gcnrec.loaders.features.values import Kind, Place, kind_of
from gcnrec.loaders.files.id_columns import key_types
from gcnrec.loaders.ingest.heldout import Report
from gcnrec.loaders.ingest.inputs import BATCH_ROWS, Input, open_input
from gcnrec.loaders.schema import Dataset, StoredVocabulary
from gcnrec.system.scratch import Scratch, new_npy

Side = Literal["user", "item"]

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


@dataclass(frozen=True, slots=True)
class Scaled:
    """A fitted column whose features are scaled."""

    encoder: Encoder
    weight: float

    def encode(self, batch: pa.RecordBatch, first: int, text: str) -> NDArray[np.float32]:
        rows_RF = self.encoder.encode(batch, first, Place(text, self.encoder.name))
        return rows_RF if self.weight == 1 else rows_RF * np.float32(self.weight)


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


def write_features(file: FeatureFile, folder: Path, choices: Choices, scratch: Scratch, report: Report) -> dict[str, Any]:
    """Write `{side}_features.npy`, float32 (N, F) in the order of the nodes, and tables of words, into a dataset folder.

    A bag of more than `choices.text_width` words becomes that many columns. The file is streamed: statistics first, then the
    matrix; memory keeps to `scratch`, beyond the ids. Returns the entry of dataset.json: the rule of each input column, its fit,
    and the columns made of it. Nodes without a row, and rows of ids that the data set does not have, are counted in `report`.
    Raises DataError for a file or a column that cannot be used.
    """
    side, text = file.side, file.text
    source, column = file.opened()
    ids = StoredVocabulary(folder / f"{side}s.parquet")
    try:
        numbers_R = node_numbers(source, column, ids, scratch)
        encoders = [Scaled(each, choices.weights.get(each.name, 1.0)) for each in fitted(source, column, choices, scratch)]
        width = sum(each.encoder.width for each in encoders)
        found, unknown = scratch.full(len(ids), np.bool_, 0), 0
        out = new_npy(folder / f"{side}_features.npy", (len(ids), width), np.float32)
        for first, batch in _narrow(batches(source, column), width):
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
    known = dataset.info.get(f"{side}_features")
    if known is None:
        raise DataError(f"{dataset.folder} has no {side} features to encode {text} by; ingest with --{side}-features")
    recipe = dataset.info.get("data", {})
    source, column = FeatureFile(side, text, base, str(recipe.get(side, side)), recipe.get("partition_type")).opened()
    with reading(dataset.folder / "dataset.json", "ingest again"):
        encoders = [_opened(entry, dataset.folder) for entry in known["columns"]]
    for entry in known["columns"]:
        _check_column(source, entry)
    kind = (dataset.user_ids if side == "user" else dataset.item_ids).type
    try:
        ids = _ids(source, column, kind)
        if ids.null_count or len(ids.unique()) != len(ids):
            raise DataError(f"{text}: column {column!r} must hold every id once and no null; drop the others")
        rows = [_encode(encoders, batch, first, text) for first, batch in batches(source, column)]
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


def _narrow(batches: Iterable[tuple[int, pa.RecordBatch]], width: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The same rows, so few at a time that `width` features of them are not much."""
    rows = max(_CELLS // width, 1)
    for first, batch in batches:
        for at in range(0, len(batch), rows):
            yield first + at, batch.slice(at, rows)


def _encode(encoders: list[Scaled], batch: pa.RecordBatch, first: int, text: str) -> NDArray[np.float32]:
    return np.concatenate([encoder.encode(batch, first, text) for encoder in encoders], axis=1)


def _described(encoders: list[Scaled], folder: Path, key: str) -> Iterator[dict[str, Any]]:
    """Entries for dataset.json: `first` is the number of the column's first feature; words go into files of their own."""
    first = 0
    for number, (encoder, weight) in enumerate((each.encoder, each.weight) for each in encoders):
        entry = {**encoder.described(), "first": first}
        if weight != 1:
            entry["weight"] = weight
        words = encoder.words if isinstance(encoder, Texts) else encoder
        if isinstance(words, TfIdf):
            entry["file"] = f"{key}.{number}.parquet"
            words.save(folder / entry["file"])
        first += encoder.width
        yield entry


def _check_texts(columns: list[dict[str, Any]], text: str) -> None:
    """DataError for a name or value with a zero byte, which dataset.json does not hold."""
    for entry in columns:
        if any("\0" in each for each in (entry["column"], *entry.get("values", ())) if isinstance(each, str)):
            raise Place(text, entry["column"]).refuse("has a name or a value with a zero byte; rename it, or drop such values")


def _opened(entry: dict[str, Any], folder: Path) -> Scaled:
    """The column that an entry of `_described` describes."""
    rule = str(entry["rule"])
    encoder = _unscaled({**entry, "rule": rule.removeprefix(RULE)}, folder)
    if rule.startswith(RULE) and isinstance(encoder, MultiHot | TfIdf):
        encoder = Texts(encoder)
    return Scaled(encoder, float(entry.get("weight", 1.0)))


def _unscaled(entry: dict[str, Any], folder: Path) -> Encoder:
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
    came, wanted = kind_of(source.field(name).type, place), "category" if rule.startswith(RULE) else _KINDS[rule]
    if came != wanted:
        raise place.refuse(f"must hold a {wanted}, as it did when the data set was ingested ({rule}), it holds a {came}; cast it")
    if entry.get("counts"):
        source.field(str(entry["counts"]))
