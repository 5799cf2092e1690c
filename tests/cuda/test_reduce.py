"""Sums of duplicates against the CPU's, which adds in the same order: equal bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda.reduce import reduce_rows
from gcnrec.ops import reduce as ops


@pytest.mark.parametrize("width", [1, 3, 16, 33, 64, 100])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_the_same_bits_as_the_cpu(host, rows, width):
    draw = np.random.default_rng(rows)
    index = np.sort(draw.integers(0, rows, 60)) if rows == 7 else draw.integers(0, rows, 60)
    grad = torch.randn(60, width, generator=torch.Generator().manual_seed(width))
    assert torch.equal(reduce_rows(torch.from_numpy(index), grad, rows), ops.reduce_rows(index, grad, rows))


def test_by_hand(host):
    index = torch.tensor([2, 0, 2, 0])
    grad = torch.tensor([[1.0, 2.0], [10.0, 20.0], [0.5, 0.25], [1.0, 1.0]])
    assert reduce_rows(index, grad, 4).tolist() == [[11.0, 21.0], [0.0, 0.0], [1.5, 2.25], [0.0, 0.0]]


def test_a_gradient_with_padded_rows(host):
    grad = torch.randn(9, 24, generator=torch.Generator().manual_seed(0))[:, :20]
    index = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    assert torch.equal(reduce_rows(index, grad, 3), ops.reduce_rows(index.numpy(), grad, 3))


def test_nothing_to_add(host):
    none = torch.empty(0, dtype=torch.int64)
    assert reduce_rows(none, torch.empty(0, 4), 3).tolist() == [[0.0] * 4] * 3
    assert reduce_rows(none, torch.empty(0, 4), 0).shape == (0, 4)
