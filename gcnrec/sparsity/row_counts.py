"""How many values each row of a sparse table stores at first: evenly, by popularity, by magnitude, in full records.

Counts are two bytes a row. No other array here is larger, because a table of many rows and a small budget is not much larger.
Letters: N rows, D width, L different degrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.ops.slots import fill_records
from gcnrec.sparsity.first_support import choose
from gcnrec.sparsity.select import bar_cells, cut_at
from gcnrec.tables.arena import RECORD_BYTES, VALUE_BYTES

_BLOCK = 1 << 16


def even_counts(num_rows: int, budget: int, most: int) -> NDArray[np.int16]:
    """The same number of values for every row, one more for the first of them (the most popular) where it does not divide."""
    check_room(num_rows, budget, most)
    counts_N = np.full(num_rows, budget // num_rows, np.int16)
    counts_N[: budget % num_rows] += 1
    return counts_N


def power_counts(degrees_N: NDArray[np.integer], budget: int, least: int, most: int, power: float) -> NDArray[np.int16]:
    """Values per row in proportion to degree**power, between `least` and `most`; their sum is `budget` exactly."""
    num_rows = len(degrees_N)
    check_room(num_rows, budget, most)
    least = min(least, budget // num_rows)
    degrees_L, rows_L = _distinct(degrees_N)
    weights_L = np.maximum(degrees_L, 1).astype(np.float64) ** power
    low, high = 0.0, most / float(weights_L.min())
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if rows_L @ np.clip(middle * weights_L, least, most) < budget else (low, middle)
    wanted_L = np.clip(low * weights_L, least, most)
    counts_L = np.floor(wanted_L).astype(np.int64)
    # The largest fractions are rounded up, equal ones in the order of their rows, until the budget is spent.
    fraction_L = np.where(counts_L < most, wanted_L - counts_L, -1.0)
    missing = budget - int(rows_L @ counts_L)
    whole_L, tied_L, missing = _raised(fraction_L, rows_L, missing)
    counts_N = np.empty(num_rows, np.int16)
    for first, degrees_R in _blocks(degrees_N):
        level_R = np.searchsorted(degrees_L, degrees_R)
        counts_R = (counts_L + whole_L)[level_R]
        tied_R = np.flatnonzero(tied_L[level_R])[:missing]
        counts_R[tied_R] += 1
        missing -= len(tied_R)
        counts_N[first : first + len(counts_R)] = counts_R
    return counts_N


def largest_counts(keys_ND: NDArray[np.float32], budget: int, least: int, most: int) -> NDArray[np.int16]:
    """Values per row when every row stores its `least` largest keys, and the largest of all others, at most `most` of a row,
    follow up to exactly `budget`. Keys are not negative; ties go by (row, column)."""
    num_rows, width = keys_ND.shape
    check_room(num_rows, budget, most)
    least = min(least, budget // num_rows)
    ranked_ND = keys_ND.copy()  # copy: the keys themselves still choose columns
    ranked_ND[np.repeat(np.arange(num_rows), least), choose(keys_ND, np.full(num_rows, least))] = np.inf
    none = np.empty(0, np.uint8)
    bar_cells(ranked_ND, np.zeros(num_rows + 1, np.int64), none, none.astype(np.bool_), most, 0)
    keys = ranked_ND.reshape(-1).view(np.int32)
    return cut_at(lambda at_least: [keys], budget).picker()(keys).reshape(num_rows, width).sum(1, dtype=np.int16)


def full_records(counts_N: NDArray[np.int16], dtype: str, most: int) -> NDArray[np.int16]:
    """Counts near the given ones that fill their records to the last slot, so that no byte is paid for nothing.

    Row after row takes the capacity next to its count plus what earlier rows had to give up (error diffusion), so rows with
    one count share two neighbouring capacities, none above `most`. The sum does not grow.
    Counts stay as they are where even the smallest record is larger than that.
    """
    capacities = [0, *(size // (VALUE_BYTES[dtype] + 1) for size in RECORD_BYTES)]
    allowed = [capacity for capacity in capacities if capacity <= most]
    if len(allowed) == 1:
        return counts_N
    middles = np.array([(low + high) / 2 for low, high in pairwise(allowed)])
    filled_N = np.empty(len(counts_N), np.int16)
    fill_records(counts_N, np.array(allowed), middles, filled_N)
    return filled_N


def check_room(num_rows: int, budget: int, most: int) -> None:
    """UsageError when rows of at most `most` values cannot hold the budget."""
    if budget > num_rows * most:
        raise UsageError(
            f"a row stores at most {most} values, so {num_rows:,} rows cannot hold the budget of {budget:,}; "
            "lower table.budget or table.base_width"
        )


def _distinct(degrees_N: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """The different degrees, ascending, and how many rows have each."""
    parts = [np.unique(degrees_R, return_counts=True) for _, degrees_R in _blocks(degrees_N)]
    degrees_L, level = np.unique(np.concatenate([degrees for degrees, _ in parts]), return_inverse=True)
    rows_L = np.zeros(len(degrees_L), np.int64)
    np.add.at(rows_L, level, np.concatenate([rows for _, rows in parts]))
    return degrees_L, rows_L


def _raised(
    fraction_L: NDArray[np.float64], rows_L: NDArray[np.int64], missing: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Degrees whose rows are all rounded up, degrees of which only the first rows are, and how many of the latter."""
    fractions_G, group_L = np.unique(-fraction_L, return_inverse=True)  # the largest fraction first
    rows_G = np.zeros(len(fractions_G), np.int64)
    np.add.at(rows_G, group_L, rows_L)
    ends_G = np.cumsum(rows_G)
    cut = int(np.searchsorted(ends_G, missing, side="right"))
    before = int(ends_G[cut - 1]) if cut else 0
    return group_L < cut, group_L == cut, missing - before


def _blocks(degrees_N: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.integer]]]:
    for first in range(0, len(degrees_N), _BLOCK):
        yield first, degrees_N[first : first + _BLOCK]
