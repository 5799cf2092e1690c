"""Row tables: N rows of width D, read and updated by row number.

Two planes with one index: weights, and optimizer state, which a forward-only read never touches.
A `Rows` names places in planes; on the CPU these are the table's own planes, so that an update works in place and `write`
has nothing to copy. A table in pinned memory reads into staging planes instead, and `write` sends them back.

Letters: N rows of the table, P rows of a plane, R rows read, D width, S floats of state per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.ops.gather import gather

LINE_BYTES = 128
"""Rows start on (or evenly share) lines of this size, the unit of a zero-copy read from a GPU."""


@dataclass(frozen=True, slots=True)
class State:
    """Optimizer state of the rows of a plane: `values_PS` float32 and `last_P` int32, the step of a row's last update."""

    values_PS: torch.Tensor
    last_P: torch.Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `rows_R` (int64, ascending, unique) of a table; row r lies at `index_R[r]` of `weights_PD` and of the state."""

    rows_R: NDArray[np.int64]
    index_R: NDArray[np.int64]
    weights_PD: torch.Tensor
    state: State | None


@dataclass(frozen=True, slots=True)
class RowGrad:
    """Gradient of the loss with respect to rows: `rows_R` int64 ascending and unique, `grad_RD` float32."""

    rows_R: NDArray[np.int64]
    grad_RD: torch.Tensor


class Table(Protocol):
    """What training needs of a table, wherever and however its rows are stored."""

    @property
    def num_rows(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def num_values(self) -> int: ...

    def read(self, rows_R: NDArray[np.int64], with_state: bool) -> Rows: ...

    def decode(self, rows: Rows) -> torch.Tensor:
        """The rows as a new dense tile, float32 (R, D)."""
        ...

    def write(self, rows: Rows) -> None:
        """Make updated rows the table's content."""
        ...

    def columns(self, first: int, last: int) -> torch.Tensor:
        """Columns `first .. last-1` of every row, float32 (N, last - first): a view where the layout allows."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint must hold, by name; views, not copies."""
        ...


class DenseTable:
    """Every value of every row, in RAM. The state plane is allocated by the update rule's width S (0: none)."""

    def __init__(self, weights_ND: torch.Tensor, state_width: int) -> None:
        self._weights = aligned(*weights_ND.shape)
        self._weights.copy_(weights_ND)  # copy: into rows that start on lines
        values = aligned(len(weights_ND), state_width)
        self._state = State(values.zero_(), torch.zeros(len(weights_ND), dtype=torch.int32))

    @property
    def num_rows(self) -> int:
        return len(self._weights)

    @property
    def width(self) -> int:
        return self._weights.shape[1]

    @property
    def num_values(self) -> int:
        return self._weights.numel()

    @property
    def state_bytes(self) -> int:
        return 4 * (self._state.values_PS.numel() + self._state.last_P.numel())

    def read(self, rows_R: NDArray[np.int64], with_state: bool) -> Rows:
        return Rows(rows_R, rows_R, self._weights, self._state if with_state else None)

    def decode(self, rows: Rows) -> torch.Tensor:
        return gather(rows.weights_PD, rows.index_R)

    def write(self, rows: Rows) -> None:
        """Nothing to do: `read` handed out the planes themselves."""

    def columns(self, first: int, last: int) -> torch.Tensor:
        return self._weights[:, first:last]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weights": self._weights, "state": self._state.values_PS, "last": self._state.last_P}


def aligned(rows: int, width: int) -> torch.Tensor:
    """An uninitialised float32 (rows, width) whose first row starts on a line and whose rows never straddle one needlessly.

    The pitch is the row size rounded up to a line, or to a power of two below one.
    """
    row_bytes = max(4 * width, 4)
    pitch = -(-row_bytes // LINE_BYTES) * LINE_BYTES if row_bytes > LINE_BYTES // 2 else 1 << (row_bytes - 1).bit_length()
    buffer = torch.empty(rows * pitch // 4 + LINE_BYTES // 4)
    skip = -buffer.data_ptr() % LINE_BYTES // 4
    return buffer[skip : skip + rows * pitch // 4].view(rows, pitch // 4)[:, :width]
