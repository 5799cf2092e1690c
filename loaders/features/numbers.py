"""Numbers, times and vectors as features: centred, and scaled so that the squared length of a column's part is 1 on average.

Any finite float64 and any integer will do. Sums are of values scaled by a power of two, and of differences from an origin where
values differ by little (`gcnrec.loaders.features.origins`).
Letters: R rows of a batch, F columns that the input column becomes, E numbers of all rows one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.loaders.features.origins import differences, origins_of
from gcnrec.loaders.features.values import Place, count_unusable, floats, rows_of_vectors

_CONSTANT = 2.0**-50
"""Deviation, relative to the mean, below which a column of floats is taken to be constant: a few roundings."""
_LEAST_EXPONENT = -1100
_MEAN_BYTES = 200
"""Of one number's statistics, and of its mean in `dataset.json`, while that is written and read."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """(x - origin_F - mean_F) * scale, one scale for all columns of a vector, which keeps its shape; an absent value becomes 0.

    `origin_F` None: 0 for all columns.
    """

    name: str
    rule: str
    mean_F: NDArray[np.float64]
    scale: float
    origin_F: tuple[Fraction, ...] | None = None

    @property
    def width(self) -> int:
        return len(self.mean_F)

    def encode(self, batch: pa.RecordBatch, first: int, place: Place) -> NDArray[np.float32]:
        """Rows of `batch` as (R, F); `first` numbers its first row.

        DataError for NaN, infinite, vectors of other lengths, and for what float32 cannot hold when it is scaled.
        """
        flat, known_R, width = _flat(batch.column(self.name), self.width, self.rule == "centred", first, place)
        values_RF, unusable = _matrix(flat, known_R, width, self.origin_F)
        if unusable:
            raise _not_finite(unusable, place)
        # Halves: a difference of two numbers may be twice as large as the largest one.
        scaled_RF = (values_RF / 2 - self.mean_F / 2) * self.scale * 2
        if (np.abs(scaled_RF) > np.finfo(np.float32).max).any():
            raise place.refuse("holds numbers too far from the data set's for float32; correct them, or make them null")
        return np.nan_to_num(scaled_RF, nan=0.0).astype(np.float32)

    def described(self) -> dict[str, Any]:
        fit = {"scale": self.scale, "mean": self.mean_F.tolist()}
        origin = {"origin": [str(each) for each in self.origin_F]} if self.origin_F else {}
        return {"column": self.name, "rule": self.rule, "width": self.width, **fit, **origin}

    @staticmethod
    def of(entry: dict[str, Any]) -> Numbers:
        """What `described` describes."""
        origin_F = tuple(map(Fraction, entry["origin"])) if "origin" in entry else None
        return Numbers(str(entry["column"]), str(entry["rule"]), np.array(entry["mean"]), float(entry["scale"]), origin_F)


@dataclass(slots=True)
class NumberFit:
    """Gathers means and deviations batch by batch (Chan et al. 1979), in float64, of values times 2**-exponent: at most 1."""

    place: Place
    vectors: bool
    unusable: int = 0
    exponent: int = _LEAST_EXPONENT
    has_roundings: bool = False
    origin_F: tuple[Fraction, ...] | None = None
    count_F: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    mean_F: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    squares_F: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def observe(self, batch: pa.RecordBatch, first: int) -> None:
        width = None if self.vectors and not len(self.mean_F) else max(len(self.mean_F), 1)
        flat, known_R, width = _flat(batch.column(self.place.name), width, self.vectors, first, self.place)
        values_RF, unusable = _matrix(flat, known_R, width, self.origin_F)
        self.unusable += unusable
        if not len(self.mean_F):
            self.count_F, self.mean_F, self.squares_F = (np.zeros(values_RF.shape[1]) for _ in range(3))
        if self.unusable or not np.isfinite(values_RF).any():
            return  # the column will be refused, or the batch adds nothing
        if not self.count_F.any():
            self.has_roundings = pa.types.is_floating(flat.type)
            self.origin_F = origins_of(flat, values_RF[known_R])
            values_RF, _ = _matrix(flat, known_R, width, self.origin_F)
        self._add(self._scaled(values_RF))

    @property
    def nbytes(self) -> int:
        """What the statistics take, with their text in `dataset.json`."""
        return _MEAN_BYTES * len(self.mean_F)

    def fitted(self) -> Numbers:
        """Raises DataError for NaN or infinite values (their count), for a column without any value, and for values so close to
        one another that their scale is infinite."""
        if self.unusable:
            raise _not_finite(self.unusable, self.place)
        if not self.count_F.any():
            raise self.place.refuse("holds no value at all; leave it out")
        variance_F = self.squares_F / np.maximum(self.count_F, 1)
        mean_F, origin_F = np.ldexp(self.mean_F, self.exponent), np.array(self.origin_F or [0] * len(self.mean_F), np.float64)
        with np.errstate(over="ignore"):
            if self.has_roundings:
                roundings_F = np.ldexp(_CONSTANT * np.abs(mean_F / 2 + origin_F / 2), 1 - self.exponent)
                variance_F[np.sqrt(variance_F) <= roundings_F] = 0.0
            total = float(variance_F.sum())
            scale = float(np.ldexp(total**-0.5 if total else 0.0, -self.exponent))
        if np.isinf(scale):
            raise self.place.refuse("holds numbers too close to one another to be scaled; multiply them by a power of ten")
        rule = "centred" if self.vectors else "standardised"
        if not scale:
            return Numbers(self.place.name, rule, mean_F + origin_F, scale)
        return Numbers(self.place.name, rule, mean_F, scale, self.origin_F)

    def _scaled(self, values_RF: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values times 2**-exponent, after the exponent of the largest so far; powers of two round nothing."""
        peak = np.nanmax(np.abs(values_RF))
        exponent = int(np.frexp(peak)[1]) if peak else self.exponent
        if exponent > self.exponent:
            self.mean_F = np.ldexp(self.mean_F, self.exponent - exponent)
            self.squares_F = np.ldexp(self.squares_F, 2 * (self.exponent - exponent))
            self.exponent = exponent
        return np.ldexp(values_RF, -self.exponent)

    def _add(self, values_RF: NDArray[np.float64]) -> None:
        present_F = np.isfinite(values_RF).sum(axis=0)
        mean_F = np.nansum(values_RF, axis=0) / np.maximum(present_F, 1)
        total_F, step_F = self.count_F + present_F, mean_F - self.mean_F
        share_F = present_F / np.maximum(total_F, 1)
        self.squares_F = self.squares_F + np.nansum((values_RF - mean_F) ** 2, axis=0) + step_F**2 * self.count_F * share_F
        self.mean_F = self.mean_F + step_F * share_F
        self.count_F = total_F


def _flat(
    column: pa.Array, width: int | None, vectors: bool, first: int, place: Place
) -> tuple[pa.Array, NDArray[np.bool_], int]:
    """The numbers of all rows one after the other, which rows have any (R), and how many each has."""
    if not vectors:
        return column, np.ones(len(column), np.bool_), 1
    flat, known_R, width = rows_of_vectors(column, width, first, place)
    return flat, known_R, width or 0


def _matrix(
    flat: pa.Array, known_R: NDArray[np.bool_], width: int, origin_F: tuple[Fraction, ...] | None
) -> tuple[NDArray[np.float64], int]:
    """(R, F) less the origin, NaN for what is absent, and how many values that are there are NaN or infinite."""
    values_E = floats(flat)
    unusable = count_unusable(flat, values_E)
    if origin_F is not None:
        values_E = differences(flat, origin_F)
    values_RF = np.full((len(known_R), width), np.nan)
    values_RF[known_R] = values_E.reshape(int(known_R.sum()), width)
    return values_RF, unusable


def _not_finite(count: int, place: Place) -> Exception:
    return place.refuse(f"must hold finite numbers, {count:,} are NaN or infinite; make them null, which counts as absent")
