"""Reads rows of stored features as float32: float32 itself, float16, bfloat16 as its upper half, or int8 codes on a grid.

    int8: code c is low + (c + 127) * step for c = -127 .. 126, and high for c = 127

The ends of a column's range are exact, and so are columns of one or two values. A step has 16 significant bits, so that products
with 0 .. 254 are exact and both devices give equal bits.
Letters: N stored rows, R rows read, F features.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"
# (numba's decorators carry no types)

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.ops.lanes import request_line

_AHEAD = 4
"""Rows between the request for a row and its use."""
_AHEAD_LINES = 8
"""Lines of a row that are asked for; the processor fetches the others itself, and asking for all of a wide row was slower."""


class Grid(NamedTuple):
    """What int8 codes of each column stand for; float32 (F) each."""

    low_F: NDArray[np.float32]
    step_F: NDArray[np.float32]
    high_F: NDArray[np.float32]


class Stored(NamedTuple):
    """Rows of `width` values, `pitch` values apart in flat `values`.

    `dtype` "float32", "float16", "bfloat16" or "int8"; both 16-bit types lie in uint16. int8 has a `grid`.
    """

    values: NDArray[np.generic]
    pitch: int
    width: int
    dtype: str
    grid: Grid | None = None


def read_features(stored: Stored, index_R: NDArray[np.int64] | None, out_RF: NDArray[np.float32]) -> None:
    """out[r] = stored row index[r], or row r without an index. Numbers are within the stored rows."""
    if index_R is None:
        index_R = np.arange(len(out_RF))
    flat = out_RF.reshape(-1)
    if stored.grid is not None:
        _read_int8(stored.values, stored.pitch, index_R, stored.width, *stored.grid, flat)
        return
    kernel = {"float32": _read_float32, "float16": _read_float16, "bfloat16": _read_bfloat16}[stored.dtype]
    kernel(stored.values, stored.pitch, index_R, stored.width, flat)


def nearest_codes(rows_RF: NDArray[np.float32], grid: Grid, out_RF: NDArray[np.int8]) -> None:
    """The code of each value's nearest point of the grid; values beyond an end take the end."""
    _nearest_codes(rows_RF, *grid, out_RF)


@numba.njit(inline="always")
def _request_later(values, pitch, index_R, r, row_values, line_values):
    """Ask for the beginning of a row that is wanted soon."""
    if r + _AHEAD < len(index_R):
        begin = index_R[r + _AHEAD] * pitch
        for d in range(0, min(row_values, _AHEAD_LINES * line_values), line_values):
            request_line(values, begin + d)


@numba.njit(inline="always")
def _row(values, begin, width):
    """A row as an array of its own: loops from 0 over slices become vector code."""
    return values[begin : begin + width]


@numba.njit(parallel=True, cache=True, nogil=True)
def _read_float32(values, pitch, index_R, width, out):
    for r in numba.prange(len(index_R)):
        _request_later(values, pitch, index_R, r, width, 16)
        row, made = _row(values, index_R[r] * pitch, width), _row(out, r * width, width)
        for d in range(width):
            made[d] = row[d]


@numba.njit(parallel=True, cache=True, nogil=True)
def _read_bfloat16(values, pitch, index_R, width, out):
    for r in numba.prange(len(index_R)):
        _request_later(values, pitch, index_R, r, width, 32)
        row, made = _row(values, index_R[r] * pitch, width), _row(out, r * width, width)
        for d in range(width):
            made[d] = np.uint32(np.uint32(row[d]) << np.uint32(16)).view(np.float32)


@numba.njit(parallel=True, cache=True, nogil=True)
def _read_float16(values, pitch, index_R, width, out):
    for r in numba.prange(len(index_R)):
        _request_later(values, pitch, index_R, r, width, 32)
        row, made = _row(values, index_R[r] * pitch, width), _row(out, r * width, width)
        for d in range(width):
            made[d] = _of_float16(np.uint32(row[d]))


@numba.njit(inline="always")
def _of_float16(bits):
    """A finite IEEE half. Below 2**-14 it counts in units of 2**-24; above, the exponent is shifted by 127 - 15."""
    size = np.uint32(bits & np.uint32(0x7FFF))
    normal = np.uint32(np.uint32(size << np.uint32(13)) + np.uint32(112 << 23)).view(np.float32)
    small = np.float32(np.int32(size)) * np.float32(2.0**-24)
    magnitude = normal if size >= np.uint32(0x400) else small
    return -magnitude if bits >= np.uint32(0x8000) else magnitude


@numba.njit(parallel=True, cache=True, nogil=True)
def _read_int8(values, pitch, index_R, width, low_F, step_F, high_F, out):
    for r in numba.prange(len(index_R)):
        _request_later(values, pitch, index_R, r, width, 64)
        row, made = _row(values, index_R[r] * pitch, width), _row(out, r * width, width)
        for d in range(width):
            count = np.float32(row[d]) + np.float32(127.0)
            value = low_F[d] + count * step_F[d]
            made[d] = high_F[d] if count == np.float32(254.0) else value


@numba.njit(parallel=True, cache=True, nogil=True)
def _nearest_codes(rows_RF, low_F, step_F, high_F, out_RF):
    for r in numba.prange(rows_RF.shape[0]):
        for d in range(rows_RF.shape[1]):
            low, high, step = np.float64(low_F[d]), np.float64(high_F[d]), np.float64(step_F[d])
            value = min(max(np.float64(rows_RF[r, d]), low), high)
            if step > 0.0:
                count = np.rint((value - low) / step)
                if count >= 253.0:  # the last gap is not a whole step
                    count = 254.0 if abs(high - value) < abs(low + 253.0 * step - value) else 253.0
            else:
                count = 254.0 if abs(high - value) < abs(value - low) else 0.0
            out_RF[r, d] = np.int8(np.int64(count) - 127)
