"""The pipeline on a fake device that lags, runs ahead and tears as far as the queues allow: results equal the serial run's.

The fake's transfers move a few values at a time, at random moments between what was waited for and what is asked next.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from built import start_table, step_of

from gcnrec.config import Job
from gcnrec.rows import Ticket
from gcnrec.tables import pipelined
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable, Traffic
from gcnrec.tables.rules import Sgd
from gcnrec.testing import checkerboard


def job_of(propagation, rule, budget, dtype="float32"):
    return Job.model_validate(
        {
            "model": {"propagation": propagation, "layers": 2, "width": 16, "start": "normal"},
            "table": {"budget": budget, "dtype": dtype},
            "sparsity": {"policy": "static"} if budget < 1 else {},
            "sampler": {"fanouts": [3, 2]},
            "optimizer": {"rule": rule, "learning_rate": 0.05},
            "train": {"batch_size": 16},
        }
    )


HOT = [None, Prefixes(24, 5, 7), Prefixes(24, 24, 24), Prefixes(24, 0, 3)]


def trained(job, device, steps=14, ahead=True, hot=None):
    """Losses, and the table's tensors after some steps."""
    graph = checkerboard().graph
    table = start_table(job, graph)
    if device:
        table = PipelinedTable(table, device, hot)
    step = step_of(job, graph, table=table)
    batches = [
        step.sampler.batch(index // step.sampler.steps_per_epoch, index % step.sampler.steps_per_epoch) for index in range(steps)
    ]
    losses = []
    announce = table.prefetch if device and ahead else Ticket
    ticket = announce(batches[0].rows_R)
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        current = replace(batch, ticket=ticket)
        if following:
            ticket = announce(following.rows_R)
        losses.append(step(current, 0.05))
        if batch.step == 7:
            step.table.drained()  # as an exploration does, while the next batch is on its way
    return losses, step.table.drained().tensors()


CASES = [
    ("none", "sgd", 1.0, "float32"), ("none", "adam", 1.0, "float32"), ("sampled", "adam_row", 1.0, "float32"),
    ("sampled", "adam", 0.5, "float32"), ("none", "adagrad_row", 0.5, "float32"), ("sampled", "adam", 0.5, "bfloat16"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_serial_run_bit_for_bit(case, fake_device):
    job = job_of(*case)
    losses, tensors = trained(job, None)
    assert losses[-1] < losses[0]
    for seed in range(12):
        device = fake_device.LazyDevice(0) if seed < 2 else fake_device.FakeDevice(seed)
        again, others = trained(job, device, ahead=seed % 4 != 1, hot=HOT[seed % 5 % 4])
        assert again == losses, f"seed {seed}"
        assert all(torch.equal(tensors[name], others[name]) for name in tensors), f"seed {seed}"


def test_the_fake_device_shows_a_missing_patch(monkeypatch, fake_device):
    """Without patches some order of transfers must go wrong, else the test above would prove nothing."""
    monkeypatch.setattr(PipelinedTable, "_patch", lambda self, earlier, later: None)
    job = job_of("sampled", "adam", 1.0)
    losses, _ = trained(job, None)
    assert any(trained(job, fake_device.FakeDevice(seed))[0] != losses for seed in range(12))


def test_the_fake_device_shows_a_write_that_nobody_waits_for(monkeypatch, fake_device):
    """A read that begins while older writes than the last are on their way reads old rows that are not patched."""
    monkeypatch.setattr(fake_device.FakeQueue, "after", lambda self, mark: None)
    job = job_of("none", "sgd", 1.0)
    losses, _ = trained(job, None)
    assert trained(job, fake_device.LazyDevice(0))[0] != losses


def test_rows_that_nobody_announced_are_read_at_once(fake_device):
    job = job_of("none", "sgd", 1.0)
    host = start_table(job, checkerboard().graph)
    table, other = PipelinedTable(host, fake_device.LazyDevice(0)), Ticket(np.array([1, 3]))
    announced = table.prefetch(np.array([1, 2]))
    for ticket in (other, announced):
        assert torch.equal(table.decode(table.read(ticket, with_state=False)), host.decode(host.read(ticket, False)))


def test_one_array_announced_twice_is_two_readings(fake_device):
    """As when two batches have the same rows: the second one has the first one's update."""
    for seed in range(12):
        host = start_table(job_of("none", "sgd", 1.0), checkerboard().graph)
        before_ND, rows_R = host.columns(0, 16).clone(), np.array([1, 2, 30])
        table = PipelinedTable(host, fake_device.FakeDevice(seed))
        for ticket in [table.prefetch(rows_R), table.prefetch(rows_R)]:
            grad = table.stored(ticket, torch.ones(3, 16))
            table.write(Sgd().update(table.read(ticket, with_state=True), grad, 1, 0.5))
        before_ND[torch.from_numpy(rows_R)] -= 0.5
        before_ND[torch.from_numpy(rows_R)] -= 0.5
        assert torch.equal(table.drained().columns(0, 16), before_ND)


def test_what_is_moved_is_counted(fake_device):
    job = job_of("none", "adam", 1.0)
    host = start_table(job, checkerboard().graph)
    table, rows = PipelinedTable(host, fake_device.LazyDevice(0), Prefixes(24, 2, 1)), np.array([0, 1, 5, 24, 30, 31])
    table.decode(table.read(Ticket(rows), with_state=True))
    # Rows 0, 1 and 24 are cached. A row of 16 float32 is half a line, its state (two moments) a whole one.
    assert table.traffic() == Traffic(rows=6, cached_rows=3, bytes=3 * 3 * 64, lines=3 + 3)


def test_rows_without_values_take_no_room(fake_device):
    job = job_of("none", "adam", 0.5)
    host = start_table(job, checkerboard().graph)
    with host.rebuild() as rebuild:
        for first, last in host.blocks():
            rebuild.read(first, last)
    rows = Ticket(np.array([0, 5, 30]))
    table = PipelinedTable(host, fake_device.FakeDevice(0))
    assert torch.equal(table.decode(table.read(rows, with_state=True)), torch.zeros(3, 16))
    assert table.stored(rows, torch.ones(3, 16)).values_X.numel() == 0


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=str)
def test_cached_rows_go_in_chunks(case, fake_device, monkeypatch):
    """So that no array has a number for each of them."""
    longest = []

    class Watching(fake_device.LazyDevice):
        def copy(self, queue, pairs):
            longest.append(max(len(source) for source, _ in pairs))
            super().copy(queue, pairs)

    monkeypatch.setattr(pipelined, "_CHUNK_ROWS", 7)
    job = job_of(*case)
    losses, tensors = trained(job, None, steps=4)
    again, others = trained(job, Watching(0), steps=4, hot=Prefixes(24, 24, 20))
    assert again == losses and all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert longest[:7] == [7, 7, 7, 3, 7, 7, 6]


def test_a_drain_without_updates_moves_nothing_and_a_cache_is_kept_until_the_host_writes(fake_device):
    class Counting(fake_device.LazyDevice):
        def copy(self, queue, pairs):
            moved[queue] += sum(len(source) for source, _ in pairs)
            super().copy(queue, pairs)

    host, moved = start_table(job_of("none", "sgd", 1.0), checkerboard().graph), Counter()
    device = Counting(0)
    table = PipelinedTable(host, device, Prefixes(24, 20, 0))
    rows_R, planes, rate = np.array([0, 30]), 2, 0.5

    def step():
        ticket = table.prefetch(rows_R)
        grad = table.stored(ticket, torch.ones(2, 16))
        table.write(Sgd().update(table.read(ticket, with_state=True), grad, 1, rate))

    expected_ND = host.columns(0, 16).clone()
    step()
    assert moved == {device.reads: planes * (20 + 2), device.writes: planes * 2}  # the cache, and the batch
    moved.clear()
    expected_ND[rows_R] -= rate
    assert torch.equal(table.drained().columns(0, 16), expected_ND) and moved == {device.writes: planes * 20}
    moved.clear()
    table.read(table.prefetch(rows_R), with_state=True)
    table.drained()
    assert moved == {device.reads: planes * 2}  # nothing was updated, and the cache is what it was
    host.restore({name: torch.zeros_like(tensor) for name, tensor in host.tensors().items()})
    moved.clear()
    step()
    assert moved == {device.reads: planes * (20 + 2), device.writes: planes * 2}
    assert torch.equal(table.drained().columns(0, 16)[rows_R], torch.full((2, 16), -rate))
