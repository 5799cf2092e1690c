"""The first support of a sparse table: how many columns each row stores under the budget, which ones, and their values.

Letters: N rows, R rows of a block, D width, X chosen cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.ops.select import largest_columns
from gcnrec.random import Stage, uniform
from gcnrec.slots import RECORD_BYTES, VALUE_BYTES, SlotBlock, SlotTable

Tiles = Callable[[int, int], torch.Tensor]
"""Rows first .. last-1 of a dense start, float32 (last - first, D)."""
Keys = Callable[[int, torch.Tensor], NDArray[np.float32]]
"""What the cells of a tile are chosen by, the larger the better: (first row, tile) -> float32 (R, D)."""


def even_counts(num_rows: int, budget: int, most: int) -> NDArray[np.int64]:
    """The same number of values for every row, one more for the first of them (the most popular) where it does not divide."""
    _check_room(num_rows, budget, most)
    return np.full(num_rows, budget // num_rows) + (np.arange(num_rows) < budget % num_rows)


def power_counts(degrees_N: NDArray[np.integer], budget: int, least: int, most: int, power: float) -> NDArray[np.int64]:
    """Values per row in proportion to degree**power, between `least` and `most`; their sum is `budget` exactly."""
    num_rows = len(degrees_N)
    _check_room(num_rows, budget, most)
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


def full_records(counts_N: NDArray[np.int64], dtype: str) -> NDArray[np.int64]:
    """Counts near the given ones that fill their records to the last slot, so that no byte is paid for nothing.

    Row after row takes the capacity next to its count plus what earlier rows had to give up (error diffusion), so rows with
    one count share two neighbouring capacities. The sum does not grow.
    """
    capacities = np.array([0, *(size // (VALUE_BYTES[dtype] + 1) for size in RECORD_BYTES)])
    allowed = capacities[capacities <= max(int(counts_N.max(initial=0)), int(capacities[1]))]
    filled_N, carry = np.empty_like(counts_N), 0
    for row, count in enumerate(counts_N.tolist()):
        wanted = count + carry
        filled_N[row] = allowed[np.abs(allowed - wanted).argmin()] if wanted > 0 else 0
        carry = wanted - int(filled_N[row])
    if carry < 0:
        return _less(filled_N, -carry)
    return filled_N


def random_keys(seed: int) -> Keys:
    """Every cell as likely as any other."""

    def keys(first: int, tile_RD: torch.Tensor) -> NDArray[np.float32]:
        draws = uniform(seed, Stage.EXPLORE, first, tile_RD.numel())
        return draws.astype(np.float32).reshape(tile_RD.shape)

    return keys


def magnitude_keys(first: int, tile_RD: torch.Tensor) -> NDArray[np.float32]:
    """The largest entries of each row."""
    return tile_RD.abs().numpy()  # type: ignore[no-any-return]


def fill(table: SlotTable, counts_N: NDArray[np.int64], tiles: Tiles, keys: Keys, scale: float | None) -> None:
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
            counts_R = counts_N[first : first + rows]
            state = np.zeros((moments, len(values_X)), np.float32), np.zeros((len(counts_R), scalars), np.float32)
            rebuild.write(SlotBlock(first, counts_R, columns_X, values_X * np.float32(factor), *state))


def choose(keys_RD: NDArray[np.float32], counts_R: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Ascending columns of the largest keys of every row, row after row."""
    columns_X = np.empty(int(counts_R.sum()), np.uint8)
    largest_columns(keys_RD, np.cumsum(counts_R) - counts_R, counts_R, columns_X)
    return columns_X


def _chosen(
    table: SlotTable, counts_N: NDArray[np.int64], tiles: Tiles, keys: Keys
) -> Iterator[tuple[int, int, NDArray[np.uint8], NDArray[np.float32]]]:
    for first, last in table.blocks():
        tile_RD, counts_R = tiles(first, last), counts_N[first:last]
        columns_X = choose(keys(first, tile_RD), counts_R)
        yield first, last - first, columns_X, tile_RD.numpy()[np.repeat(np.arange(last - first), counts_R), columns_X]


def _less(counts_N: NDArray[np.int64], excess: int) -> NDArray[np.int64]:
    """Counts that are `excess` lower in sum: taken from the last rows that have some."""
    below_N = np.cumsum(counts_N[::-1])[::-1]
    cut_N = np.clip(excess - (below_N - counts_N), 0, counts_N)
    return counts_N - cut_N


def _check_room(num_rows: int, budget: int, most: int) -> None:
    if budget > num_rows * most:
        raise UsageError(
            f"a row stores at most {most} values, so {num_rows:,} rows cannot hold the budget of {budget:,}; "
            "lower table.budget or table.base_width"
        )
