"""The GPU's side of `gcnrec.device`: the kernels of this folder on torch's current stream; no call waits for the device.

Letters: P rows of a plane, R rows, C columns, B entries, D width, X stored values, K counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from gcnrec.cuda import slots as records
from gcnrec.cuda import update
from gcnrec.cuda.gather import gather
from gcnrec.cuda.propagate import Csr as DeviceCsr
from gcnrec.cuda.propagate import propagate
from gcnrec.cuda.reduce import reduce_rows
from gcnrec.graph import Csr, transpose
from gcnrec.rows import Rules


@dataclass(frozen=True, slots=True)
class CudaProduct:
    """The matrix by rows and by columns, so that either product has one owner for every sum."""

    by_rows: DeviceCsr
    by_columns: DeviceCsr

    def times(self, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        return propagate(self.by_rows, source_CD.contiguous(), row_scale_R, column_scale_C)

    def transposed_times(self, grad_RD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        return propagate(self.by_columns, grad_RD.contiguous(), column_scale_C, row_scale_R)


class CudaOps:
    """Every function of `gcnrec.device.Ops`, on one GPU."""

    rules: Rules = update

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def place(self, values: NDArray[Any]) -> torch.Tensor:
        # copy: through pinned memory, which torch keeps until the copy is over, without a wait
        return torch.from_numpy(values).pin_memory().to(self._device, non_blocking=True)

    def gather(self, plane_PD: torch.Tensor, index_R: torch.Tensor) -> torch.Tensor:
        return gather(plane_PD, index_R)

    def reduce_rows(self, index_B: torch.Tensor, grad_BD: torch.Tensor, num_rows: int) -> torch.Tensor:
        return reduce_rows(index_B, grad_BD.contiguous(), num_rows)

    def softmax_gradient_(self, logits_CJ: torch.Tensor, goal_C: torch.Tensor) -> torch.Tensor:
        own_C1 = logits_CJ.gather(1, goal_C[:, None])
        losses_C = torch.logsumexp(logits_CJ, 1) - own_C1[:, 0]
        torch.softmax(logits_CJ, 1, out=logits_CJ)
        logits_CJ.scatter_add_(1, goal_C[:, None], torch.full_like(own_C1, -1.0))
        return losses_C

    def product(self, csr: Csr) -> CudaProduct:
        flipped = transpose(csr)
        sides = [(each.indptr, each.indices, each.columns) for each in (csr, flipped)]
        by_rows, by_columns = (DeviceCsr(self.place(indptr), self.place(indices), columns) for indptr, indices, columns in sides)
        return CudaProduct(by_rows, by_columns)

    def slots(
        self, location_R: torch.Tensor, count_R: torch.Tensor, values: torch.Tensor, columns: torch.Tensor,
        capacity_K: torch.Tensor,
    ) -> records.Slots:  # fmt: skip
        return records.Slots(location_R, count_R, values, columns, capacity_K)

    def decode(self, slots: records.Slots, rows_R: torch.Tensor, out_RD: torch.Tensor) -> None:
        records.decode(slots, rows_R, out_RD)

    def pick(
        self, slots: records.Slots, rows_R: torch.Tensor, tile_RD: torch.Tensor, at_R: torch.Tensor, out_X: torch.Tensor
    ) -> None:
        records.pick(slots, rows_R, tile_RD.contiguous(), at_R, out_X)
