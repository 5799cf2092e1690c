"""What a checkpoint holds of layers whose optimizer has not taken a step, as when Ctrl-C comes before the first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from built import step_of

from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.steps.state import copied, restore
from gcnrec.testing import checkerboard

GRAPH = checkerboard().graph
JOB = Job.parse(
    {
        "model": {"name": "graphsage", "propagation": "sampled", "layers": 2, "width": 8, "start": "normal"},
        "sampler": {"fanouts": [3, 2]},
        "optimizer": {"rule": "adam"},
        "train": {"batch_size": 64},
    },
    [],
    "test",
)


def trained(steps, saved=None):
    """A step that was taken so often, from what was saved of another, and its tensors."""
    step = step_of(JOB, GRAPH)
    if saved is not None:
        restore(step, None, saved, Path("last.safetensors"), "train anew")
    for index in range(steps):
        step(step.sampler.batch(0, index), 0.02)
    return copied(step, None)


def test_a_run_that_was_stopped_before_its_first_step_goes_on():
    """It has the moments of zero that Adam begins with, of each weight, and goes on to equal bits."""
    saved = trained(0)
    moments = {name: tensor for name, tensor in saved.items() if name.startswith("adam.")}
    assert len(moments) == 3 * sum(name.startswith("layers.") for name in saved)
    assert not any(tensor.any() for tensor in moments.values())
    found, expected = trained(2, saved), trained(2)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert any(tensor.any() for name, tensor in found.items() if name.startswith("adam."))


def test_a_checkpoint_without_moments_is_no_whole_one():
    saved = {name: tensor for name, tensor in trained(1).items() if not name.startswith("adam.")}
    with pytest.raises(DataError, match=r"must hold for the layers' optimizer '0.exp_avg' .*, holds nothing; train anew"):
        trained(0, saved)
