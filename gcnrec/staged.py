"""Copies of some rows of a table and of their state, where a device can work on them: all that a step does with a table.

Letters: N rows of the table, R rows at hand, D width, X stored values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.ops import slots as ops
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
    width: int
    weights: Spans
    state: Spans
    last_N: torch.Tensor

    def read(self, with_state: bool) -> Rows:
        state = State(self.state.memory, self.state.at_R, self.last_N) if with_state else None
        return Rows(self.rows_R, self.weights.memory.numpy(), self.weights.at_R, self.weights.length_R, state)

    def decode(self) -> torch.Tensor:
        return self.weights.memory.view(
            len(self.rows_R), self.width
        ).clone()  # copy: updates change the rows under autograd's feet

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        return RowGrad(self.rows_R, tile_RD.contiguous().view(-1), self.weights.at_R)


@dataclass(frozen=True, slots=True)
class StagedSlots:
    """Records, one after the other, as a small arena of their own: `slots` counts rows from 0."""

    rows_R: NDArray[np.int64]
    width: int
    slots: ops.Slots
    state: Spans
    last_N: torch.Tensor

    def read(self, with_state: bool) -> Rows:
        at_R = self.slots.location_N.astype(np.int64) * (ops.UNIT // self.slots.values.itemsize)
        state = State(self.state.memory, self.state.at_R, self.last_N) if with_state else None
        return Rows(self.rows_R, self.slots.values, at_R, self.slots.count_N.astype(np.int64), state)

    def decode(self) -> torch.Tensor:
        out_RD = torch.empty(len(self.rows_R), self.width)
        ops.decode(self.slots, np.arange(len(self.rows_R)), out_RD.numpy())
        return out_RD

    def stored(self, tile_RD: torch.Tensor) -> RowGrad:
        count_R = self.slots.count_N.astype(np.int64)
        at_R = np.cumsum(count_R) - count_R
        values_X = torch.empty(int(count_R.sum()))
        ops.pick(self.slots, np.arange(len(count_R)), tile_RD.numpy(), at_R, values_X.numpy())
        return RowGrad(self.rows_R, values_X, at_R)
