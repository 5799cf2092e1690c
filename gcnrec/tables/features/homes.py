"""Features on disk, as a window of pinned memory asks for them: one plane of rows, and a state of no values."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.queues import Device
from gcnrec.tables.dense import Allocate
from gcnrec.tables.features.table import FeatureTable
from gcnrec.tables.staged import ROW_UNIT
from gcnrec.tables.window import Window, place_bytes


class FeatureHomes:
    """`gcnrec.tables.window.Homes` of a feature table."""

    def __init__(self, host: FeatureTable) -> None:
        self.num_rows, self._memory, self._pitch = host.num_rows, host.memory, host.pitch_bytes // ROW_UNIT
        self._state = torch.empty(0)

    @property
    def longest(self) -> tuple[int, int]:
        return self._pitch, 0

    def memories(self) -> tuple[tuple[torch.Tensor, int], ...]:
        return (self._memory, len(self._memory)), (self._state, 0)

    def homes(self, rows_R: NDArray[np.int64]) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
        nothing_R = np.zeros(len(rows_R), np.int64)
        return (rows_R * self._pitch, np.full(len(rows_R), self._pitch)), (nothing_R, nothing_R)


def feature_window(host: FeatureTable, device: Device, nbytes: int, allocate: Allocate) -> Window:
    """A window of at most `nbytes`, and at least one place."""
    homes = FeatureHomes(host)
    return Window(homes, device, max(1, nbytes // place_bytes(homes)), allocate)
