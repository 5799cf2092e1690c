"""The first support of a sparse table: which columns each row stores, and their values (how many: `gcnrec.sparsity.row_counts`).

Letters: N rows, R rows of a block, D width, X chosen cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.random import Stage, uniform
from gcnrec.sparsity.select import largest_columns
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable

Tiles = Callable[[int, int], torch.Tensor]
"""Rows first .. last-1 of a dense start, float32 (last - first, D)."""
Keys = Callable[[int, torch.Tensor], NDArray[np.float32]]
"""What the cells of a tile are chosen by, the larger the better: (first row, tile) -> float32 (R, D)."""


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
