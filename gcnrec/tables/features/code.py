"""How features are stored in fewer bytes: 16-bit floats, or int8 on a grid of each column. Also whether they can be.

float16 and bfloat16 round to the nearest, ties to even. The grid of an int8 column has 255 points, from the 0.01 % to the 99.99 %
quantile of the column over nodes with train interactions, or from its least to its greatest value where both quantiles are equal.
A value beyond takes the end. A column of one or two values keeps them
exactly, any other keeps 0: it stands for absent values, and a node without any would else have a vector of its own.
Letters: N nodes, S sampled nodes, B rows of a block, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import random
from gcnrec.errors import DataError
from gcnrec.ops.features import Grid, nearest_codes

Rows = NDArray[np.float32]

VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
MOST_SAMPLED = 1 << 17
"""Nodes whose values give the quantiles of a column; drawn by the seed where there are more."""
_SHARE = 1e-4
"""Of a column's values that lie below its lower end, and as many above its upper one; rounded down."""
_BLOCK_VALUES = 1 << 22
"""Values that are read at a time."""
_SAMPLE_VALUES = 1 << 24
"""Values of a sample that are held at a time: some of the columns."""
_LEAST_STEP = 2.0**-100
"""Smaller steps of a grid count as none, before products become subnormal."""
_LARGEST_DISTANCE = float(np.finfo(np.float32).max)
"""Between the ends of a grid."""
_LARGEST = {"float16": (65504.0, "bfloat16"), "bfloat16": (float(torch.finfo(torch.bfloat16).max), "float32")}
"""Of the 16-bit types, and the type that holds more."""


@dataclass(frozen=True, slots=True)
class Code:
    """How the features of a side are stored: `dtype` "float32", "float16", "bfloat16" or "int8", the last by a `grid`."""

    dtype: str = "float32"
    grid: Grid | None = None


def code_of(rows_NF: Rows, known_N: NDArray[np.bool_], dtype: str, seed: int, what: str) -> Code:
    """The code for features `rows_NF` of `what`; nodes `known_N` have train interactions and give the grid of int8.

    Raises DataError for NaN or infinite values where a grid is to be found, and where its ends are too far apart for float32.
    """
    if dtype != "int8":
        return Code(dtype)
    low_F, high_F, paired_F = _ends(rows_NF, known_N, what)
    inner_F = np.flatnonzero(~paired_F)
    if len(inner_F):
        low_C, high_C = _quantiles(rows_NF, np.flatnonzero(known_N), inner_F, seed)
        wide_C = low_C < high_C  # or the column is nearly always one value: its other values are all that it says
        low_F[inner_F[wide_C]], high_F[inner_F[wide_C]] = low_C[wide_C], high_C[wide_C]
        _require_near(low_F, high_F, inner_F, what)
    return Code(dtype, grid_of(low_F, high_F, paired_F))


def grid_of(low_F: Rows, high_F: Rows, paired_F: NDArray[np.bool_]) -> Grid:
    """255 points from `low_F` to `high_F`; steps have 16 significant bits (`gcnrec.ops.features`).

    Zero stands for absent values, so that it is a point of every column between whose ends it lies: the lower end moves, by at
    most half a step. Columns `paired_F` keep both ends. Ends that are further apart than float32 holds have no points between
    them, as reading adds up to their distance to `low_F`.
    """
    far_F = _distances(low_F, high_F)
    step_F = (far_F / 254.0).astype(np.float32)
    bits_F = (step_F.view(np.uint32) + np.uint32(0x80)) & np.uint32(0xFFFFFF00)
    ends_alone_F = (step_F < _LEAST_STEP) | (far_F > _LARGEST_DISTANCE)
    step_F = np.where(ends_alone_F, np.float32(0.0), bits_F.view(np.float32))
    moves_F = ~paired_F & (low_F < 0) & (high_F > 0) & (step_F > 0)
    counts_F = np.rint(np.divide(low_F, step_F, out=np.zeros(len(low_F)), where=moves_F, dtype=np.float64))
    return Grid(np.where(moves_F, (counts_F * step_F).astype(np.float32), low_F), step_F, high_F)


def encode(rows_BF: Rows, code: Code, out_BF: NDArray[np.generic], what: str) -> None:
    """Write `rows_BF` as `code` stores them: float32, uint16 (both 16-bit types) or int8.

    Raises DataError for NaN or infinite values, and for values that float16 does not hold; float32 is copied as it is.
    """
    if code.dtype == "float32":
        out_BF[...] = rows_BF
        return
    _require_finite(rows_BF, what)
    if code.dtype in _LARGEST:
        _require_within(rows_BF, code.dtype, what)
    if code.grid is not None:
        nearest_codes(np.ascontiguousarray(rows_BF), code.grid, out_BF)  # type: ignore[arg-type]
    elif code.dtype == "float16":
        out_BF[...] = rows_BF.astype(np.float16).view(np.uint16)
    else:
        out_BF[...] = torch.from_numpy(np.array(rows_BF)).bfloat16().view(torch.uint16).numpy()  # copy: out of a mapped file


def blocks(rows_NF: Rows) -> Iterator[slice]:
    """All rows in ranges of bounded size."""
    size = max(1, _BLOCK_VALUES // max(1, rows_NF.shape[1]))
    for first in range(0, len(rows_NF), size):
        yield slice(first, min(first + size, len(rows_NF)))


def _ends(rows_NF: Rows, known_N: NDArray[np.bool_], what: str) -> tuple[Rows, Rows, NDArray[np.bool_]]:
    """Smallest and largest value of each column over known nodes, float32 (F), and whether a column has no third value.

    Without known nodes, all nodes count.
    """
    width = rows_NF.shape[1]
    low_F, high_F = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
    paired_F = np.ones(width, np.bool_)
    every = not known_N.any()
    for here in blocks(rows_NF):
        rows_BF = rows_NF[here]
        _require_finite(rows_BF, what)
        rows_BF = rows_BF if every else rows_BF[known_N[here]]
        if not len(rows_BF):
            continue
        least_F, most_F = rows_BF.min(0), rows_BF.max(0)
        paired_F &= ((rows_BF == least_F) | (rows_BF == most_F)).all(0)
        ends_4F = np.sort(np.stack([least_F, most_F, *((low_F, high_F) if np.isfinite(low_F).all() else (least_F, most_F))]), 0)
        paired_F &= (ends_4F[1:] != ends_4F[:-1]).sum(0) <= 1
        low_F, high_F = np.minimum(low_F, least_F), np.maximum(high_F, most_F)
    empty_F = ~np.isfinite(low_F)
    low_F[empty_F] = high_F[empty_F] = 0.0
    return low_F, high_F, paired_F


def _quantiles(rows_NF: Rows, known_K: NDArray[np.int64], columns_C: NDArray[np.int64], seed: int) -> tuple[Rows, Rows]:
    """The two ends of columns, float32 (C): values of at most `MOST_SAMPLED` of the known nodes."""
    if not len(known_K):
        known_K = np.arange(len(rows_NF))
    if len(known_K) > MOST_SAMPLED:
        places = random.shuffled(seed, random.Stage.FEATURES, 0, 0, MOST_SAMPLED, len(known_K))
        known_K = known_K[np.sort(places)]
    found = []
    size = max(1, _SAMPLE_VALUES // len(known_K))
    for first in range(0, len(columns_C), size):
        columns = columns_C[first : first + size]
        part_CS = np.empty((len(columns), len(known_K)), np.float32)
        rows = max(1, _BLOCK_VALUES // len(columns))
        for begin in range(0, len(known_K), rows):
            part_CS[:, begin : begin + rows] = rows_NF[np.ix_(known_K[begin : begin + rows], columns)].T  # copy: out of a map
        beyond = int(_SHARE * len(known_K))
        part_CS.partition((beyond, len(known_K) - 1 - beyond), axis=1)
        found.append(part_CS[:, [beyond, len(known_K) - 1 - beyond]])
    low_C, high_C = np.concatenate(found).T.copy()
    return low_C, high_C


def _require_finite(rows_BF: Rows, what: str) -> None:
    bad_BF = ~np.isfinite(rows_BF)
    if bad_BF.any():
        row, column = (int(each) for each in np.argwhere(bad_BF)[0])
        raise DataError(
            f"model.feature_dtype needs finite features, and column {column} of the {what} features holds "
            f"{float(rows_BF[row, column])}; ingest other features, or train with model.feature_dtype = 'float32'"
        )


def _distances(low_F: Rows, high_F: Rows) -> NDArray[np.float64]:
    return high_F.astype(np.float64) - low_F


def _require_near(low_F: Rows, high_F: Rows, columns_C: NDArray[np.int64], what: str) -> None:
    far_C = columns_C[_distances(low_F, high_F)[columns_C] > _LARGEST_DISTANCE]
    if len(far_C):
        column = int(far_C[0])
        raise DataError(
            f"model.feature_dtype = 'int8' holds columns whose ends are up to {_LARGEST_DISTANCE:g} apart, and column {column} "
            f"of the {what} features has {low_F[column]:g} to {high_F[column]:g}; train with model.feature_dtype = 'float32'"
        )


def _require_within(rows_BF: Rows, dtype: str, what: str) -> None:
    largest, remedy = _LARGEST[dtype]
    beyond_BF = np.abs(rows_BF) > largest
    if beyond_BF.any():
        row, column = (int(each) for each in np.argwhere(beyond_BF)[0])
        raise DataError(
            f"model.feature_dtype = '{dtype}' holds values up to {largest:g}, and column {column} of the {what} features has "
            f"{float(rows_BF[row, column]):g}; train with model.feature_dtype = '{remedy}'"
        )
