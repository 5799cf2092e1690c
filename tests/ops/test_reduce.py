"""Sums of duplicate rows against a Python loop in float64, and the fixed order of addition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.ops import reduce
from gcnrec.rows import Entries
from gcnrec.testing import assert_as_accurate


def reduce_rows(index, grad, num_rows):
    return reduce.reduce_rows(Entries(*map(torch.from_numpy, reduce.entries_of(index, num_rows))), grad)


def naive(index, grad, num_rows):
    out = np.zeros((num_rows, grad.shape[1]))
    for b, row in enumerate(index):
        out[row] += grad[b].double().numpy()
    return torch.from_numpy(out)


def in_order(index, grad, num_rows):
    """float32 additions in the order of the batch: the promised bits."""
    out = np.zeros((num_rows, grad.shape[1]), np.float32)
    for b, row in enumerate(index):
        out[row] = out[row] + grad[b].numpy()
    return torch.from_numpy(out)


@pytest.mark.parametrize("width", [1, 3, 16, 64])
def test_against_the_loop(width):
    rng = np.random.default_rng(width)
    index, grad = rng.integers(0, 40, 700) // 2 * 2, torch.from_numpy(rng.normal(size=(700, width)).astype(np.float32))
    result = reduce_rows(index, grad, 40)
    yardstick = torch.zeros(40, width).index_add_(0, torch.from_numpy(index), grad)
    assert_as_accurate(result, yardstick, naive(index, grad, 40), "sums")
    assert torch.equal(result, in_order(index, grad, 40))
    assert not result[1::2].any()  # rows without an entry


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=30), st.randoms(use_true_random=False))
def test_whole_numbers_sum_exactly_in_any_order(index, random):
    values = [[random.randrange(-8, 9) for _ in range(3)] for _ in index]
    order = list(range(len(index)))
    random.shuffle(order)
    expected = [[sum(v[d] for v, i in zip(values, index, strict=True) if i == r) for d in range(3)] for r in range(6)]
    for arrangement in (range(len(index)), order):
        chosen = np.array([index[b] for b in arrangement], np.int64)
        grad = torch.tensor([values[b] for b in arrangement], dtype=torch.float32).reshape(-1, 3)
        assert reduce_rows(chosen, grad, 6).tolist() == expected


def test_strided_gradients_and_threads(threads):
    grad = torch.randn(16, 900, generator=torch.Generator().manual_seed(0)).T
    index = np.random.default_rng(1).integers(0, 7, 900)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(reduce_rows(index, grad, 7))
    assert torch.equal(*results) and torch.equal(results[0], in_order(index, grad, 7))
