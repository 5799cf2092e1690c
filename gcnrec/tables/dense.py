"""Row tables: N rows of width D, read and updated by row number.

Two planes with one index: weights, and optimizer state, which a forward-only read never touches.
A `Rows` names places in planes: here the table's own, so that an update works in place and `write` has nothing to copy.
Behind a device (`gcnrec.tables.pipelined`) they are copies there, and `write` sends them back.
Models and update rules see no difference between dense rows and slots (`gcnrec.tables.slots`): gradients come row by row, at the
stored values only.

Letters: N rows of the table, R rows read, V chosen graph rows, D width, X values of the rows read, S floats of state per row.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import Csr
from gcnrec.ops.gather import gather, padded
from gcnrec.ops.propagate import propagate_rows, scatter_rows
from gcnrec.ops.slots import LINE_BYTES
from gcnrec.queues import Device
from gcnrec.rows import ALL_NODES, RowGrad, RowNumbers, Rows, State, Ticket
from gcnrec.storage.tensors import Saved
from gcnrec.tables.staged import Extent, LocatedDense, Plane

FILLED_ROWS = 1 << 16
"""Rows made at a time where a table starts, or caught up: draws take eight times the memory of what comes of them."""


EVERY_ROW = slice(None)
Allocate = Callable[[int], torch.Tensor]
"""Gives so many float32 values of flat, uninitialised memory: RAM, or a file that is mapped."""


def in_ram(length: int) -> torch.Tensor:
    """Pages that hold nothing else: a GPU's driver pins whole pages, and pins none of them twice."""
    page = mmap.PAGESIZE // 4
    whole = torch.empty(length + 2 * page)
    skip = -whole.data_ptr() % mmap.PAGESIZE // 4
    return whole[skip : skip + length]


class StepTable(Protocol):
    """What a training step needs of a table, wherever its rows are."""

    @property
    def num_rows(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def device(self) -> torch.device:
        """Where steps work on its rows."""
        ...

    def announcing(self) -> AbstractContextManager[Any]:
        """What the calling thread uploads inside is there before rows that `prefetch` announces next."""
        ...

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        """Announce rows that the next step reads while this one trains: the ticket reads them.

        `index_R` is `rows_R` once more, int64 where kernels read it, for a caller that has brought it there.
        """
        ...

    def read(self, ticket: Ticket, with_state: bool) -> Rows: ...

    def decode(self, rows: Rows) -> torch.Tensor:
        """The rows as a new dense tile, float32 (R, D)."""
        ...

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        """The gradient of the stored values, from that of whole rows."""
        ...

    def write(self, rows: Rows) -> None:
        """Make updated rows the table's content."""
        ...

    def drained(self) -> Table:
        """The whole table in host memory, with every update in it."""
        ...


class Table(StepTable, Protocol):
    """A whole table, as exports, explorations, checkpoints and full propagation need it."""

    @property
    def num_values(self) -> int: ...

    @property
    def max_values_seen(self) -> int:
        """The most values that were ever stored at one time."""
        ...

    @property
    def value_bytes(self) -> int: ...

    @property
    def index_bytes(self) -> int:
        """Bytes of locations, column numbers and padding: all but values and state."""
        ...

    @property
    def state_bytes(self) -> int: ...

    @property
    def peak_bytes(self) -> int:
        """The most that table, state and explorations together ever had allocated."""
        ...

    def columns(self, first: int, last: int, rows: slice = EVERY_ROW) -> torch.Tensor:
        """Columns `first .. last-1` of consecutive `rows`, float32 (R, last - first): a view where the layout allows."""
        ...

    def empty_gradient(self) -> RowGrad:
        """Zero for every row, to be added to by the methods below; valid until it is asked for again."""
        ...

    def add_rows(self, grad: RowGrad, rows_R: NDArray[np.int64], tile_RD: torch.Tensor) -> None:
        """Add the gradient of whole rows, all different."""
        ...

    def add_columns(self, grad: RowGrad, first: int, last: int, plane_NC: torch.Tensor) -> None:
        """Add the gradient of columns `first .. last-1` of every row."""
        ...

    def propagate_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        out_VD: torch.Tensor,
    ) -> None:  # fmt: skip
        """out[v] = row_scale * sum over c in row rows_V[v] of `csr` of column_scale[c] * row first_row + c of this table."""
        ...

    def scatter_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        grad_VD: torch.Tensor, grad: RowGrad,
    ) -> None:  # fmt: skip
        """The transpose of `propagate_rows`, added to `grad`."""
        ...

    def settle(self) -> None:
        """Bring rows that lag behind the last step to it. Only where a job says so: it may change the bits of later steps."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint must hold, by name."""
        ...

    def saved(self) -> Saved:
        """`tensors` for a file that is written while the table stays as it is; no copy of the table is made."""
        ...

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave; DataError when it is another kind or shape of table."""
        ...


class DenseTable:
    """Every value of every row, in RAM. The state plane is allocated by the update rule's width S (0: none).

    `numbers`: which nodes its rows are.
    """

    def __init__(
        self, weights_ND: torch.Tensor, state_width: int, allocate: Allocate = in_ram, numbers: RowNumbers = ALL_NODES,
    ) -> None:  # fmt: skip
        self.numbers = numbers
        self._weights = aligned(len(weights_ND), weights_ND.shape[1], allocate)
        self._weights.copy_(weights_ND)  # copy: into rows that start on lines
        self._state = aligned(len(weights_ND), state_width, allocate).zero_()
        self._last = torch.zeros(len(weights_ND), dtype=torch.int32)
        self._grad: torch.Tensor | None = None
        self.changes = 0

    def fill(self, block: Callable[[int, int], torch.Tensor]) -> None:
        """Overwrite all weights by rows first .. last-1 from `block(first, last)`, a range at a time."""
        for first in range(0, self.num_rows, FILLED_ROWS):
            last = min(first + FILLED_ROWS, self.num_rows)
            self._weights[first:last] = block(first, last)
        self.changes += 1

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
        return 4 * (self._state.numel() + self._last.numel())

    @property
    def value_bytes(self) -> int:
        return 4 * self.num_values

    @property
    def index_bytes(self) -> int:
        """Nothing points at values. The padding of rows to lines is not counted."""
        return 0

    @property
    def peak_bytes(self) -> int:
        """Dense from the first step to the last."""
        return self.value_bytes + self.state_bytes

    @property
    def max_values_seen(self) -> int:
        return self.num_values

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        index_R = torch.from_numpy(ticket.rows_R)
        counts_R, state = torch.full((len(index_R),), self.width), None
        if with_state:
            state = State(_flat(self._state), index_R * _pitch(self._state), self._last)
        return Rows(ticket, index_R, _flat(self._weights), index_R * _pitch(self._weights), counts_R, state, self.numbers)

    def decode(self, rows: Rows) -> torch.Tensor:
        return gather(self._weights, rows.rows_R)

    @property
    def plane_ND(self) -> torch.Tensor:
        """All rows where they lie, float32 (N, D), perhaps padded."""
        return self._weights

    def write(self, rows: Rows) -> None:
        """Nothing to do: `read` handed out the planes themselves."""

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        """A ticket alone: rows are read where they lie."""
        return Ticket(rows_R)

    @property
    def device(self) -> torch.device:
        return self._weights.device

    def announcing(self) -> AbstractContextManager[Any]:
        """Nothing is uploaded."""
        return nullcontext()

    def drained(self) -> DenseTable:
        return self

    @property
    def last_N(self) -> torch.Tensor:
        return self._last

    def memories(self) -> tuple[tuple[torch.Tensor, int], ...]:
        """Rows, then their state."""
        return tuple((plane.memory, len(plane.memory)) for plane in self._planes())

    def located_on(self, device: Device) -> LocatedDense:
        """A row's number is its place."""
        return LocatedDense(*self._planes())

    def extent(self, rows: NDArray[np.int64] | range) -> Extent:
        width, state_width = self.width, self._state.shape[1]
        lines = sum(-(-4 * each // LINE_BYTES) for each in (width, state_width))  # rows begin on lines, or share them evenly
        return Extent(len(rows) * width, len(rows) * state_width, len(rows) * width, len(rows) * lines)

    @property
    def longest(self) -> tuple[int, int]:
        return self.width, self._state.shape[1]

    def homes(self, rows_R: NDArray[np.int64]) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
        return tuple((rows_R * plane.pitch, np.full(len(rows_R), plane.width)) for plane in self._planes())

    def _planes(self) -> tuple[Plane, Plane]:
        weights, state = (Plane(_flat(plane), _pitch(plane), plane.shape[1]) for plane in (self._weights, self._state))
        return weights, state

    def columns(self, first: int, last: int, rows: slice = EVERY_ROW) -> torch.Tensor:
        return self._weights[rows, first:last]

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        return RowGrad(ticket, tile_RD.contiguous().view(-1), torch.arange(len(ticket.rows_R)) * self.width)

    def empty_gradient(self) -> RowGrad:
        if self._grad is None:  # kept, because fresh memory costs a page fault every 4 KiB
            self._grad = torch.empty(self.num_rows, self.width)
        return self.stored(Ticket(np.arange(self.num_rows)), self._grad.zero_())

    def add_rows(self, grad: RowGrad, rows_R: NDArray[np.int64], tile_RD: torch.Tensor) -> None:
        self._tile(grad).index_add_(0, torch.from_numpy(rows_R), tile_RD)

    def add_columns(self, grad: RowGrad, first: int, last: int, plane_NC: torch.Tensor) -> None:
        self._tile(grad)[:, first:last] += plane_NC

    def propagate_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        out_VD: torch.Tensor,
    ) -> None:  # fmt: skip
        source_CD = self._weights[first_row : first_row + csr.columns]
        propagate_rows(csr, source_CD, row_scale_R, column_scale_C, rows_V, out_VD)

    def scatter_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        grad_VD: torch.Tensor, grad: RowGrad,
    ) -> None:  # fmt: skip
        out_CD = self._tile(grad)[first_row : first_row + csr.columns]
        scatter_rows(csr, grad_VD, rows_V, row_scale_R, column_scale_C, out_CD)

    def settle(self) -> None:
        """No row lags."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Views, not copies."""
        return {"weights": self._weights, "state": self._state, "last": self._last}

    def saved(self) -> Saved:
        return self.tensors()

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        own = self.tensors()
        if _forms(tensors) != _forms(own):
            raise DataError(
                f"a dense table of {self.num_rows:,} rows, {self.width} wide, cannot take what was saved from another "
                f"({', '.join(f'{name} {tuple(tensor.shape)}' for name, tensor in tensors.items())}); use the job it was saved by"
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.changes += 1

    def _tile(self, grad: RowGrad) -> torch.Tensor:
        return grad.values_X.view(self.num_rows, self.width)


def aligned(rows: int, width: int, allocate: Allocate = in_ram) -> torch.Tensor:
    """An uninitialised float32 (rows, width) whose first row starts on a line and whose rows never straddle one needlessly.

    The pitch is the row size rounded up to a line, or to a power of two below one.
    """
    row_bytes = max(4 * width, 4)
    pitch = -(-row_bytes // LINE_BYTES) * LINE_BYTES if row_bytes > LINE_BYTES // 2 else 1 << (row_bytes - 1).bit_length()
    buffer = allocate(rows * pitch // 4 + LINE_BYTES // 4)
    skip = -buffer.data_ptr() % LINE_BYTES // 4
    return buffer[skip : skip + rows * pitch // 4].view(rows, pitch // 4)[:, :width]


def _forms(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _flat(plane: torch.Tensor) -> torch.Tensor:
    """The memory of a plane of `aligned`, padding included."""
    return torch.from_numpy(padded(plane).reshape(-1))


def _pitch(plane: torch.Tensor) -> int:
    """Floats from one row to the next of a plane of `aligned`."""
    return plane.stride(0) if plane.shape[1] else 0
