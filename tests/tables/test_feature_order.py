"""Features behind a device's queues, over all interleavings: what a step decodes has one possible writer, and memory outlives
its readers. Each rule, taken away, is seen."""

from __future__ import annotations

import itertools
from typing import cast

import numpy as np
import pytest
import torch

from gcnrec.queues import Device
from gcnrec.rows import Ticket
from gcnrec.tables import ring
from gcnrec.tables.features.code import Code
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.table import FeatureTable
from jobs.measure.gpu.order import Judge, Queue, Recorder, lost

ROWS, FIRST = 4, 10


class Recorded(PipelinedFeatures):
    """Decoding is work of compute that reads its memory; `read_cells` has the cells, row by row, of each."""

    def __init__(self, host, recorder, hot):
        self.recorder, self.read_cells = recorder, []
        super().__init__(host, cast(Device, recorder), hot)

    def _decoded(self, memory, pitch, index_R, rows):
        numbers = [] if index_R is None else [index_R]
        work = self.recorder._given(self.recorder.compute, [memory, *numbers])
        address = memory.untyped_storage().data_ptr()
        at = range(rows) if index_R is None else index_R.tolist()
        self.read_cells.append((work, [(address, place * pitch) for place in at]))
        return torch.zeros(0)


def problems(batches, hot=0, ahead=1, given=False):
    """What can go wrong when the batches train in this order; rows have one value."""
    recorder = Recorder()
    host = FeatureTable.encoded(np.arange(ROWS, dtype=np.float32)[:, None], Code(), "item", FIRST)
    home = host.memory.untyped_storage().data_ptr(), host.memory.storage_offset()
    tickets = [Ticket(np.array(rows) + FIRST) for rows in batches]
    with recorder:
        features = Recorded(host, recorder, hot)
        for step, ticket in enumerate(tickets):
            coming = tickets[step + ahead if step else 0 : step + ahead + 1] if ahead else []
            for each in coming:
                announce(features, recorder, each, given)
            features.read(ticket, ticket.rows_R)
    judge, found = Judge(recorder.works, {home[0]}), set(lost(recorder))
    for (number, cells), rows in zip(features.read_cells, batches, strict=True):
        for cell, row in zip(cells, rows, strict=True):
            if judge.origin(cell, number) != -1:
                found.add("a value depends on the interleaving")
            elif source(judge, cell, number) != (home[0], home[1] + row):
                found.add("a value is another row's")
    return found


def announce(features, recorder, ticket, given):
    if not given:
        features.prefetch(ticket, ticket.rows_R)
        return
    with recorder.within(recorder.reads):
        slab = recorder.place(np.tile(ticket.rows_R, 2))  # kept by the table whose rows come with it, as the batch is
        recorder._keep(slab)
    features.prefetch(ticket, ticket.rows_R, slab[: len(ticket.rows_R)])


def source(judge, cell, reader):
    """Where a value was at first."""
    before = judge._works[reader].before
    done = [writer for writer in judge._writers.get(cell, []) if before >> writer & 1]
    return cell if not done else source(judge, judge._works[max(done)].moved[cell], max(done))


def many(**program):
    rows = [(0, 1), (1, 2), (0, 2), (3,), (1, 3), (0, 1, 2, 3)]
    return problems([rows[step % 6] for step in range(10)], **program)


@pytest.mark.parametrize("hot", [0, 2, ROWS])
@pytest.mark.parametrize("given", [False, True])
def test_nothing_depends_on_the_interleaving(hot, given):
    for ahead in (0, 1, 2):
        assert many(hot=hot, ahead=ahead, given=given) == set()
    for batches in itertools.product(((0,), (0, 1), (1, 2, 3)), repeat=3):
        assert problems(batches, hot, given=given) == set()


@pytest.mark.parametrize("queue", ["reads", "compute"])
def test_a_queue_that_waits_for_nothing_is_seen(queue, monkeypatch):
    right = Queue.after
    monkeypatch.setattr(Queue, "after", lambda self, mark: None if self.name == queue else right(self, mark))
    assert "a value depends on the interleaving" in many()


def test_a_buffer_that_is_used_again_too_early_is_seen(monkeypatch):
    right = ring.Ring.give_back
    monkeypatch.setattr(ring.Ring, "give_back", lambda self, slot, *users: right(self, slot))
    assert "a value depends on the interleaving" in many()
