"""The pipeline on a fake device that lags, runs ahead and tears as far as the queues allow: results equal the serial run's.

The fake's transfers move one row at a time, at random moments between what was waited for and what is asked next.
"""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from gcnrec.config import Job
from gcnrec.pipelined import PipelinedTable
from gcnrec.start import first_table
from gcnrec.step import build_step
from gcnrec.testing import checkerboard


class FakeMark:
    def __init__(self, queue, position):
        self.queue, self.position = queue, position

    def finish(self):
        self.queue.run_until(self.position)


class FakeQueue:
    """Pieces of work in order. A piece is a function, or a mark of another queue that must be passed first."""

    def __init__(self, device):
        self.device, self.pieces, self.done = device, [], 0

    def mark(self):
        return FakeMark(self, len(self.pieces))

    def after(self, mark):
        self.pieces.append(mark)

    def give(self, work):
        self.pieces.append(work)

    def runnable(self):
        if self.done == len(self.pieces):
            return False
        piece = self.pieces[self.done]
        return not isinstance(piece, FakeMark) or piece.queue.done >= piece.position

    def step(self):
        piece = self.pieces[self.done]
        if not isinstance(piece, FakeMark):
            piece()
        self.done += 1

    def run_until(self, position):
        while self.done < position:
            self.device.advance_one(self)


class Immediate(FakeQueue):
    """The calling thread itself: what it waits for is done when `after` returns, and its marks are passed at once."""

    def after(self, mark):
        self.device.dawdle()
        mark.finish()

    def give(self, work):
        self.device.dawdle()
        work()


class FakeDevice:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.reads, self.writes = FakeQueue(self), FakeQueue(self)
        self.compute = Immediate(self)

    def advance_one(self, wanted):
        """One piece of some queue that can go on; `wanted`'s as soon as chance has it."""
        able = [queue for queue in (self.reads, self.writes) if queue.runnable()]
        assert able, "every queue waits for another: a deadlock"
        self.random.choice(able).step()

    def dawdle(self):
        for _ in range(self.random.choice([0, 0, 3, 50, 1000])):
            able = [queue for queue in (self.reads, self.writes) if queue.runnable()]
            if not able:
                return
            self.random.choice(able).step()

    def adopt(self, memory, length):
        """Host memory is what the fake computes in."""

    def within(self, queue):
        return nullcontext()  # index arithmetic reads nothing that a queue writes

    def place(self, values):
        return torch.from_numpy(values)

    def empty(self, length, like):
        return torch.full((length,), -77, dtype=like.dtype)  # nothing that anyone could mistake for a row

    def resident(self, values):
        return values.clone()

    def copy(self, queue, source, target):
        assert torch.equal(source.length_R, target.length_R)
        rows = list(zip(source.at_R.tolist(), target.at_R.tolist(), source.length_R.tolist(), strict=True))
        self.random.shuffle(rows)  # within one copy no order holds
        for here, there, length in rows:
            for part in range(0, length, 3):  # torn: a few units at a time
                size = min(3, length - part)
                queue.give(lambda h=here + part, t=there + part, n=size: self._move(source.memory, h, target.memory, t, n))

    @staticmethod
    def _move(source, here, target, there, size):
        target[there : there + size] = source[here : here + size].clone()


class LazyDevice(FakeDevice):
    """Nothing moves before someone waits for it, and then no more than must."""

    def advance_one(self, wanted):
        able = [queue for queue in (wanted, self.reads, self.writes) if queue.runnable()]
        assert able, "every queue waits for another: a deadlock"
        able[0].step()

    def dawdle(self):
        """Never."""


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


def trained(job, device, steps=14, ahead=True):
    """Losses, and the table's tensors after some steps."""
    graph = checkerboard().graph
    table = first_table(job, graph, None)
    if device:
        table = PipelinedTable(table, device)
    step = build_step(job, graph, None, table)
    batches = [
        step.sampler.batch(index // step.sampler.steps_per_epoch, index % step.sampler.steps_per_epoch) for index in range(steps)
    ]
    losses = []
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        if device and ahead and batch.step == 1:
            table.prefetch(batch.rows_R)
        if device and ahead and following:
            table.prefetch(following.rows_R)
        losses.append(step(batch, 0.05))
        if batch.step == 7:
            step.table.drained()  # as an exploration does, while the next batch is on its way
    return losses, step.table.drained().tensors()


CASES = [
    ("none", "sgd", 1.0, "float32"), ("none", "adam", 1.0, "float32"), ("sampled", "adam_row", 1.0, "float32"),
    ("sampled", "adam", 0.5, "float32"), ("none", "adagrad_row", 0.5, "float32"), ("sampled", "adam", 0.5, "bfloat16"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_serial_run_bit_for_bit(case):
    job = job_of(*case)
    losses, tensors = trained(job, None)
    assert losses[-1] < losses[0]
    for seed in range(12):
        device = LazyDevice(0) if seed < 2 else FakeDevice(seed)
        again, others = trained(job, device, ahead=seed % 4 != 1)
        assert again == losses, f"seed {seed}"
        assert all(torch.equal(tensors[name], others[name]) for name in tensors), f"seed {seed}"


def test_the_fake_device_shows_a_missing_patch(monkeypatch):
    """Without patches some order of transfers must go wrong, else the test above would prove nothing."""
    monkeypatch.setattr(PipelinedTable, "_patch", lambda self, earlier, later: None)
    job = job_of("sampled", "adam", 1.0)
    losses, _ = trained(job, None)
    assert any(trained(job, FakeDevice(seed))[0] != losses for seed in range(12))


def test_the_fake_device_shows_a_write_that_nobody_waits_for(monkeypatch):
    """A read that begins while older writes than the last are on their way reads old rows that are not patched."""
    monkeypatch.setattr(FakeQueue, "after", lambda self, mark: None)
    job = job_of("none", "sgd", 1.0)
    losses, _ = trained(job, None)
    assert trained(job, LazyDevice(0))[0] != losses


def test_rows_that_nobody_announced_are_read_at_once():
    job = job_of("none", "sgd", 1.0)
    host = first_table(job, checkerboard().graph, None)
    table, announced, other = PipelinedTable(host, LazyDevice(0)), np.array([1, 2]), np.array([1, 3])
    table.prefetch(announced)
    for rows in (other, announced):
        assert torch.equal(table.decode(table.read(rows, with_state=False)), host.decode(host.read(rows, False)))


def test_rows_without_values_take_no_room():
    job = job_of("none", "adam", 0.5)
    host = first_table(job, checkerboard().graph, None)
    with host.rebuild() as rebuild:
        for first, last in host.blocks():
            rebuild.read(first, last)
    rows = np.array([0, 5, 30])
    table = PipelinedTable(host, FakeDevice(0))
    assert torch.equal(table.decode(table.read(rows, with_state=True)), torch.zeros(3, 16))
    assert table.stored(rows, torch.ones(3, 16)).values_X.numel() == 0
