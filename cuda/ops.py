"""The GPU's side of `gcnrec.device`: the kernels of this folder on torch's current stream; no call waits for the device.

Letters: P rows of a plane, R rows, C columns, B entries, D width, X stored values or entries of a matrix, K counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

import torch
from numpy.typing import NDArray

from gcnrec.cuda import features as feature_rows
from gcnrec.cuda import slots as records
from gcnrec.cuda import update
from gcnrec.cuda.gather import gather
from gcnrec.cuda.guard import flag_nonfinite
from gcnrec.cuda.propagate import Csr as DeviceCsr
from gcnrec.cuda.propagate import propagate
from gcnrec.cuda.reduce import reduce_rows
from gcnrec.cuda.softmax import softmax_gradient_
from gcnrec.cuda.uploads import Packed, Uploads
from gcnrec.graph import Csr, transpose
from gcnrec.rows import Array, Entries, Rules

_SCORES = 1 << 28
"""Scores of a loss at a time, a gibibyte of them: all of a usual batch, in one go."""


class Edges(NamedTuple, Generic[Array]):
    """A matrix by rows and by columns: where each begins (int64), what its entries are in (int32), and the most of one."""

    indptr_R1: Array
    columns_X: Array
    indptr_C1: Array
    rows_X: Array
    longest_row: int
    longest_column: int


@dataclass(frozen=True, slots=True)
class CudaProduct:
    """The matrix by rows and by columns, so that either product has one owner for every sum."""

    by_rows: DeviceCsr
    by_columns: DeviceCsr

    def times(self, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        return propagate(self.by_rows, source_CD.contiguous(), row_scale_R, column_scale_C)

    def transposed_times(self, grad_RD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        return propagate(self.by_columns, grad_RD.contiguous(), column_scale_C, row_scale_R)


@dataclass(frozen=True, slots=True)
class Coming:
    """Numbers in pinned memory, there when `copied` is over."""

    hosts: tuple[torch.Tensor, ...]
    copied: torch.cuda.Event

    def numbers(self) -> list[float]:
        if not self.copied.query():
            self.copied.synchronize()  # synchronize: the host is as far ahead of the device as it may be
        return [float(host.numpy()[0]) for host in self.hosts]


class CudaOps:
    """Every function of `gcnrec.device.Ops`, on one GPU."""

    rules: Rules = update

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._uploads = Uploads(lambda nbytes: pinned(nbytes, torch.uint8), self._to_device)

    def pack(self, arrays: Sequence[NDArray[Any]]) -> Packed:
        return self._uploads.pack(arrays)

    def upload(self, packed: Packed) -> tuple[torch.Tensor, ...]:
        return self._uploads.upload(packed)

    def sent(self, tensors: Sequence[torch.Tensor]) -> Coming:
        hosts = tuple(pinned(tensor.numel(), tensor.dtype) for tensor in tensors)
        for host, tensor in zip(hosts, tensors, strict=True):
            host.copy_(tensor.view(-1), non_blocking=True)  # copy: one number, into pinned memory, without a wait
        copied = torch.cuda.Event()
        copied.record()
        return Coming(hosts, copied)

    def flag_nonfinite(self, tensors: Sequence[torch.Tensor], bad: torch.Tensor) -> None:
        flag_nonfinite(tensors, bad)

    def gather(self, plane_PD: torch.Tensor, index_R: torch.Tensor) -> torch.Tensor:
        return gather(plane_PD, index_R)

    def reduce_rows(self, entries: Entries[torch.Tensor], grad_BD: torch.Tensor) -> torch.Tensor:
        return reduce_rows(entries, grad_BD.contiguous())

    def scored_at_once(self, candidates: int) -> int:
        return max(1, _SCORES // max(candidates, 1))

    def softmax_gradient_(self, logits_CJ: torch.Tensor, goal_C: torch.Tensor) -> torch.Tensor:
        return softmax_gradient_(logits_CJ, goal_C)

    def edges(self, csr: Csr) -> Edges[NDArray[Any]]:
        flipped = transpose(csr)
        longest_row, longest_column = (int(each.degrees.max(initial=0)) for each in (csr, flipped))
        return Edges(csr.indptr, csr.indices, flipped.indptr, flipped.indices, longest_row, longest_column)

    def product(self, edges: Edges[torch.Tensor]) -> CudaProduct:
        rows, columns = len(edges.indptr_R1) - 1, len(edges.indptr_C1) - 1
        by_rows = DeviceCsr(edges.indptr_R1, edges.columns_X, columns, longest=edges.longest_row)
        by_columns = DeviceCsr(edges.indptr_C1, edges.rows_X, rows, longest=edges.longest_column)
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

    def features(
        self, values: torch.Tensor, pitch: int, width: int, dtype: str, grid: tuple[torch.Tensor, ...] | None
    ) -> feature_rows.Stored:
        return feature_rows.Stored(values, pitch, width, dtype, None if grid is None else feature_rows.Grid(*grid))

    def read_features(self, stored: feature_rows.Stored, index_R: torch.Tensor | None, out_RF: torch.Tensor) -> None:
        feature_rows.read_features(stored, index_R, out_RF)

    def _to_device(self, packed: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
        arrived = packed.to(self._device, non_blocking=True)  # copy: all arrays of a batch, pinned, without a wait
        # The queue of reads may be the current one, as rows are announced with it; steps read the rest.
        arrived.record_stream(torch.cuda.default_stream(self._device))
        copied = torch.cuda.Event()
        copied.record()
        return arrived, copied


def pinned(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Pinned memory of the host for so many numbers."""
    return torch.empty(size, dtype=dtype, pin_memory=True)
