"""Steps of graphsage and pinsage behind a device that lags, runs ahead and tears: the bits of steps that read in place."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from built import start_table

from gcnrec.config import Job
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.state import captured, restore
from gcnrec.tables.dense import in_ram
from gcnrec.tables.features import pipelined
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.sides import Features
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.placement import placed_features
from gcnrec.tables.unread import UnreadTable
from gcnrec.testing import checkerboard
from gcnrec.training.build import TrainData, build_step, features_read
from gcnrec.training.plan import plan_of

GRAPH = checkerboard().graph
HOT = [None, Prefixes(24, 5, 7), Prefixes(24, 24, 24)]


def features_of(users=None, items=None):
    draw = np.random.default_rng(3)
    return Features(*(None if width is None else draw.normal(size=(24, width)).astype(np.float32) for width in (users, items)))


def job_of(name="graphsage", model=None, sampler=None, loss=None):
    return Job.parse(
        {
            "model": {"name": name, "layers": 2, "width": 8, "start": "normal", **(model or {})},
            "sampler": {"fanouts": [3, 2], **({"walks": 10} if name == "pinsage" else {}), **(sampler or {})},
            "loss": loss or {},
            "optimizer": {"rule": "adam"},
            "train": {"batch_size": 60},
        },
        [],
        "test",
    )


def step_behind(device, job, features, hot=None):
    """The step, in place without a device."""
    weights_E = np.linspace(0.5, 2.0, GRAPH.num_edges, dtype=np.float32) if job.sampler.neighbours == "weighted" else None
    sides = features_read(job, features, GRAPH, in_ram, for_gpu=device is not None)
    table = start_table(job, GRAPH)
    if device is not None and job.model.inputs == "features":
        table = UnreadTable(table, device, hot or Prefixes(24, 0, 0))
    elif device is not None:
        table = PipelinedTable(table, device, hot)
    data = TrainData(GRAPH, weights_E, placed_features(table, sides))
    return build_step(job, plan_of(job, GRAPH.num_nodes), data, table)


def trained(step, epochs=1):
    """Losses, and everything that training changed."""
    losses = []
    for epoch in range(epochs):
        with closing(step.batches(epoch, Waits())) as batches:
            for uploaded in batches:
                losses += step.train(uploaded, 0.02)
    return losses, captured(step, None)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


CASES = {
    "rows": ({}, Features()),
    "items": ({}, features_of(items=9)),
    "both sides": ({"model": {"feature_dtype": "float16"}}, features_of(5, 9)),
    "int8": ({"model": {"feature_dtype": "int8"}}, features_of(33, 9)),
    "features alone": ({"model": {"inputs": "features"}}, features_of(5, 9)),
    "weighted": ({"sampler": {"neighbours": "weighted"}}, features_of(items=9)),
    "no positives": ({"sampler": {"exclude_positives": True}}, features_of(items=9)),
    "pinsage": ({"name": "pinsage", "loss": {"name": "bsl"}}, features_of(items=9)),
    "pinsage, directau": ({"name": "pinsage", "loss": {"name": "directau"}}, features_of(5)),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_steps_in_place_bit_for_bit(case, fake_device):
    settings, features = CASES[case]
    job = job_of(**settings)
    losses, tensors = trained(step_behind(None, job, features))
    assert len({loss.value for loss in losses}) == len(losses) == 4
    for seed, hot in enumerate(HOT):
        device = fake_device.LazyDevice(0) if seed == 0 else fake_device.FakeDevice(seed)
        step = step_behind(device, job, features, hot)
        again, others = trained(step)
        assert again == losses and same(tensors, others), seed
        assert (step.traffic().rows > 0) == (features.any or case == "rows")


def test_a_read_that_nobody_waits_for_is_seen(monkeypatch, fake_device):
    """Else the test above would prove nothing of features."""
    job, features = job_of(model={"inputs": "features"}), features_of(5, 9)
    losses, _ = trained(step_behind(None, job, features))
    monkeypatch.setattr(fake_device.FakeDevice(0).compute.__class__, "after", lambda self, mark: None)
    assert trained(step_behind(fake_device.LazyDevice(0), job, features))[0] != losses


def test_features_are_announced_one_step_ahead(monkeypatch, fake_device):
    """Every batch is on its way before the one before it trains; none is read while the step waits."""
    late = []
    right = PipelinedFeatures._reading

    def reading(self, nodes_R, index_R):
        late.append(index_R is None)
        return right(self, nodes_R, index_R)

    monkeypatch.setattr(PipelinedFeatures, "_reading", reading)
    step = step_behind(fake_device.FakeDevice(1), job_of(), features_of(5, 9))
    trained(step)
    assert late == [False] * (2 * step.sampler.steps_per_epoch)


def test_batches_that_were_not_announced_are_read_at_once(fake_device):
    job, features = job_of(), features_of(5, 9)
    losses = []
    for device in (None, fake_device.FakeDevice(2)):
        step = step_behind(device, job, features)
        losses.append([step(batch, 0.02) for batch in step.sampler.epoch(0)])
    assert losses[0] == losses[1]


def test_a_resumed_step_goes_on_to_the_same_bits(fake_device):
    job, features = job_of(), features_of(5, 9)
    _, whole = trained(step_behind(fake_device.FakeDevice(1), job, features), 2)
    step = step_behind(fake_device.FakeDevice(2), job, features, HOT[1])
    trained(step)
    kept = {name: tensor.clone() for name, tensor in captured(step, None).items()}
    again = step_behind(fake_device.FakeDevice(3), job, features)
    restore(again, None, kept, Path("checkpoint"), "remedy")
    with closing(again.batches(1, Waits())) as batches:
        for uploaded in batches:
            again.train(uploaded, 0.02)
    assert same(whole, captured(again, None))


def test_a_buffer_is_used_by_one_batch_after_another(fake_device):
    step = step_behind(fake_device.FakeDevice(1), job_of(), features_of(items=9))
    made = []
    right = step.features.items._device.empty
    step.features.items._device.empty = lambda length, like: made.append(length) or right(length, like)
    trained(step, 3)
    of_features = [length for length in made if length < 1.2 * 24 * 12]
    assert len(of_features) <= 2 * pipelined._SLOTS
