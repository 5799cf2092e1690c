"""Steps of graphsage and pinsage behind a device that lags, runs ahead and tears: the bits of steps that read in place."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from node_steps import CASES, features_of, job_of, same, step_behind, trained

from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.state import copied, restore
from gcnrec.tables.features import pipelined
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.hot_rows import Prefixes

HOT = [None, Prefixes(24, 5, 7), Prefixes(24, 24, 24)]


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
    kept = copied(step, None)
    again = step_behind(fake_device.FakeDevice(3), job, features)
    restore(again, None, kept, Path("checkpoint"), "remedy")
    with closing(again.batches(1, Waits())) as batches:
        for uploaded in batches:
            again.train(uploaded, 0.02)
    assert same(whole, copied(again, None))


def test_a_buffer_is_used_by_one_batch_after_another(fake_device):
    step = step_behind(fake_device.FakeDevice(1), job_of(), features_of(items=9))
    made = []
    right = step.features.items._device.empty
    step.features.items._device.empty = lambda length, like: made.append(length) or right(length, like)
    trained(step, 3)
    of_features = [length for length in made if length < 1.2 * 24 * 12]
    assert len(of_features) <= 2 * pipelined.SLOTS
