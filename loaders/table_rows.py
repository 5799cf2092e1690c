"""A table as other libraries see it: rows of the users, or of the items, read and trained by their own numbers.

Letters: V numbers given, R distinct rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.loaders.subgraph import within
from gcnrec.rows import Ticket
from gcnrec.tables.dense import StepTable
from gcnrec.tables.rules import Rule


@dataclass(frozen=True)
class TableRows:
    """Rows `first .. first + count - 1` of `table`, addressed from 0. Numbers may come in any order and more than once."""

    table: StepTable
    first: int
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.count, self.table.width

    def read(self, numbers_V: NDArray[np.integer]) -> torch.Tensor:
        """These rows, float32 (V, D), a copy. UsageError for numbers out of range."""
        ticket, where_V = self._distinct(numbers_V)
        tile_RD = self.table.decode(self.table.read(ticket, with_state=False))
        return tile_RD[torch.from_numpy(where_V)]

    def update(self, rule: Rule, numbers_V: NDArray[np.integer], grad_VD: torch.Tensor, step: int, rate: float) -> None:
        """Train the rows by the gradient with respect to what `read` gave, summed where a number comes twice.

        `step` counts from 1 and never falls.
        """
        ticket, where_V = self._distinct(numbers_V)
        tile_RD = torch.zeros(len(ticket.rows_R), grad_VD.shape[1]).index_add_(0, torch.from_numpy(where_V), grad_VD)
        rows = self.table.read(ticket, with_state=True)
        self.table.write(rule.update(rows, self.table.stored(ticket, tile_RD), step, rate))

    def _distinct(self, numbers_V: NDArray[np.integer]) -> tuple[Ticket, NDArray[np.int64]]:
        """Table rows, ascending and unique, and where each number's stands among them."""
        rows_R, where_V = np.unique(within(numbers_V, self.count, "row").astype(np.int64), return_inverse=True)
        return Ticket(rows_R + self.first), where_V
