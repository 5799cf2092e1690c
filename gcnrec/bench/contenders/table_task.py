"""The contender of the bench of tables, and what each of them is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.contenders.recipe import Recipe
from gcnrec.graph import BipartiteGraph
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.slots import dense_rows


@dataclass(frozen=True)
class Task:
    """The same for every variant: the recipe, the graph, the chosen cells as `SlotTable.tensors`, a gradient for each batch."""

    recipe: Recipe
    graph: BipartiteGraph
    budget: int
    cells: dict[str, torch.Tensor]
    grads: list[torch.Tensor]

    @property
    def width(self) -> int:
        return self.recipe.plan.width

    def dense(self) -> torch.Tensor:
        """The rows as a new float32 (N, D)."""
        return dense_rows(self.cells, self.width)

    def chosen(self, rows_R: NDArray[np.int64]) -> torch.Tensor:
        """Marks the chosen cells of rows, bool (R, D)."""
        counts_N = self.cells["counts"].long()
        ends_R = counts_N.cumsum(0)[rows_R]
        row_Y, at_Y = places_in(ends_R - counts_N[rows_R], ends_R)
        marks_RD = torch.zeros(len(rows_R), self.width, dtype=torch.bool)
        marks_RD[row_Y, self.cells["columns"].long()[at_Y]] = True
        return marks_RD


def places_in(first_R: torch.Tensor, last_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every place in ranges first .. last-1: the number of its range, and the place."""
    counts_R = last_R - first_R
    row_Y = torch.repeat_interleave(torch.arange(len(counts_R)), counts_R)
    return row_Y, (first_R - counts_R.cumsum(0) + counts_R)[row_Y] + torch.arange(len(row_Y))


class Contender(Protocol):
    """Rows that can be read, and updated by Adam; `dtype` is how values are stored."""

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, rows_R: NDArray[np.int64]) -> torch.Tensor:
        """A new dense tile, float32 (R, D)."""
        ...

    def update_of(self, rows_R: NDArray[np.int64], grad_RD: torch.Tensor, step: int) -> Callable[[], None]:
        """The update of the rows, to be called; work that needs no gradient is done before."""
        ...

    def step_of(self, batch: Batch) -> Callable[[], Any] | None:
        """The training step on the batch, to be called; None where torch has none."""
        ...
