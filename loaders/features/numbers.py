"""Numbers, times and vectors as features: centred, and scaled so that the squared length of a column's part is 1 on average.

Letters: R rows of a batch, F columns that the input column becomes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.loaders.features.values import Place, count_unusable, floats, rows_of_vectors

_CONSTANT = 1e-12
"""Deviation, relative to the mean, below which a column is taken to be constant."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """(x - mean_F) * scale, one scale for all columns of a vector, which keeps its shape; an absent value becomes 0, the mean."""

    name: str
    rule: str
    mean_F: NDArray[np.float64]
    scale: float

    @property
    def width(self) -> int:
        return len(self.mean_F)

    def encode(self, batch: pa.RecordBatch, first: int, place: Place) -> NDArray[np.float32]:
        """Rows of `batch` as (R, F); `first` numbers its first row. DataError for NaN, infinite and vectors of other lengths."""
        values_RF, unusable = _matrix(batch.column(self.name), self.width, self.rule == "centred", first, place)
        if unusable:
            raise _not_finite(unusable, place)
        return np.nan_to_num((values_RF - self.mean_F) * self.scale, nan=0.0).astype(np.float32)

    def described(self) -> dict[str, Any]:
        fit = {"scale": self.scale, "mean": self.mean_F.tolist()}
        return {"column": self.name, "rule": self.rule, "width": self.width, **fit}


@dataclass(slots=True)
class NumberFit:
    """Gathers means and deviations batch by batch (Chan et al. 1979), in float64."""

    place: Place
    vectors: bool
    unusable: int = 0
    count_F: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    mean_F: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    squares_F: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def observe(self, batch: pa.RecordBatch, first: int) -> None:
        width = None if self.vectors and not len(self.mean_F) else max(len(self.mean_F), 1)
        values_RF, unusable = _matrix(batch.column(self.place.name), width, self.vectors, first, self.place)
        self.unusable += unusable
        if not len(self.mean_F):
            self.count_F, self.mean_F, self.squares_F = (np.zeros(values_RF.shape[1]) for _ in range(3))
        if self.unusable:
            return  # the column will be refused: only the count matters now
        present_F = np.isfinite(values_RF).sum(axis=0)
        mean_F = np.nansum(values_RF, axis=0) / np.maximum(present_F, 1)
        total_F, step_F = self.count_F + present_F, mean_F - self.mean_F
        share_F = present_F / np.maximum(total_F, 1)
        self.squares_F += np.nansum((values_RF - mean_F) ** 2, axis=0) + step_F**2 * self.count_F * share_F
        self.mean_F += step_F * share_F
        self.count_F = total_F

    def fitted(self) -> Numbers:
        """Raises DataError for NaN or infinite values (their count) and for a column without any value."""
        if self.unusable:
            raise _not_finite(self.unusable, self.place)
        if not self.count_F.any():
            raise self.place.refuse("holds no value at all; leave it out")
        variance_F = self.squares_F / np.maximum(self.count_F, 1)
        variance_F[variance_F <= (_CONSTANT * self.mean_F) ** 2] = 0.0
        total = float(variance_F.sum())
        rule = "centred" if self.vectors else "standardised"
        return Numbers(self.place.name, rule, self.mean_F, total**-0.5 if total else 0.0)


def _matrix(column: pa.Array, width: int | None, vectors: bool, first: int, place: Place) -> tuple[NDArray[np.float64], int]:
    """(R, F) with NaN for what is absent, and how many values that are there are NaN or infinite."""
    if not vectors:
        values = floats(column)
        return values[:, None], count_unusable(column, values)
    inner, known_R, width = rows_of_vectors(column, width, first, place)
    values = floats(inner)
    values_RF = np.full((len(column), width or 0), np.nan)
    values_RF[known_R] = values.reshape(int(known_R.sum()), width or 0)
    return values_RF, count_unusable(inner, values)


def _not_finite(count: int, place: Place) -> Exception:
    return place.refuse(f"must hold finite numbers, {count:,} are NaN or infinite; make them null, which counts as absent")
