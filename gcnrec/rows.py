"""What a table hands to update rules, and what gradients look like: rows as spans of flat memories, dense or slots alike.

Tensors lie where the table computes; `rows_R` is the host's own list of row numbers.
Letters: N rows of the table, R rows at hand, X stored values at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class State:
    """Optimizer state of rows: flat float32 `values` in which row r's starts at `at_R[r]` (int64); `last_N` int32, the step of
    each table row's last update."""

    values: torch.Tensor
    at_R: torch.Tensor
    last_N: torch.Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `rows_R` (int64, ascending, unique) where they lie: row r's `count_R[r]` values start at `weights[at_R[r]]`.

    `weights` is the flat memory of a plane: float32, or uint16 that holds bfloat16. `index_R`, `at_R` and `count_R` are int64,
    and `index_R` is `rows_R` again, where kernels can read it.
    """

    rows_R: NDArray[np.int64]
    index_R: torch.Tensor
    weights: torch.Tensor
    at_R: torch.Tensor
    count_R: torch.Tensor
    state: State | None


@dataclass(frozen=True, slots=True)
class RowGrad:
    """Gradient of the loss with respect to the stored values of rows: `rows_R` int64 ascending and unique, and flat float32
    `values_X` in which row r's begins at `at_R[r]` (int64), in the order in which the table stores them."""

    rows_R: NDArray[np.int64]
    values_X: torch.Tensor
    at_R: torch.Tensor
