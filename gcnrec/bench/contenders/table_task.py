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
        counts_N = self.cells["counts"].numpy().astype(np.int64)
        starts_R, counts_R = (np.cumsum(counts_N) - counts_N)[rows_R], counts_N[rows_R]
        row_of = np.repeat(np.arange(len(rows_R)), counts_R)
        at = np.repeat(starts_R - np.cumsum(counts_R) + counts_R, counts_R) + np.arange(len(row_of))
        marks_RD = np.zeros((len(rows_R), self.width), bool)
        marks_RD[row_of, self.cells["columns"].numpy()[at]] = True
        return torch.from_numpy(marks_RD)


class Contender(Protocol):
    """Rows that can be read, and updated by Adam; `dtype` is how values are stored."""

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, rows_R: NDArray[np.int64]) -> torch.Tensor:
        """A new dense tile, float32 (R, D)."""
        ...

    def update_of(self, rows_R: NDArray[np.int64], grad_RD: torch.Tensor, step: int) -> Callable[[], None]:
        """What updates the rows when it is called; what can be done before the gradient is there has been done."""
        ...

    def step_of(self, batch: Batch) -> Callable[[], Any] | None:
        """What trains on the batch when it is called; None where torch has no such training step."""
        ...
