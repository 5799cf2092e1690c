"""Numbers as differences from an origin, taken before they are rounded: float64 holds integers up to 2**53 only, and nanoseconds
since 1970 are more.

Letters: R rows, F columns of a vector, E values one after the other.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.loaders.features.values import floats
from gcnrec.loaders.ingest.columns import TICKS

_NARROW = 2.0**23
"""A mean that is more than so many times the farthest value's distance from it asks for an origin: roundings of the values, a
2**-53 of them, would be more than a 2**-30 of that distance."""
_EXACT = 2.0**53


def origins_of(column: pa.Array, values_RF: NDArray[np.float64]) -> tuple[Fraction, ...] | None:
    """The first value in each of F columns whose values differ by little compared with their size, 0 in the others.

    `values_RF`: the values of `column` as float64, NaN where absent. None where no column needs one.
    """
    present_RF = np.isfinite(values_RF)
    counts_F = np.maximum(present_RF.sum(axis=0), 1)
    # Small parts of the values: their own sums and differences may be larger than the largest float64.
    parts_RF = np.where(present_RF, values_RF, 0.0) / (4.0 * len(values_RF))
    means_F = parts_RF.sum(axis=0) / counts_F
    farthest_F = np.where(present_RF, np.abs(parts_RF - means_F), 0.0).max(axis=0)
    narrow_F = np.abs(means_F) / _NARROW > farthest_F
    if not narrow_F.any():
        return None
    first_F = present_RF.argmax(axis=0)
    places_F = first_F * values_RF.shape[1] + np.arange(values_RF.shape[1])
    return tuple(_exact(column, int(place)) if narrow else Fraction(0) for place, narrow in zip(places_F, narrow_F, strict=True))


def differences(column: pa.Array, origin_F: tuple[Fraction, ...]) -> NDArray[np.float64]:
    """`column` (E values, those of F columns in turn) less `origin_F`, each rounded once; NaN where null."""
    out_E = np.empty(len(column))
    for number, origin in enumerate(origin_F):
        here = column if len(origin_F) == 1 else column.take(pa.array(np.arange(number, len(column), len(origin_F))))
        out_E[number :: len(origin_F)] = _less(here, origin) if origin else floats(here)
    return out_E


def _less(column: pa.Array, origin: Fraction) -> NDArray[np.float64]:
    if pa.types.is_decimal(column.type):
        return np.array(
            [np.nan if value is None else float(Fraction(value) - origin) for value in column.to_pylist()], np.float64
        )
    column, ticks = _counted(column)
    if not pa.types.is_integer(column.type):
        return floats(column) - float(origin)
    whole = int(origin * ticks // 1)
    rounded_E = floats(column) - float(whole)
    if -(2**63) <= whole < 2**64:
        wide = np.uint64 if pa.types.is_unsigned_integer(column.type) else np.int64
        bits_E = pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(wide).view(np.uint64)
        near_E = (bits_E - np.uint64(whole % 2**64)).view(np.int64)  # modulo 2**64: right where the difference is small
        rounded_E = np.where(np.abs(rounded_E) < _EXACT, near_E.astype(np.float64), rounded_E)
    return np.where(column.is_null(), np.nan, (rounded_E - float(origin * ticks - whole)) / ticks)


def _counted(column: pa.Array) -> tuple[pa.Array, int]:
    """Times as integer ticks, and how many of them make a second; other columns as they are."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()), TICKS[column.type.unit]
    return column, 1


def _exact(column: pa.Array, place: int) -> Fraction:
    counted, ticks = _counted(column.slice(place, 1))
    if pa.types.is_floating(counted.type):
        return Fraction(float(floats(counted)[0]))
    return Fraction(counted[0].as_py()) / ticks
