"""The fused softmax gradient against float64, the CPU's twin and torch, at ordinary, extreme and damaged logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda.softmax import softmax_gradient_
from gcnrec.errors import DataError
from gcnrec.ops import softmax as ops
from gcnrec.testing import assert_as_accurate

NAN, INF = float("nan"), float("inf")


def exact(logits_CJ, goal_C):
    leaf = logits_CJ.double().requires_grad_()
    losses_C = torch.nn.functional.cross_entropy(leaf, goal_C, reduction="none")
    return losses_C.detach(), torch.autograd.grad(losses_C.sum(), leaf)[0]


@pytest.mark.parametrize("scale", [0.0, 1.0, 60.0])
@pytest.mark.parametrize("shape", [(1, 1), (9, 31), (4, 257), (3, 1031), (2, 8193)])
def test_as_near_to_float64_as_the_twin(host, shape, scale):
    draw = torch.Generator().manual_seed(shape[1])
    logits_CJ = scale * torch.randn(shape, generator=draw)
    goal_C = torch.randint(0, shape[1], shape[:1], generator=draw)
    goal_C[-1] = shape[1] - 1
    exact_losses_C, exact_CJ = exact(logits_CJ, goal_C)
    twin_CJ, around = logits_CJ.clone(), torch.full((shape[0], shape[1] + 3), -7.0)
    found_CJ = around[:, : shape[1]].copy_(logits_CJ)
    twin_losses_C = torch.from_numpy(ops.softmax_gradient_(twin_CJ, goal_C.numpy()))
    losses_C = softmax_gradient_(found_CJ, goal_C)
    unit = float(logits_CJ.abs().max()) + 1.0  # a loss is a difference of logits
    assert_as_accurate(losses_C / unit, twin_losses_C / unit, exact_losses_C / unit, "losses")
    assert_as_accurate(found_CJ, twin_CJ, exact_CJ, "gradient")
    assert (around[:, shape[1] :] == -7).all()


def test_rising_and_falling_logits(host):
    """Each logit of a thread is a new largest, or none is; the largest lies far above the first and beyond what exp can hold."""
    rising_J = torch.linspace(-500.0, 500.0, 3000)
    logits_CJ, goal_C = torch.stack([rising_J, rising_J.flip(0)]), torch.tensor([0, 2999])
    exact_losses_C, exact_CJ = exact(logits_CJ, goal_C)
    losses_C = softmax_gradient_(logits_CJ, goal_C)
    assert losses_C.numpy() == pytest.approx(exact_losses_C.numpy(), rel=1e-6)
    assert logits_CJ.numpy() == pytest.approx(exact_CJ.numpy(), abs=1e-6)


DAMAGED = {
    "left out": [-INF, 0.0, -INF, 2.0],
    "one is left": [-INF, -INF, -INF, 1.0],
    "none is left": [-INF] * 4,
    "NaN": [0.0, NAN, 1.0, 2.0],
    "NaN after minus infinity": [-INF, NAN, -INF, -INF],
    "infinity": [0.0, 1.0, INF, 2.0],
    "infinities": [INF, 1.0, INF, 2.0],
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("width", [4, 700])
def test_damaged_logits_are_as_torch_has_them(host, name, width):
    """Spread over a row whose other logits are left out: so each thread has one, or all lie far apart."""
    row_J = torch.full((width,), -INF)
    row_J[torch.linspace(0, width - 1, 4).long()] = torch.tensor(DAMAGED[name])
    logits_CJ, goal_C = row_J.repeat(4, 1), torch.linspace(0, width - 1, 4).long()
    expected_CJ = torch.softmax(logits_CJ, 1)
    expected_CJ[torch.arange(4), goal_C] -= 1.0
    expected_losses_C = torch.logsumexp(logits_CJ, 1) - logits_CJ[torch.arange(4), goal_C]
    losses_C = softmax_gradient_(logits_CJ, goal_C)
    assert logits_CJ.numpy() == pytest.approx(expected_CJ.numpy(), abs=1e-6, nan_ok=True)
    finite = expected_losses_C.isfinite()
    assert losses_C[finite].numpy() == pytest.approx(expected_losses_C[finite].numpy(), rel=1e-6)
    assert not losses_C[~finite].isfinite().any()


def test_the_same_bits_whichever_block_takes_a_row(host):
    logits_CJ = torch.randn(5, 900, generator=torch.Generator().manual_seed(0))
    goal_C, alone_CJ = torch.arange(5), logits_CJ.clone()
    losses_C = softmax_gradient_(logits_CJ, goal_C)
    alone_C = torch.cat([softmax_gradient_(alone_CJ[c : c + 1], goal_C[c : c + 1]) for c in range(5)])
    assert torch.equal(losses_C, alone_C) and torch.equal(logits_CJ, alone_CJ)


def test_what_does_not_fit_is_refused(host):
    with pytest.raises(DataError, match="logits_CJ must be a float32 matrix"):
        softmax_gradient_(torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"goal_C must be torch\.int64"):
        softmax_gradient_(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int32))
    assert softmax_gradient_(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert host.launches == []
    assert np.isclose(float(softmax_gradient_(torch.zeros(1, 4), torch.tensor([2]))[0]), np.log(4.0))
