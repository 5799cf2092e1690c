"""The CPU's side of `gcnrec.device`: tensors in, the numba kernels of this folder on their memory, tensors out.

Letters: P rows of a plane, R rows, C columns, B entries, D width, X stored values, K counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import Csr, transpose
from gcnrec.ops import features as feature_rows
from gcnrec.ops import slots as records
from gcnrec.ops import update
from gcnrec.ops.gather import gather
from gcnrec.ops.guard import flag_nonfinite
from gcnrec.ops.propagate import collect_rows, propagate
from gcnrec.ops.reduce import reduce_rows
from gcnrec.ops.softmax import softmax_gradient_
from gcnrec.rows import Entries, Rules

SCORES_AT_ONCE = 1 << 19
"""Of users against a pool: 2 MiB stay in the cache of a core (measured: a tenth faster than 14 MiB)."""
LEAST_USERS, MOST_USERS = 64, 512
"""Of a product of matrices, which is slow with fewer rows."""


@dataclass(frozen=True, slots=True)
class CpuProduct:
    """Rows of the matrix are summed in the order of their columns, sums over rows in the order of the rows.

    `flipped` is the transpose, by which sums over rows are made.
    """

    csr: Csr
    flipped: Csr

    def times(self, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        return propagate(self.csr, source_CD, row_scale_R, column_scale_C)

    def transposed_times(self, grad_RD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        return collect_rows(self.flipped, grad_RD, row_scale_R, column_scale_C)


@dataclass(frozen=True, slots=True)
class Here:
    """Numbers that the host has already."""

    values: list[float]

    def numbers(self) -> list[float]:
        return self.values


class CpuOps:
    """Every function of `gcnrec.device.Ops`."""

    rules: Rules = update

    def pack(self, arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return arrays

    def upload(self, packed: Sequence[NDArray[Any]]) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(array) for array in packed)

    def sent(self, tensors: Sequence[torch.Tensor]) -> Here:
        return Here([float(tensor) for tensor in tensors])

    def flag_nonfinite(self, tensors: Sequence[torch.Tensor], bad: torch.Tensor) -> None:
        flag_nonfinite(tensors, bad)

    def gather(self, plane_PD: torch.Tensor, index_R: torch.Tensor) -> torch.Tensor:
        return gather(plane_PD, index_R.numpy())

    def reduce_rows(self, entries: Entries[torch.Tensor], grad_BD: torch.Tensor) -> torch.Tensor:
        return reduce_rows(entries, grad_BD)

    def scored_at_once(self, candidates: int) -> int:
        fitting = SCORES_AT_ONCE // max(candidates, 1)
        return min(max(1 << fitting.bit_length() - 1 if fitting else 0, LEAST_USERS), MOST_USERS)

    def softmax_gradient_(self, logits_CJ: torch.Tensor, goal_C: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(softmax_gradient_(logits_CJ, goal_C.numpy()))

    def edges(self, csr: Csr) -> CpuProduct:
        return CpuProduct(csr, transpose(csr))

    def product(self, edges: CpuProduct) -> CpuProduct:
        return edges

    def slots(
        self, location_R: torch.Tensor, count_R: torch.Tensor, values: torch.Tensor, columns: torch.Tensor,
        capacity_K: torch.Tensor,
    ) -> records.Slots:  # fmt: skip
        location = location_R.numpy().view(np.uint32)
        return records.Slots(location, count_R.numpy(), values.numpy(), columns.numpy(), capacity_K.numpy())

    def decode(self, slots: records.Slots, rows_R: torch.Tensor, out_RD: torch.Tensor) -> None:
        records.decode(slots, rows_R.numpy(), out_RD.numpy())

    def pick(
        self, slots: records.Slots, rows_R: torch.Tensor, tile_RD: torch.Tensor, at_R: torch.Tensor, out_X: torch.Tensor
    ) -> None:
        records.pick(slots, rows_R.numpy(), tile_RD.numpy(), at_R.numpy(), out_X.numpy())

    def features(
        self, values: torch.Tensor, pitch: int, width: int, dtype: str, grid: tuple[torch.Tensor, ...] | None
    ) -> feature_rows.Stored:
        parts = None if grid is None else feature_rows.Grid(*(part.numpy() for part in grid))
        return feature_rows.Stored(values.numpy(), pitch, width, dtype, parts)

    def read_features(self, stored: feature_rows.Stored, index_R: torch.Tensor | None, out_RF: torch.Tensor) -> None:
        feature_rows.read_features(stored, None if index_R is None else index_R.numpy(), out_RF.numpy())
