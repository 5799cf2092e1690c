"""Rows, their optimizer state and their gradient as spans of flat memories, dense or slots alike, and the kernels on them.

Tensors lie where kernels read them; `rows_R` is the host's own list of row numbers.
Letters: N rows of the table, R rows read, X their stored values, B entries of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Array = TypeVar("Array")
"""Arrays of the host as long as a batch is prepared there, tensors where kernels read them."""


class Entries(NamedTuple, Generic[Array]):
    """Entries of a batch by the row that each belongs to, all int64: entry b is of row `index_B[b]`.

    The entries of row r are `order_B[start_R1[r] : start_R1[r + 1]]`, ascending.
    """

    index_B: Array
    order_B: Array
    start_R1: Array


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One reading of rows `rows_R` (int64, ascending, unique). Two tickets of equal rows are two readings.

    `prefetch` of a table gives a ticket whose rows are on their way; rows of any other ticket are read when they are first used.
    """

    rows_R: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class State:
    """Optimizer state of rows: flat float32 `values` in which row r's starts at `at_R[r]` (int64); `last_N` int32, the step of
    each table row's last update."""

    values: torch.Tensor
    at_R: torch.Tensor
    last_N: torch.Tensor


class RowNumbers(NamedTuple):
    """Row r of a table is node `r * stride + first`. Worker w of W, which holds the nodes n with n % W == w, has (W, w)."""

    stride: int = 1
    first: int = 0


ALL_NODES = RowNumbers()
"""A row's number is its node's."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of `ticket` where they lie: row r's `count_R[r]` values start at `weights[at_R[r]]`.

    `weights` is the flat memory of a plane: float32, or uint16 that holds bfloat16. `index_R`, `at_R` and `count_R` are int64,
    and `index_R` is `rows_R` again, where kernels can read it. `last_N` is indexed by `rows_R`, and random rounding is keyed by
    the nodes that `numbers` makes of it: a node's values get the same bits in each table.
    """

    ticket: Ticket
    index_R: torch.Tensor
    weights: torch.Tensor
    at_R: torch.Tensor
    count_R: torch.Tensor
    state: State | None
    numbers: RowNumbers = ALL_NODES

    @property
    def rows_R(self) -> NDArray[np.int64]:
        return self.ticket.rows_R

    def require_state(self) -> State:
        """The state. ValueError when the rows were read without it."""
        if self.state is None:
            raise ValueError("rows were read without their state; read them with_state=True before an update")
        return self.state


@dataclass(frozen=True, slots=True)
class RowGrad:
    """Gradient of the loss with respect to the stored values of the rows of `ticket`: flat float32 `values_X` in which row r's
    begins at `at_R[r]` (int64), in the order in which the table stores them.

    `bad` is int32 (1), where kernels can read it. An update leaves weights and state as they are where `bad` is not 0.
    """

    ticket: Ticket
    values_X: torch.Tensor
    at_R: torch.Tensor
    bad: torch.Tensor | None = None

    @property
    def rows_R(self) -> NDArray[np.int64]:
        return self.ticket.rows_R


@dataclass(frozen=True)
class AdamSettings:
    """Decay of the first and of the second moment, and what is added to the root (Kingma & Ba 2015)."""

    beta1: float
    beta2: float
    epsilon: float


class Rules(Protocol):
    """The kernel of each update rule: new weights and state of `rows`, in place, at `step` (1, 2, ...) with a learning rate.

    `gcnrec.ops.update` and `gcnrec.cuda.update` are such modules. Rows and gradient have equal `rows_R`. Where `grad.bad` is not
    0, weights, state and `last_N` stay as they are.
    """

    def sgd(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> None: ...

    def adagrad_row(self, rows: Rows, grad: RowGrad, step: int, rate: float, epsilon: float) -> None: ...

    def adam(self, rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings) -> None: ...

    def adam_row(self, rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings) -> None: ...

    def adam_dense(self, rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings) -> None: ...
