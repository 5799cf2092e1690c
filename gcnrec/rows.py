"""What a table hands to update rules, and what gradients look like: rows as spans of flat memories, dense or slots alike.

Letters: N rows of the table, R rows at hand, X stored values at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class State:
    """Optimizer state of rows: flat float32 `values` in which row r's starts at `at_R[r]`; `last_N` int32, the step of each
    table row's last update."""

    values: torch.Tensor
    at_R: NDArray[np.int64]
    last_N: torch.Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `rows_R` (int64, ascending, unique) where they lie: row r's `count_R[r]` values start at `weights[at_R[r]]`.

    `weights` is the flat memory of a plane: float32, or uint16 that holds bfloat16.
    """

    rows_R: NDArray[np.int64]
    weights: NDArray[np.float32] | NDArray[np.uint16]
    at_R: NDArray[np.int64]
    count_R: NDArray[np.int64]
    state: State | None


@dataclass(frozen=True, slots=True)
class RowGrad:
    """Gradient of the loss with respect to the stored values of rows: `rows_R` int64 ascending and unique, and flat float32
    `values_X` in which row r's begins at `at_R[r]`, in the order in which the table stores them."""

    rows_R: NDArray[np.int64]
    values_X: torch.Tensor
    at_R: NDArray[np.int64]
