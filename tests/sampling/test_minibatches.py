"""Batches drawn ahead: the same ones in the same order, each announced one step before it is handed out."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from gcnrec.config import Sampler
from gcnrec.rows import Ticket
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.minibatches import Waits, minibatches
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.testing import checkerboard


class Announced:
    """A table that keeps the tickets it gave."""

    def __init__(self):
        self.tickets = []

    def prefetch(self, rows_R):
        self.tickets.append(Ticket(rows_R))
        return self.tickets[-1]


@pytest.fixture
def sampler():
    graph = checkerboard().graph
    return edge_sampler(Sampler(negatives="uniform"), graph, None, 40, 0, NeighbourSampler(graph, (3, 2), 0))


def test_batches_are_those_of_the_sampler(sampler):
    table = Announced()
    for epoch in (0, 2):
        for expected, batch in zip(sampler.epoch(epoch), minibatches(sampler, epoch, table, Waits()), strict=True):
            assert batch.step == expected.step
            assert np.array_equal(batch.rows_R, expected.rows_R)
            assert np.array_equal(batch.blocks[1].csr.indices, expected.blocks[1].csr.indices)


def test_the_next_batch_is_announced_before_this_one_trains(sampler):
    table, steps = Announced(), sampler.steps_per_epoch
    batches = []
    for index, batch in enumerate(minibatches(sampler, 0, table, Waits())):
        batches.append(batch)
        assert len(table.tickets) == min(index + 2, steps)
    assert [batch.ticket for batch in batches] == table.tickets


@pytest.mark.serial
def test_the_thread_ends_with_the_iterator(sampler):
    before = threading.active_count()
    batches = minibatches(sampler, 0, Announced(), Waits())
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_a_failure_while_drawing_reaches_the_caller(sampler, monkeypatch):
    monkeypatch.setattr(type(sampler), "batch", lambda self, epoch, index: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        list(minibatches(sampler, 0, Announced(), Waits()))


def test_time_without_a_batch_is_counted(sampler):
    waits = Waits()
    for _ in minibatches(sampler, 0, Announced(), waits):
        pass
    assert waits.seconds > 0  # nothing was drawn before the first
