"""Copies of some rows of a table and of their state, where a device can work on them: all that a step does with a table.

Letters: N rows of the table, R rows at hand, D width, X stored values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import ops_for
from gcnrec.queues import Spans
from gcnrec.rows import RowGrad, Rows, State


class StagedRows(Protocol):
    """Rows in the order of their numbers; updates change the copies."""

    def read(self, with_state: bool) -> Rows: ...

    def decode(self) -> torch.Tensor:
        """Dense rows as a new tile, float32 (R, D)."""
        ...

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        """The gradient of the stored values, from that of whole rows."""
        ...


@dataclass(frozen=True, slots=True)
class StagedDense:
    """Whole rows, one after the other in `weights` and `state`; `last_N` is that of the table."""

    rows_R: NDArray[np.int64]
    index_R: torch.Tensor
    width: int
    weights: Spans
    state: Spans
    last_N: torch.Tensor

    def read(self, with_state: bool) -> Rows:
        state = State(self.state.memory, self.state.at_R, self.last_N) if with_state else None
        return Rows(self.rows_R, self.index_R, self.weights.memory, self.weights.at_R, self.weights.length_R, state)

    def decode(self) -> torch.Tensor:
        # copy: an update changes the rows while autograd still holds the tile
        return self.weights.memory.view(len(self.rows_R), self.width).clone()

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        return RowGrad(self.rows_R, tile_RD.contiguous().view(-1), self.weights.at_R)


@dataclass(frozen=True, slots=True)
class StagedSlots:
    """Records, one after the other, as a small arena: `slots` counts rows from 0. Row r has `count_R[r]` values, which start
    at `values[at_R[r]]`; there are `num_values` in all."""

    rows_R: NDArray[np.int64]
    index_R: torch.Tensor
    width: int
    slots: Any
    values: torch.Tensor
    at_R: torch.Tensor
    count_R: torch.Tensor
    num_values: int
    state: Spans
    last_N: torch.Tensor

    def read(self, with_state: bool) -> Rows:
        state = State(self.state.memory, self.state.at_R, self.last_N) if with_state else None
        return Rows(self.rows_R, self.index_R, self.values, self.at_R, self.count_R, state)

    def decode(self) -> torch.Tensor:
        out_RD = torch.empty(len(self.rows_R), self.width, device=self.at_R.device)
        ops_for(out_RD.device).decode(self.slots, self._own_R(), out_RD)
        return out_RD

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        at_R = self.count_R.cumsum(0) - self.count_R
        values_X = torch.empty(self.num_values, device=at_R.device)
        ops_for(at_R.device).pick(self.slots, self._own_R(), tile_RD, at_R, values_X)
        return RowGrad(self.rows_R, values_X, at_R)

    def _own_R(self) -> torch.Tensor:
        return torch.arange(len(self.rows_R), device=self.at_R.device)
