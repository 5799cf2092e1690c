"""What a policy of dynamic sparse learning is: it chooses a sparse table's first support and changes it while it trains.

A policy never sees more than a block of rows at a time, and every exchange keeps the budget exactly (`gcnrec.sparsity.exchange`).
Letters: N rows, R rows of a block, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.sparsity.exchange import Change
from gcnrec.sparsity.first_support import Keys
from gcnrec.tables.slots import SlotTable


class Gradients(Protocol):
    """The mean gradient of every cell, stored or not, over the batches it was asked for."""

    def tile(self, first: int, last: int) -> NDArray[np.float32]:
        """Rows first .. last-1, float32 (R, D), to be written to."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """When an exploration happens: `progress` of all training steps done (0..1), `number` is its index, from 0."""

    progress: float
    number: int


class Policy(Protocol):
    """`batches`: fresh batches whose mean gradient `explore` wants (0: none); `stop`: share of training that it explores."""

    @property
    def batches(self) -> int: ...

    @property
    def stop(self) -> float: ...

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int16]:
        """Values stored of every row at the start."""
        ...

    def first_keys(self, seed: int) -> Keys:
        """What the first support is chosen by."""
        ...

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change: ...


def steepest(gradients: Gradients | None) -> Callable[[int, int], NDArray[np.float32]]:
    """Cells by the magnitude of their gradient."""
    assert gradients is not None  # asked for by `batches`
    return lambda first, last: np.abs(gradients.tile(first, last))
