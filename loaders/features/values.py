"""Columns of a feature file as arrays: which kind a column is by its Arrow type alone, and its values, checked.

Letters: R rows of a batch, F columns of a vector, E words (or values) of all rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError, DeviceError
from gcnrec.loaders.ingest.columns import TICKS

Kind = Literal["number", "vector", "category", "bag"]
_MOST_COUNT = 2.0**53
"""Above it float64 does not count any more; sums of such counts would be infinite."""


@dataclass(frozen=True, slots=True)
class Place:
    """A column of a feature file, for messages: the file as the user named it and the column's name."""

    text: str
    name: str

    def refuse(self, problem: str) -> DataError:
        return DataError(f"{self.text}: feature column {self.name!r} {problem}")

    def too_large(self, problem: str) -> DeviceError:
        """For what takes more memory than it may."""
        return DeviceError(f"{self.text}: feature column {self.name!r} {problem}")


def kind_of(kind: pa.DataType, place: Place) -> Kind:
    """number: numbers, booleans, dates, timestamps; vector: lists of floats, and of numbers when the type fixes their length;
    category: text, dictionary-encoded or not; bag: lists of integers or text. DataError for any other type."""
    if _is_category(kind):
        return "category"
    if _is_number(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "number"
    if pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type):
        return "vector"
    if is_list(kind):
        if pa.types.is_floating(kind.value_type):
            return "vector"
        if pa.types.is_integer(kind.value_type) or _is_category(kind.value_type):
            return "bag"
    raise place.refuse(f"must hold numbers, times, text, or lists of numbers or text, it holds {kind}; cast it or leave it out")


def is_list(kind: pa.DataType) -> bool:
    """Whether rows hold lists of any length."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def floats(column: pa.Array) -> NDArray[np.float64]:
    """Numbers as they are, booleans as 0 and 1, dates and timestamps as seconds since 1970; NaN where null."""
    kind, ticks = column.type, 1
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(column.type):
        ticks, column = TICKS[column.type.unit], column.cast(pa.int64())
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    values: NDArray[np.float64] = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    return values / ticks


def count_unusable(column: pa.Array, values: NDArray[np.float64]) -> int:
    """How many of `values`, the `floats` of `column`, are NaN or infinite without being null."""
    return int((~np.isfinite(values)).sum()) - int(column.null_count)


def rows_of_vectors(
    column: pa.Array, width: int | None, first: int, place: Place
) -> tuple[pa.Array, NDArray[np.bool_], int | None]:
    """Values of all vectors one after the other, which rows have one (R), and their length (`width`, or that of the first).

    `first` is the number of the batch's first row, for the DataError that names the first vector of another length.
    """
    known_R = column.is_valid().to_numpy(zero_copy_only=False)
    lengths_R = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    if width is None and known_R.any():
        width = int(lengths_R[known_R][0])
    wrong_R = known_R & (lengths_R != width)
    if wrong_R.any():
        row = int(wrong_R.argmax())
        raise place.refuse(
            f"must hold vectors of one length, row {first + row} has {lengths_R[row]} values after vectors of {width}; "
            "pad them or split them into columns"
        )
    return column.flatten(), known_R, width


def plain(column: pa.Array) -> pa.Array:
    """Values of categories and bags: integers as int64, all else as text."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.int64() if pa.types.is_integer(column.type) else pa.string())


@dataclass(frozen=True, slots=True)
class Entries:
    """The values in the lists of a batch: `rows_E` int64 rising, `words` (E) as `plain`, `counts_E` float64 above 0."""

    rows_E: NDArray[np.int64]
    words: pa.Array
    counts_E: NDArray[np.float64]


def entries_of(batch: pa.RecordBatch, name: str, counts: str | None, first: int, place: Place) -> Entries:
    """The lists in column `name` with their counts in column `counts` (1 without it); null words and counts of 0 are left out.

    Raises DataError, naming the first row, where words and counts differ in number, for a count that is no number above 0, and
    for integers beyond int64.
    """
    column = batch.column(name)
    lengths_R = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    try:
        words = plain(column.flatten())
    except pa.ArrowInvalid:
        raise place.refuse("holds integers beyond int64; cast them to text") from None
    counts_E = np.ones(len(words))
    if counts is not None:
        given = batch.column(counts)
        given_R = pc.fill_null(pc.list_value_length(given), 0).to_numpy(zero_copy_only=False)
        if (wrong := given_R != lengths_R).any():
            row = int(wrong.argmax())
            raise place.refuse(
                f"must hold as many values as {counts!r} holds counts, row {first + row} has {lengths_R[row]} and {given_R[row]}"
            )
        counts_E = floats(given.flatten())
        if (wrong := ~((counts_E >= 0) & (counts_E <= _MOST_COUNT))).any():
            raise place.refuse(
                f"needs counts of 0 and more in {counts!r}, {wrong.sum():,} are null, negative, NaN or above 2**53; correct them"
            )
    rows_E = np.repeat(np.arange(len(batch)), lengths_R)
    kept_E = words.is_valid().to_numpy(zero_copy_only=False) & (counts_E > 0)
    return Entries(rows_E[kept_E], words.filter(pa.array(kept_E)), counts_E[kept_E])


def merge_entries(
    rows_E: NDArray[np.int64], words_E: NDArray[np.integer], counts_E: NDArray[np.float64], num_words: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Entries by rising (row, word) with the counts of equal ones summed."""
    keys, inverse = np.unique(rows_E * num_words + words_E, return_inverse=True)
    summed = np.bincount(inverse, counts_E, len(keys)).astype(np.float64, copy=False)
    return keys // num_words, keys % num_words, summed


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind))


def _is_category(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_category(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
