"""The fused softmax gradient against log_softmax in float64, at ordinary and extreme logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.ops.softmax import softmax_gradient_
from gcnrec.testing import assert_as_accurate


def by_torch(logits, goal, dtype):
    leaf = logits.to(dtype).clone().requires_grad_()
    losses = torch.nn.functional.cross_entropy(leaf, torch.from_numpy(goal), reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]


def fused(logits, goal):
    work = logits.clone()
    losses = softmax_gradient_(work, goal)
    return torch.from_numpy(losses), work


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 8.0, 60.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (17, 100), (40, 1031)])
def test_equals_torch(shape, scale):
    rng = np.random.default_rng(shape[1])
    logits = torch.from_numpy((scale * rng.normal(size=shape)).astype(np.float32))
    goal = rng.integers(0, shape[1], shape[0])
    losses, gradient = fused(logits, goal)
    exact_losses, exact_gradient = by_torch(logits, goal, torch.float64)
    yard_losses, yard_gradient = by_torch(logits, goal, torch.float32)
    # Losses are differences of logits, so the unit of their error is that of the largest logit.
    unit = float(logits.abs().max()) + 1.0
    assert_as_accurate(losses / unit, yard_losses / unit, exact_losses / unit, "losses")
    assert_as_accurate(gradient, yard_gradient, exact_gradient, "gradient")


def test_worked_example():
    """Logits 0 and log 3: shares 1/4 and 3/4."""
    losses, gradient = fused(torch.tensor([[0.0, np.log(3.0)]] * 2), np.array([0, 1]))
    assert losses.numpy() == pytest.approx([np.log(4.0), np.log(4 / 3)], rel=1e-6)
    assert gradient.numpy() == pytest.approx(np.array([[-0.75, 0.75], [0.25, -0.25]]), rel=1e-6)


def test_far_apart_logits_neither_overflow_nor_vanish():
    losses, gradient = fused(torch.tensor([[3e38, -3e38, 0.0], [-1e4, 0.0, 1e4], [-torch.inf, 0.0, 0.0]]), np.array([0, 0, 1]))
    assert losses.numpy() == pytest.approx([0.0, 2e4, np.log(2.0)], abs=1e-6)
    expected = [[0, 0, 0], [-1, 0, 1], [0, -0.5, 0.5]]
    assert gradient.numpy() == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_bad_goal_logits_give_bad_losses(bad, at):
    """A damaged embedding is the goal of some row of its batch, so a loss that is not finite always tells of it."""
    logits = torch.zeros(1, 5)
    logits[0, at] = bad
    losses, _ = fused(logits, np.array([at]))
    assert not losses.isfinite().any()


def test_threads_do_not_matter(threads):
    logits, goal = torch.randn(64, 301, generator=torch.Generator().manual_seed(0)), np.arange(64)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(fused(logits, goal))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
