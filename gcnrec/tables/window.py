"""A window of pinned memory onto a table on disk: the rows of the batches on their way, and as many used before as there is room.

A GPU's driver does not pin the pages of a file that is written to. So rows are brought into places of the window by the host when
a batch is announced, and the device reads and updates them there. A place gets another row when the last batch that used it is
home; its row then goes back to the file. The host waits for nothing but that, which was given batches ago.

Letters: N rows of the table, W places of the window, R rows of a batch, M rows that are missing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DeviceError
from gcnrec.ops.slots import copy_spans
from gcnrec.ops.spans import free_places
from gcnrec.queues import Device, Mark, Spans
from gcnrec.tables.dense import Allocate
from gcnrec.tables.staged import RowSpans

_NOWHERE = -1


class Homes(Protocol):
    """What a window asks of a table: a plane of weights (or records) and one of state, and where rows lie in them."""

    @property
    def num_rows(self) -> int: ...

    @property
    def longest(self) -> tuple[int, int]:
        """The most floats of a row in each plane."""
        ...

    def memories(self) -> tuple[tuple[torch.Tensor, int], ...]: ...

    def homes(self, rows_R: NDArray[np.int64]) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
        """For each plane where rows start, and how many floats they have, int64 (R)."""
        ...


@dataclass(slots=True, eq=False)
class Stay:
    """The places of a batch's rows, int64 (R) here and on the device, kept until the batch is home, which is after `over`."""

    number: int
    places_R: NDArray[np.int64]
    index_R: torch.Tensor
    over: Mark | None = field(default=None)


class Window:
    """`places` rows of `table` in memory of `allocate`, which `device` adopts."""

    def __init__(self, table: Homes, device: Device, places: int, allocate: Allocate) -> None:
        places = min(places, table.num_rows)
        self._table, self._device = table, device
        self._pitches = _pitches(table)
        self._planes = tuple(allocate(max(1, places * pitch)) for pitch in self._pitches)
        for plane in self._planes:
            device.adopt(plane, len(plane))
        self._place_N = np.full(table.num_rows, _NOWHERE, np.int32)
        self._row_W, self._stay_W = np.full(places, _NOWHERE, np.int64), np.zeros(places, np.int64)
        self._changed_W = np.zeros(places, np.bool_)
        self._hand = self._stays = 0
        self._open: deque[Stay] = deque()

    @property
    def places(self) -> int:
        return len(self._row_W)

    def admit(self, rows_R: NDArray[np.int64]) -> Stay:
        """Bring ascending rows in. DeviceError where the batches on their way leave too few places."""
        self._stays += 1
        missing_M = rows_R[self._place_N[rows_R] == _NOWHERE]
        self._stay_W[self._place_N[rows_R[self._place_N[rows_R] != _NOWHERE]]] = self._stays
        taken_M = self._vacated(missing_M)
        self._row_W[taken_M], self._place_N[missing_M], self._stay_W[taken_M] = missing_M, taken_M, self._stays
        self._copy(missing_M, taken_M, home=False)
        places_R = self._place_N[rows_R].astype(np.int64)
        stay = Stay(self._stays, places_R, self._device.place(places_R))
        self._open.append(stay)
        return stay

    def leave(self, stay: Stay, over: Mark, changed: bool) -> None:
        """The batch is home after `over`; `changed`: with other rows than it had."""
        stay.over = over
        if changed:
            self._changed_W[stay.places_R] = True

    def spans(self, stay: Stay, first: int, rows: RowSpans) -> RowSpans:
        """Where rows of a stay lie, from its row `first` on; `rows` has their lengths."""
        index_R, own = stay.index_R[first : first + len(rows.weights)], zip(self._planes, rows, self._pitches, strict=True)
        return RowSpans(*(Spans(plane, index_R, span.length_R, pitch) for plane, span, pitch in own))

    def settle(self) -> None:
        """All rows go home, as they are after all work; the table may be read, and no batch may be on its way."""
        self._open.clear()
        changed_M = np.flatnonzero(self._changed_W)
        self._copy(self._row_W[changed_M], changed_M, home=True)
        self._changed_W[:] = False

    def forget(self) -> None:
        """The table's rows are other ones now: all places are free."""
        self._place_N[:], self._row_W[:], self._stay_W[:] = _NOWHERE, _NOWHERE, 0
        self._changed_W[:] = False

    def _vacated(self, missing_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places that no batch on its way uses, as many as rows are missing, after the rows there have gone home."""
        taken_M, found = np.empty(len(missing_M), np.int64), 0
        while True:
            oldest = self._open[0].number if self._open else self._stays
            found, self._hand = free_places(self._stay_W, oldest, self._hand, taken_M)
            if found == len(missing_M):
                break
            if not self._open or self._open[0].over is None:
                raise DeviceError(
                    f"rows of the batches on their way take more than the {self.places:,} places that a table on disk has in "
                    "memory; lower train.batch_size or sampler.fanouts, or free memory"
                )
            self._open.popleft().over.finish()  # type: ignore[union-attr]  # synchronize: a place is used again
        back_M = taken_M[self._changed_W[taken_M]]
        self._copy(self._row_W[back_M], back_M, home=True)
        self._changed_W[back_M] = False
        gone_M = self._row_W[taken_M]
        self._place_N[gone_M[gone_M != _NOWHERE]] = _NOWHERE
        return taken_M

    def _copy(self, rows_M: NDArray[np.int64], places_M: NDArray[np.int64], home: bool) -> None:
        """Bring rows to their places, or back home."""
        own = zip(self._table.memories(), self._table.homes(rows_M), self._planes, self._pitches, strict=True)
        for (memory, _), (at_M, length_M), plane, pitch in own:
            there = memory.numpy(), at_M
            here = plane.numpy(), places_M * pitch
            copy_spans(*(here if home else there), *(there if home else here), length_M)


def place_bytes(table: Homes) -> int:
    """What a place of a window takes: room for the longest row, and its numbers."""
    return 4 * sum(_pitches(table)) + 17


def _pitches(table: Homes) -> tuple[int, ...]:
    """Floats of a place in each plane: rows begin on lines."""
    return tuple(-(-longest // 32) * 32 for longest in table.longest)
