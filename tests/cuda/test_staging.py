"""Copies by the host for memory that cannot be pinned: alone, and under the pipeline on a device whose transfers lag and tear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("pydantic", reason="reads jobs")

from built import start_table, step_of

from gcnrec.config import Job
from gcnrec.cuda.staging import Staging
from gcnrec.ops.slots import copy_spans
from gcnrec.queues import Spans
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.testing import checkerboard


def fresh(nbytes):
    return torch.full((nbytes,), 0xAB, dtype=torch.uint8)


@pytest.fixture
def staged(fake_device):
    """Makes a fake device of a seed that reaches no host memory by itself; `journeys` counts parts."""

    class StagedDevice(fake_device.FakeDevice):
        def __init__(self, seed, buffer_bytes=512):
            super().__init__(seed)
            self.homes, self.queue, self.journeys = set(), None, {"in": 0, "out": 0}
            self.staging = Staging(copy_spans, self.to_device, self.to_host, fresh, buffer_bytes)

        def adopt(self, memory, length):
            if length:
                self.homes.add(memory.data_ptr())

        def copy(self, queue, pairs):
            self.queue = queue
            for source, target in pairs:
                if source.memory.data_ptr() in self.homes:
                    self.staging.read(source, target)
                elif target.memory.data_ptr() in self.homes:
                    self.staging.write(source, target)
                else:
                    super().copy(queue, [(source, target)])

        def to_device(self, packed, target):
            self.journeys["in"] += 1
            arrived = self.empty(len(packed), packed)
            self.queue.give(lambda: arrived.copy_(packed))
            mark = self.queue.mark()
            super().copy(self.queue, [(target.packed_in(arrived), target)])
            return mark

        def to_host(self, source, packed):
            self.journeys["out"] += 1
            leaving = source.packed_in(self.empty(len(packed), packed))
            super().copy(self.queue, [(source, leaving)])
            self.queue.give(lambda: packed.copy_(leaving.memory))
            return self.queue.mark()

    return StagedDevice


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64], ids=str)
@pytest.mark.parametrize("buffer_bytes", [16, 100, 1 << 20])
def test_rows_arrive_and_come_back(dtype, buffer_bytes, staged):
    """Rows of 0 to 30 values, some of them longer than a buffer, to places in any order, and turned over on the way back."""
    draw, rows = np.random.default_rng(buffer_bytes), 40
    length = draw.integers(0, 31, rows) * draw.integers(0, 2, rows)
    slots = draw.permutation(rows)
    home = torch.from_numpy(draw.integers(0, 100, rows * 31)).to(dtype)
    before = home.clone()
    device = staged(3, buffer_bytes)
    device.adopt(home, len(home))
    lengths = torch.from_numpy(length)
    here = Spans(home, torch.from_numpy(slots * 31), lengths)
    there = Spans(torch.zeros(rows * 40, dtype=dtype), torch.from_numpy(draw.permutation(rows) * 40), lengths)
    device.copy(device.reads, [(here, there)])
    device.reads.mark().finish()
    expected, untouched = torch.zeros(rows * 40, dtype=dtype), before.clone()
    for row in range(rows):
        at, to, size = int(here.at_R[row]), int(there.at_R[row]), int(length[row])
        expected[to : to + size] = before[at : at + size]
        untouched[at : at + size] += 1
    assert torch.equal(there.memory, expected) and torch.equal(home, before)
    there.memory.add_(1)
    device.copy(device.writes, [(there, here)])
    assert torch.equal(home, untouched), "a write is over when it returns"
    assert (device.journeys["in"] == 1) == (buffer_bytes == 1 << 20 or len(np.flatnonzero(length)) == 1)


def test_nothing_is_no_journey(staged):
    device, home = staged(0), torch.ones(4)
    device.adopt(home, 4)
    for lengths in (torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)):
        spans = Spans(home, torch.zeros_like(lengths), lengths)
        nowhere = Spans(torch.zeros(0), lengths, lengths)
        device.copy(device.reads, [(spans, nowhere)])
        device.copy(device.writes, [(nowhere, spans)])
    assert device.journeys == {"in": 0, "out": 0} and home.tolist() == [1.0] * 4


def test_two_buffers_are_made_and_reused():
    made = []

    def allocate(nbytes):
        made.append(nbytes)
        return fresh(nbytes)

    class Passed:
        def finish(self):
            """Over already."""

    def to_device(packed, target):
        target.memory[: len(packed)] = packed
        return Passed()

    home, rows = torch.arange(100.0), torch.arange(0, 100, 10)
    staging = Staging(copy_spans, to_device, lambda source, packed: Passed(), allocate, 200)
    for size in (2, 5, 10):
        spans = Spans(home, rows, torch.full_like(rows, size))
        staging.read(spans, spans.packed_in(torch.empty(1000)))
    assert made == [200, 200]
    whole = Spans(home, torch.zeros(1, dtype=torch.int64), torch.tensor([100]))
    staging.read(whole, whole)
    assert made == [200, 200, 400]


def job_of(propagation, rule, budget, dtype="float32"):
    return Job.model_validate(
        {
            "model": {"propagation": propagation, "layers": 2, "width": 16, "start": "normal"},
            "table": {"budget": budget, "dtype": dtype},
            "sparsity": {"policy": "static"} if budget < 1 else {},
            "sampler": {"fanouts": [3, 2]},
            "optimizer": {"rule": rule},
            "train": {"batch_size": 16},
        }
    )


def trained(job, device=None, hot=None, ahead=True, steps=10):
    """Losses, and the table's tensors; drained in the middle, as by an exploration."""
    graph = checkerboard().graph
    host = start_table(job, graph)
    step = step_of(job, graph, None, PipelinedTable(host, device, hot) if device else host)
    count = step.sampler.steps_per_epoch
    batches = [step.sampler.batch(index // count, index % count) for index in range(steps)]
    losses, ticket = [], batches[0].ticket
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        current = replace(batch, ticket=ticket)
        if following:
            ticket = step.table.prefetch(following.rows_R) if ahead else following.ticket
        losses.append(step(current, 0.05))
        if batch.step == 5:
            step.table.drained()
    return losses, step.table.drained().tensors()


CASES = [("none", "adam", 1.0, "float32"), ("sampled", "adam_row", 0.5, "float32"), ("sampled", "sgd", 0.5, "bfloat16")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_with_staged_memory_is_the_same_bit_for_bit(case, staged):
    losses, tensors = trained(job_of(*case))
    for seed, hot in enumerate([None, Prefixes(24, 5, 7), Prefixes(24, 24, 24), None, Prefixes(24, 0, 3)]):
        device = staged(seed)
        again, others = trained(job_of(*case), device, hot, ahead=seed != 3)
        assert again == losses, f"seed {seed}"
        assert all(torch.equal(tensors[name], others[name]) for name in tensors), f"seed {seed}"
        assert device.journeys["in"] > 0 and device.journeys["out"] > 0


class Never:
    """A mark that nobody waits for."""

    def finish(self):
        """At once."""


@pytest.mark.parametrize("way", ["to_device", "to_host"])
def test_a_buffer_that_nobody_waits_for_is_seen(way, staged, monkeypatch):
    """Without its rules of order the staging must fail on some order of transfers, else the test above would prove nothing."""
    right = getattr(staged, way)

    def hasty(self, *arguments):
        right(self, *arguments)
        return Never()

    monkeypatch.setattr(staged, way, hasty)
    job = job_of("none", "adam", 1.0)
    losses, _ = trained(job)
    assert any(trained(job, staged(seed))[0] != losses for seed in range(6))
