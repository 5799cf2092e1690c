"""Peers of the pipeline: tables in host memory whose rows the CPU gathers and copies to a device, and takes back after a step.

Letters: N rows of the table, R rows of a batch, D width, S floats of state per row.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.ops.gather import gather, padded
from gcnrec.ops.slots import copy_spans
from gcnrec.queues import Spans
from gcnrec.rows import RowGrad, Rows, Ticket
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.staged import StagedDense

Parts = tuple[torch.Tensor, ...]
"""Weights (R, D) and state (R, S)."""


class Pageable:
    """Each batch's rows by `t[index].to(device)`, and `t[index] = rows.cpu()` after the update."""

    def __init__(self, table: DenseTable, device: torch.device) -> None:
        self._table, self._device = table, device
        tensors = table.tensors()
        self._planes = tensors["weights"], tensors["state"]
        self._last_N = table.last_N.to(device, copy=True)
        self._current: StagedDense | None = None
        self.num_rows, self.width = table.num_rows, table.width

    @property
    def device(self) -> torch.device:
        return self._device

    def announcing(self) -> AbstractContextManager[Any]:
        """Everything runs in one queue."""
        return nullcontext()

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        """A ticket alone: rows are read on demand."""
        return Ticket(rows_R)

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        return self._at(ticket).read(with_state)

    def decode(self, rows: Rows) -> torch.Tensor:
        return self._at(rows.ticket).decode()

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        return self._at(ticket).stored(tile_RD)

    def write(self, rows: Rows) -> None:
        staged = self._at(rows.ticket)
        count = len(rows.rows_R)
        self._put(rows.rows_R, (staged.weights.memory.view(count, -1), staged.state.memory.view(count, -1)))
        self._current = None

    def drained(self) -> DenseTable:
        self._table.last_N.copy_(self._last_N)
        return self._table

    def _at(self, ticket: Ticket) -> StagedDense:
        if self._current is None or ticket != self._current.ticket:
            parts = self._taken(ticket)
            index_R = torch.from_numpy(ticket.rows_R).to(self._device)
            weights, state = (_packed(part) for part in parts)
            self._current = StagedDense(ticket, index_R, self.width, weights, state, self._last_N)
        return self._current

    def _taken(self, ticket: Ticket) -> Parts:
        """The rows on the device."""
        index_R = torch.from_numpy(ticket.rows_R)
        return tuple(plane[index_R].to(self._device) for plane in self._planes)

    def _put(self, rows_R: NDArray[np.int64], parts: Parts) -> None:
        index_R = torch.from_numpy(rows_R)
        for plane, part in zip(self._planes, parts, strict=True):
            plane[index_R] = part.cpu()


class Pinned(Pageable):
    """The same through buffers of pinned memory that are used again, gathered and spread by all cores."""

    def __init__(self, table: DenseTable, device: torch.device) -> None:
        super().__init__(table, device)
        self._down, self._up = _Buffers(self._planes, device), _Buffers(self._planes, device)

    def _taken(self, ticket: Ticket) -> Parts:
        # `_put` waits for the device, so the copy from these buffers one batch ago is over
        return tuple(part.to(self._device, non_blocking=True) for part in self._gathered(self._up, ticket.rows_R))

    def _gathered(self, buffers: _Buffers, rows_R: NDArray[np.int64]) -> Parts:
        parts = zip(self._planes, buffers.of(len(rows_R)), strict=True)
        return tuple(gather(plane, rows_R, part) for plane, part in parts)

    def _put(self, rows_R: NDArray[np.int64], parts: Parts) -> None:
        back = self._down.of(len(rows_R))
        for part, buffer in zip(parts, back, strict=True):
            buffer.copy_(part, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # synchronize: the cores spread what has arrived
        for plane, buffer in zip(self._planes, back, strict=True):
            _spread(buffer, plane, rows_R)


class Prefetched(Pinned):
    """The same, gathered by a thread while the previous batch trains, as by a loader that runs ahead: rows that two batches in
    a row share come one step old. Ours are never old; this peer does not pay for that."""

    def __init__(self, table: DenseTable, device: torch.device) -> None:
        super().__init__(table, device)
        self._thread = ThreadPoolExecutor(1, "gather")
        self._turns = _Buffers(self._planes, device), _Buffers(self._planes, device)
        self._turn = 0
        self._coming: dict[Ticket, Future[Parts]] = {}

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        self._turn, ticket = 1 - self._turn, Ticket(rows_R)
        self._coming[ticket] = self._thread.submit(self._gathered, self._turns[self._turn], rows_R)
        return ticket

    def _taken(self, ticket: Ticket) -> Parts:
        if ticket not in self._coming:
            return super()._taken(ticket)
        return tuple(part.to(self._device, non_blocking=True) for part in self._coming.pop(ticket).result())


class _Buffers:
    """Memory for the rows of a batch, pinned for a GPU; grows with the largest batch."""

    def __init__(self, planes: Parts, device: torch.device) -> None:
        self._widths = tuple(plane.shape[1] for plane in planes)
        self._pinned, self._rows = device.type == "cuda", 0
        self._memory: list[torch.Tensor] = []

    def of(self, rows: int) -> Parts:
        if rows > self._rows:
            self._rows = rows + rows // 8
            self._memory = [torch.empty(self._rows, width, pin_memory=self._pinned) for width in self._widths]
        return tuple(memory[:rows] for memory in self._memory)


def _packed(part_RD: torch.Tensor) -> Spans:
    rows, width = part_RD.shape
    at_R = torch.arange(rows, device=part_RD.device) * width
    return Spans(part_RD.reshape(-1), at_R, torch.full_like(at_R, width))


def _spread(part_RD: torch.Tensor, plane_ND: torch.Tensor, rows_R: NDArray[np.int64]) -> None:
    width = part_RD.shape[1]
    flat, lengths_R = padded(plane_ND).reshape(-1), np.full(len(rows_R), width)
    copy_spans(part_RD.reshape(-1).numpy(), np.arange(len(rows_R)) * width, flat, rows_R * plane_ND.stride(0), lengths_R)
