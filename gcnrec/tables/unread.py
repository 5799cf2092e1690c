"""A table whose rows the model does not read: it stays as it started, in host memory, and steps on a device move none of it."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.queues import Device
from gcnrec.rows import RowGrad, Rows, State, Ticket
from gcnrec.tables.dense import Table
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.ring import Ring, Slot


class UnreadTable:
    """`host` as steps on a device see it: no row, whatever is announced. `hot`: nodes of which the device keeps what is read."""

    def __init__(self, host: Table, queues: Device, hot: Prefixes) -> None:
        self._host, self.queues, self.hot = host, queues, hot
        self.num_rows, self.width = host.num_rows, host.width
        self._values = queues.resident(torch.zeros(0))
        self._numbers = queues.resident(torch.zeros(0, dtype=torch.int64))
        self._last_N = queues.resident(torch.zeros(0, dtype=torch.int32))
        self._ring = Ring(queues)
        self._announced: deque[Slot] = deque()

    @property
    def device(self) -> torch.device:
        return self._values.device

    def announcing(self) -> AbstractContextManager[Any]:
        """Uploads run in the queue of reads while a step trains."""
        return self.queues.within(self.queues.reads)

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        """A ticket. What the caller uploaded with `index_R` is kept until its step is over, as by a table with rows."""
        if index_R is not None:
            with self.announcing():
                slot = self._ring.take(self.queues.reads, (), self._values)
            slot.held = index_R
            self._announced.append(slot)
        return Ticket(rows_R)

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        """No rows."""
        state = State(self._values, self._numbers, self._last_N) if with_state else None
        return Rows(ticket, self._numbers, self._values, self._numbers, self._numbers, state)

    def decode(self, rows: Rows) -> torch.Tensor:
        return self._values.view(0, self.width)

    def stored(self, ticket: Ticket, tile_RD: torch.Tensor) -> RowGrad:
        return RowGrad(ticket, self._values, self._numbers)

    def write(self, rows: Rows) -> None:
        """Nothing was read. The step of the batch announced first is over with what compute was given so far."""
        if self._announced:
            self._ring.give_back(self._announced.popleft(), self.queues.compute.mark())

    def drained(self) -> Table:
        return self._host

    def close(self) -> None:
        """Wait for the device and give back the host memory that it reads."""
        self.queues.close()
