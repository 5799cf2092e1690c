"""Columns of a file of items, such as category or price, by item number: `--attributes FILE`.

Letters: E rows of the file, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError, shown
from gcnrec.loaders.schema import Dataset
from gcnrec.results.given.dropped import FileCounts
from gcnrec.results.given.id_files import columns_of, open_ids
from gcnrec.results.given.labels import as_texts, refuse_absent

MOST_VALUE = 1e15
"""Of an item, such as its price: sums over all pairs of a dataset stay finite."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The items by a column: `codes_I` int32, -1 without a value, is the place of the item's value in `labels`."""

    codes_I: NDArray[np.int32]
    labels: list[str]


@dataclass(frozen=True, slots=True)
class Attributes:
    """The columns of a file: `numbers_E` int32 has the item of each row, -1 for an unknown one."""

    path: Path
    numbers_E: NDArray[np.int32]
    columns: Mapping[str, pa.ChunkedArray]
    options: Mapping[str, str]
    """By column, the option that reads it."""
    is_text: bool
    num_items: int

    @property
    def counts(self) -> FileCounts:
        """The rows without effect."""
        return FileCounts("--attributes", len(self.numbers_E), {"unknown_item": int((self.numbers_E < 0).sum())})

    def groups(self, name: str) -> Groups:
        """The items by the values of a column. DataError for values that are neither texts nor numbers."""
        values = self.columns[name]
        try:
            codes = pc.dictionary_encode(self._without_blanks(as_texts(values)))
        except pa.ArrowException:
            raise DataError(
                f"{self.options[name]} needs a column of texts or numbers, {name!r} is of type {values.type}; name another"
            ) from None
        codes_E = pc.fill_null(codes.indices.cast(pa.int32()), -1).to_numpy(zero_copy_only=False)
        codes_I = np.full(self.num_items, -1, np.int32)
        codes_I[self.numbers_E[self._known_E]] = codes_E[self._known_E]
        return Groups(codes_I, codes.dictionary.to_pylist())

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, float64 (I), NaN without a value. DataError for what is no number from 0 to `MOST_VALUE`."""
        values = self.columns[name]
        try:
            given = self._without_blanks(values.combine_chunks()).cast(pa.float64(), safe=False)
        except pa.ArrowException:
            raise DataError(
                f"{self.path}: column {name!r} of {self.options[name]} must hold numbers, it holds {values.type}, not all of "
                f"which is a number{_first_other(values)}; correct it, or name another"
            ) from None
        found_E = pc.fill_null(given, np.nan).to_numpy(zero_copy_only=False)
        wrong_E = (found_E < 0.0) | (found_E > MOST_VALUE)
        if wrong_E.any():
            raise DataError(
                f"{self.path}: column {name!r} of {self.options[name]} must hold numbers from 0 to {MOST_VALUE:g}, row "
                f"{wrong_E.argmax() + 1} has {found_E[wrong_E.argmax()]:g}; correct it, or leave the field empty"
            )
        values_I = np.full(self.num_items, np.nan)
        values_I[self.numbers_E[self._known_E]] = found_E[self._known_E]
        return values_I

    def _without_blanks(self, values: pa.Array) -> pa.Array:
        """An empty field of CSV has no value."""
        return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values) if self.is_text else values

    @property
    def _known_E(self) -> NDArray[np.bool_]:
        return self.numbers_E >= 0


def _first_other(values: pa.Array) -> str:
    """Which row of texts is no number first, and what it has; nothing for other types."""
    if not pa.types.is_string(values.type):
        return ""
    for row, text in enumerate(values.to_pylist(), 1):
        try:
            float(text or 0)
        except ValueError:
            return f" (row {row} has {shown(text)})"
    return ""


def read_attributes(dataset: Dataset, path: Path, options: Mapping[str, str]) -> Attributes:
    """The columns that `options` has as keys, by one pass: the file may come through a pipe.

    Raises DataError where the file lacks a column, names no item of the dataset, or an item twice.
    """
    _, items = columns_of(dataset)
    with open_ids(path) as table:
        for column, option in options.items():
            refuse_absent(table, items, column, option)
        ids, *columns = table.with_columns(items, list(options))
        is_text = table.is_text
    numbers_E = items.vocabulary.numbers(ids)
    known_E = numbers_E >= 0
    if not known_E.any():
        raise DataError(f"{path} must name items of {dataset.name}, none of its {len(ids)} ids is one; check its item column")
    if len(np.unique(numbers_E[known_E])) != known_E.sum():
        raise DataError(f"{path} must name each item once, some come twice; keep one row of each")
    named = dict(zip(options, columns, strict=True))
    return Attributes(path, numbers_E, named, options, is_text, len(dataset.item_ids))
