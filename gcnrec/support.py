"""The first support of a sparse table: how many columns each row stores under the budget, which ones, and their values.

Letters: N rows, R rows of a block, D width, X chosen cells.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.ops.select import bar_cells, cut_at, largest_columns
from gcnrec.random import Stage, uniform
from gcnrec.slots import RECORD_BYTES, VALUE_BYTES, SlotBlock, SlotTable

Tiles = Callable[[int, int], torch.Tensor]
"""Rows first .. last-1 of a dense start, float32 (last - first, D)."""
Keys = Callable[[int, torch.Tensor], NDArray[np.float32]]
"""What the cells of a tile are chosen by, the larger the better: (first row, tile) -> float32 (R, D)."""


def base_width(job: Job) -> int:
    """The width that the budget refers to."""
    if job.table.base_width is not None:
        return job.table.base_width
    return 64 if job.model.width == "auto" else job.model.width


def budget_values(job: Job, num_rows: int) -> int:
    """The number of values that a table may store: floor(budget * rows * base width)."""
    return int(job.table.budget * num_rows * base_width(job) + 1e-9)


def even_counts(num_rows: int, budget: int, most: int) -> NDArray[np.int64]:
    """The same number of values for every row, one more for the first of them (the most popular) where it does not divide."""
    check_room(num_rows, budget, most)
    return np.full(num_rows, budget // num_rows) + (np.arange(num_rows) < budget % num_rows)


def power_counts(degrees_N: NDArray[np.integer], budget: int, least: int, most: int, power: float) -> NDArray[np.int64]:
    """Values per row in proportion to degree**power, between `least` and `most`; their sum is `budget` exactly."""
    num_rows = len(degrees_N)
    check_room(num_rows, budget, most)
    least = min(least, budget // num_rows)
    weights_N = np.maximum(degrees_N, 1).astype(np.float64) ** power
    low, high = 0.0, most / float(weights_N.min())
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weights_N, least, most).sum() < budget else (low, middle)
    wanted_N = np.clip(low * weights_N, least, most)
    counts_N = np.floor(wanted_N).astype(np.int64)
    raised = np.argsort(counts_N - wanted_N, kind="stable")
    raised = raised[counts_N[raised] < most][: budget - int(counts_N.sum())]
    counts_N[raised] += 1
    return counts_N


def largest_counts(keys_ND: NDArray[np.float32], budget: int, least: int, most: int) -> NDArray[np.int64]:
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
    return cut_at(lambda at_least: [keys], budget).picker()(keys).reshape(num_rows, width).sum(1)


def full_records(counts_N: NDArray[np.int64], dtype: str, most: int) -> NDArray[np.int64]:
    """Counts near the given ones that fill their records to the last slot, so that no byte is paid for nothing.

    Row after row takes the capacity next to its count plus what earlier rows had to give up (error diffusion), so rows with
    one count share two neighbouring capacities, none above `most`. The sum does not grow.
    Counts stay as they are where even the smallest record is larger than that.
    """
    capacities = [0, *(size // (VALUE_BYTES[dtype] + 1) for size in RECORD_BYTES)]
    allowed = [capacity for capacity in capacities if capacity <= most]
    if len(allowed) == 1:
        return counts_N
    middles = [(low + high) / 2 for low, high in pairwise(allowed)]
    filled, carry = [], 0
    for count in counts_N.tolist():
        filled.append(allowed[bisect_left(middles, count + carry)])
        carry += count - filled[-1]
    for row in range(len(filled) - 1, -1, -1):
        if carry >= 0:
            break
        lower = allowed[max(bisect_left(allowed, filled[row]) - 1, 0)]
        carry += filled[row] - lower
        filled[row] = lower
    return np.array(filled)


def random_keys(seed: int) -> Keys:
    """Every cell as likely as any other."""

    def keys(first: int, tile_RD: torch.Tensor) -> NDArray[np.float32]:
        draws = uniform(seed, Stage.EXPLORE, first, tile_RD.numel())
        return draws.astype(np.float32).reshape(tile_RD.shape)

    return keys


def magnitude_keys(first: int, tile_RD: torch.Tensor) -> NDArray[np.float32]:
    """The largest entries of each row."""
    return tile_RD.abs().numpy()  # type: ignore[no-any-return]


def fill(table: SlotTable, counts_N: NDArray[np.integer], tiles: Tiles, keys: Keys, scale: float | None) -> None:
    """Give the empty `table` the chosen cells of a start, scaled to a root mean square of `scale` over what is stored."""
    factor = 1.0
    if scale is not None:
        squares = sum(
            float(np.square(values_X, dtype=np.float64).sum()) for *_, values_X in _chosen(table, counts_N, tiles, keys)
        )
        factor = scale / max((squares / max(int(counts_N.sum()), 1)) ** 0.5, 1e-30)
    moments, scalars = table.state_shape
    with table.rebuild() as rebuild:
        for first, rows, columns_X, values_X in _chosen(table, counts_N, tiles, keys):
            counts_R = counts_N[first : first + rows].astype(np.int64)
            state = np.zeros((moments, len(values_X)), np.float32), np.zeros((len(counts_R), scalars), np.float32)
            rebuild.write(SlotBlock(first, counts_R, columns_X, values_X * np.float32(factor), *state))


def choose(keys_RD: NDArray[np.float32], counts_R: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Ascending columns of the largest keys of every row, row after row."""
    columns_X = np.empty(int(counts_R.sum()), np.uint8)
    largest_columns(keys_RD, np.cumsum(counts_R) - counts_R, counts_R, columns_X)
    return columns_X


def _chosen(
    table: SlotTable, counts_N: NDArray[np.integer], tiles: Tiles, keys: Keys
) -> Iterator[tuple[int, int, NDArray[np.uint8], NDArray[np.float32]]]:
    for first, last in table.blocks():
        tile_RD, counts_R = tiles(first, last), counts_N[first:last].astype(np.int64)
        columns_X = choose(keys(first, tile_RD), counts_R)
        yield first, last - first, columns_X, tile_RD.numpy()[np.repeat(np.arange(last - first), counts_R), columns_X]


def check_room(num_rows: int, budget: int, most: int) -> None:
    """UsageError when rows of at most `most` values cannot hold the budget."""
    if budget > num_rows * most:
        raise UsageError(
            f"a row stores at most {most} values, so {num_rows:,} rows cannot hold the budget of {budget:,}; "
            "lower table.budget or table.base_width"
        )
