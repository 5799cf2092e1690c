"""Ways of bringing the features of a batch to the device, as peers of gcnrec's own: `gcnrec.tables.features.table.StepFeatures`.

Letters: N nodes, R rows read, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.rows import Ticket
from jobs.measure.gpu.bed import Bed

Nodes = NDArray[np.int64]


class Way(Protocol):
    """What a step asks for its features."""

    def prefetch(self, ticket: Ticket, nodes_R: Nodes, index_R: torch.Tensor) -> None:
        """The rows that the step after reads; `index_R` is `nodes_R` on the device."""
        ...

    def read(self, ticket: Ticket, nodes_R: Nodes) -> torch.Tensor:
        """Float32 (R, F) on the device."""
        ...


class OnDevice:
    """All features in the GPU's memory; `placed` has each ticket's rows there."""

    def __init__(self, bed: Bed, rows_NF: torch.Tensor, placed: dict[Ticket, torch.Tensor]) -> None:
        self._rows_NF, self._placed = rows_NF.to(bed.device), placed

    def prefetch(self, ticket: Ticket, nodes_R: Nodes, index_R: torch.Tensor) -> None:
        """Nothing: they are there."""

    def read(self, ticket: Ticket, nodes_R: Nodes) -> torch.Tensor:
        return self._rows_NF.index_select(0, self._placed[ticket])


class SerialGather:
    """The cores gather a batch into a pinned buffer when the step before is over; then it is uploaded."""

    def __init__(self, bed: Bed, rows_NF: torch.Tensor, most_rows: int) -> None:
        self._bed, self._rows_NF = bed, rows_NF
        self._buffer_RF = bed.host(torch.zeros(most_rows, rows_NF.shape[1]))

    def prefetch(self, ticket: Ticket, nodes_R: Nodes, index_R: torch.Tensor) -> None:
        """Nothing: features come on demand."""

    def read(self, ticket: Ticket, nodes_R: Nodes) -> torch.Tensor:
        self._bed.mark()()  # synchronize: a loop that reads its loss waits for each step
        return _gathered(self._rows_NF, nodes_R, self._buffer_RF).to(self._bed.device, non_blocking=True)


class LoaderGather:
    """A thread gathers the next batch into one pinned buffer while the batch of the other is uploaded and trains."""

    def __init__(self, bed: Bed, rows_NF: torch.Tensor, most_rows: int) -> None:
        self._bed, self._rows_NF = bed, rows_NF
        self._buffers = [bed.host(torch.zeros(most_rows, rows_NF.shape[1])) for _ in range(2)]
        self._uploaded: list[Callable[[], None]] = [bed.mark(), bed.mark()]
        self._thread, self._turn = ThreadPoolExecutor(1, "gather"), 0
        self._coming: dict[Ticket, tuple[int, Future[torch.Tensor]]] = {}

    def prefetch(self, ticket: Ticket, nodes_R: Nodes, index_R: torch.Tensor) -> None:
        self._turn = 1 - self._turn
        self._coming[ticket] = self._turn, self._thread.submit(self._fetch, self._turn, nodes_R)

    def read(self, ticket: Ticket, nodes_R: Nodes) -> torch.Tensor:
        turn, future = self._coming.pop(ticket)
        rows_RF = future.result().to(self._bed.device, non_blocking=True)
        self._uploaded[turn] = self._bed.mark()
        return rows_RF

    def _fetch(self, turn: int, nodes_R: Nodes) -> torch.Tensor:
        self._uploaded[turn]()
        return _gathered(self._rows_NF, nodes_R, self._buffers[turn])


class ByDgl:
    """DGL's kernel over features that it pins (what its loader does with use_uva=True)."""

    def __init__(self, rows_NF: torch.Tensor, placed: dict[Ticket, torch.Tensor]) -> None:
        self._utils = import_module("dgl").utils
        self._rows_NF, self._placed = rows_NF.clone(), placed  # no page is pinned twice
        self._pinned = self._utils.pin_memory_inplace(self._rows_NF)  # as long as this object lives

    def prefetch(self, ticket: Ticket, nodes_R: Nodes, index_R: torch.Tensor) -> None:
        """Nothing: the kernel reads on demand."""

    def read(self, ticket: Ticket, nodes_R: Nodes) -> torch.Tensor:
        rows_RF: torch.Tensor = self._utils.gather_pinned_tensor_rows(self._rows_NF, self._placed[ticket])
        return rows_RF


class ByGraphBolt:
    """GraphBolt's `index_select` over pinned features."""

    def __init__(self, rows_NF: torch.Tensor, placed: dict[Ticket, torch.Tensor]) -> None:
        import_module("dgl.graphbolt")  # registers the operator
        self._select: Any = torch.ops.graphbolt.index_select
        self._rows_NF, self._placed = rows_NF.pin_memory(), placed

    def prefetch(self, ticket: Ticket, nodes_R: Nodes, index_R: torch.Tensor) -> None:
        """Nothing: the kernel reads on demand."""

    def read(self, ticket: Ticket, nodes_R: Nodes) -> torch.Tensor:
        rows_RF: torch.Tensor = self._select(self._rows_NF, self._placed[ticket])
        return rows_RF


def _gathered(rows_NF: torch.Tensor, nodes_R: Nodes, buffer_RF: torch.Tensor) -> torch.Tensor:
    return torch.index_select(rows_NF, 0, torch.from_numpy(nodes_R), out=buffer_RF[: len(nodes_R)])
