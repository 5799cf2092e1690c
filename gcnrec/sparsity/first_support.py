"""The first support of a sparse table: which columns each row stores, and their values (how many: `gcnrec.sparsity.row_counts`).

Letters: N rows, R rows of a block, D width, X chosen cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.random import Stage, uniform32
from gcnrec.sparsity.select import largest_columns
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable


class Drawn(Protocol):
    """Rows of which each cell can be drawn alone, (R, D)."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def at(self, rows_X: NDArray[np.int64], columns_X: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The cells in these rows, from 0, and columns, float32 (X)."""
        ...


Tiles = Callable[[int, int], "torch.Tensor | Drawn"]
"""Rows first .. last-1 of a dense start, float32 (last - first, D); `Drawn` only for keys that read no cell."""
Keys = Callable[[int, torch.Tensor], NDArray[np.float32]]
"""What the cells of a tile are chosen by, the larger the better: (first row, tile) -> float32 (R, D)."""


@dataclass(frozen=True, slots=True)
class RandomKeys:
    """Every cell as likely as any other."""

    seed: int

    def __call__(self, first: int, tile_RD: torch.Tensor | Drawn) -> NDArray[np.float32]:
        rows, width = tile_RD.shape
        return uniform32(self.seed, Stage.EXPLORE, first, rows * width).reshape(rows, width)


def random_keys(seed: int) -> Keys:
    """`RandomKeys` of a seed."""
    return RandomKeys(seed)


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
        keys_RD = keys(first, cast(torch.Tensor, tile_RD))
        columns_X, rows_X = choose(keys_RD, counts_R), np.repeat(np.arange(last - first), counts_R)
        values_X = tile_RD.numpy()[rows_X, columns_X] if isinstance(tile_RD, torch.Tensor) else tile_RD.at(rows_X, columns_X)
        yield first, last - first, columns_X, values_X
