"""All interleavings of a pipelined table's rows with features that are read one batch ahead, or of features alone.

`jobs.measure.gpu.order` has the method, and runs these programs too.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.queues import Device, Spans
from gcnrec.rows import Ticket
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.table import FeatureTable
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.unread import UnreadTable
from jobs.measure.gpu.order import ROWS, SUBSETS, Reading, Recorder, by_piece, host_table, lost, misread

_WIDTH = 4


@dataclass(frozen=True)
class Program:
    """`rows`: the model reads the table's rows too; `hot`: features of so many nodes stay on the device; `given`: their numbers
    come from the caller; `ahead`: batches are announced."""

    rows: bool = True
    hot: int = 0
    given: bool = True
    ahead: bool = True


PROGRAMS = {
    "with rows": Program(),
    "alone": Program(rows=False),
    "some cached": Program(hot=2),
    "all cached, alone": Program(rows=False, hot=ROWS),
    "numbers placed": Program(given=False),
    "not announced": Program(ahead=False, given=False),
}


class SeenFeatures(PipelinedFeatures):
    """Features whose decoding is work of compute; `readings` says what it must find."""

    def __init__(self, host: FeatureTable, recorder: Recorder, hot: int) -> None:
        self._recorder, self.readings = recorder, list[Reading]()
        self._nodes = np.empty(0, np.int64)
        super().__init__(host, cast(Device, recorder), hot)

    def read(self, ticket: Ticket, nodes_R: NDArray[np.int64]) -> torch.Tensor:
        self._nodes = nodes_R
        return super().read(ticket, nodes_R)

    def _decoded(self, memory: torch.Tensor | None, pitch: int, index_R: torch.Tensor | None, rows: int) -> torch.Tensor:
        assert memory is not None
        at_R = torch.from_numpy(np.arange(rows) if index_R is None else index_R.numpy())
        here = by_piece(Spans(memory, at_R, _WIDTH, pitch))
        there = by_piece(Spans(self._memory, torch.from_numpy(self._nodes), _WIDTH, self._pitch))
        number = self._recorder.use([] if index_R is None else [index_R])
        right: dict[Any, set[Any]] = {
            cell: {home} for own, homes in zip(here, there, strict=True) for cell, home in zip(own, homes, strict=True)
        }
        self.readings.append((number, right))
        return torch.empty(rows, _WIDTH)


def problems(batches: Sequence[Sequence[int]], program: Program) -> set[str]:
    """What can go wrong when the batches train in this order; empty where nothing can."""
    recorder, host = Recorder(), host_table(slots=False)
    with recorder:
        device = cast(Device, recorder)
        table = PipelinedTable(host, device) if program.rows else UnreadTable(host, device, Prefixes(ROWS, 0, 0))
        features = SeenFeatures(FeatureTable.adopted(np.zeros((ROWS, _WIDTH), np.float32)), recorder, program.hot)

        def announced(rows: Sequence[int]) -> tuple[Ticket, torch.Tensor | None]:
            rows_R = np.array(rows)
            if not program.ahead:
                return Ticket(rows_R), None
            with table.announcing():
                slab = recorder.place(np.tile(rows_R, 2)) if program.given else None
            index_R = None if slab is None else slab[: len(rows)]
            ticket = table.prefetch(rows_R, index_R)
            features.prefetch(ticket, rows_R, index_R)
            return ticket, None if slab is None else slab[len(rows) :]

        coming = deque([announced(batches[0])])
        for rows, later in zip(batches, [*batches[1:], None], strict=True):
            if later is not None:
                coming.append(announced(later))
            ticket, uploaded = coming.popleft()
            tile_RF = features.read(ticket, np.array(rows))
            recorder.use([tile_RF] if uploaded is None else [tile_RF, uploaded])
            del tile_RF, uploaded
            read = table.read(ticket, with_state=True)
            if program.rows:
                recorder.train(read)
            table.write(read)
            del read
    return misread(recorder, [features.host.memory], features.readings) | set(lost(recorder))


def all_problems(program: Program, length: int, subsets: Sequence[Sequence[int]] = SUBSETS) -> set[str]:
    """Of every sequence of `length` batches of these rows."""
    return set().union(*(problems(batches, program) for batches in itertools.product(subsets, repeat=length)))
