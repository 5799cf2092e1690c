"""Categories as features: one column per value while there are few, a fixed number of hashed columns otherwise.

Letters: R rows of a batch, F columns that the input column becomes, E values of all rows of a batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.loaders.features.values import Place, entries_of, plain

CATEGORIES = 512
"""Values of a column that get a column each; more are hashed into as many columns."""
_COPIES = 4
"""Of each value that gets a column: in Arrow, in Python, in JSON, and in what is read of that."""


@dataclass(frozen=True, slots=True)
class _PerValue:
    """A column for each of `values`."""

    rule: ClassVar[str]
    name: str
    values: pa.Array

    @property
    def width(self) -> int:
        return len(self.values)

    def described(self) -> dict[str, Any]:
        return {"column": self.name, "rule": self.rule, "width": self.width, "values": self.values.to_pylist()}


class OneHot(_PerValue):
    """1 in the column of the row's value; nothing for null and for a value that was not there when fitted."""

    rule = "one-hot"

    def encode(self, batch: pa.RecordBatch, first: int, place: Place) -> NDArray[np.float32]:
        numbers_R = numbers_in(plain(batch.column(self.name)), self.values)
        rows_RF = np.zeros((len(batch), self.width), np.float32)
        known_R = numbers_R >= 0
        rows_RF[known_R, numbers_R[known_R]] = 1.0
        return rows_RF


class MultiHot(_PerValue):
    """1 / sqrt(n) in the columns of the n distinct known values of the row's list: rows of length 1, or 0 without any."""

    rule = "multi-hot"

    def encode(self, batch: pa.RecordBatch, first: int, place: Place) -> NDArray[np.float32]:
        found = entries_of(batch, self.name, None, first, place)
        numbers_E = numbers_in(found.words, self.values)
        rows_RF = np.zeros((len(batch), self.width), np.float32)
        known_E = numbers_E >= 0
        rows_RF[found.rows_E[known_E], numbers_E[known_E]] = 1.0
        scaled: NDArray[np.float32] = rows_RF / np.sqrt(np.maximum(rows_RF.sum(axis=1, keepdims=True), 1.0))
        return scaled


@dataclass(frozen=True, slots=True)
class Hashed:
    """1 or -1 in a column that BLAKE2b of the value's text chooses, sign included (Weinberger et al. 2009); nothing for null."""

    name: str
    width: int

    def encode(self, batch: pa.RecordBatch, first: int, place: Place) -> NDArray[np.float32]:
        coded = plain(batch.column(self.name)).dictionary_encode()
        hashes = np.array([_hash(str(value)) for value in coded.dictionary.to_pylist()], np.uint64)
        codes_R = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
        rows_R = np.flatnonzero(codes_R >= 0)
        chosen_R = hashes[codes_R[rows_R]]
        rows_RF = np.zeros((len(batch), self.width), np.float32)
        sign_R = np.where(chosen_R >> np.uint64(63), -1.0, 1.0)
        rows_RF[rows_R, (chosen_R % np.uint64(self.width)).astype(np.int64)] = sign_R
        return rows_RF

    def described(self) -> dict[str, Any]:
        return {"column": self.name, "rule": "hashed", "width": self.width}


@dataclass(slots=True)
class CategoryFit:
    """Gathers the distinct values of a column, as long as they are few."""

    place: Place
    values: pa.Array = field(default_factory=lambda: pa.nulls(0))

    @property
    def has_many(self) -> bool:
        """Whether the column has more values than get a column each."""
        return len(self.values) > CATEGORIES

    def observe(self, batch: pa.RecordBatch, first: int) -> None:
        if self.has_many:
            return
        new = plain(batch.column(self.place.name)).unique().drop_null()
        self.values = pc.unique(pa.concat_arrays([self.values.cast(new.type), new]))

    @property
    def nbytes(self) -> int:
        """What the values take, with their text in `dataset.json`."""
        return _COPIES * int(self.values.nbytes)

    def fitted(self) -> OneHot | Hashed:
        """Raises DataError for a column without any value."""
        if not len(self.values):
            raise self.place.refuse("holds no value at all; leave it out")
        if self.has_many:
            return Hashed(self.place.name, CATEGORIES)
        return OneHot(self.place.name, self.values.sort())


def numbers_in(found: pa.Array, values: pa.Array) -> NDArray[np.int64]:
    """Positions in `values`, -1 for null and unknown."""
    numbers = pc.fill_null(pc.index_in(found.cast(values.type), value_set=values, skip_nulls=True), -1)
    return numbers.to_numpy(zero_copy_only=False).astype(np.int64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
