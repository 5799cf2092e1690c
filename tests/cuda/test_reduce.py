"""Sums of duplicates against the CPU's, which adds in the same order: equal bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import reduce
from gcnrec.ops import reduce as ops
from gcnrec.rows import Entries


def entries_of(index, num_rows):
    return Entries(*map(torch.from_numpy, ops.entries_of(np.asarray(index), num_rows)))


@pytest.mark.parametrize("width", [1, 3, 16, 33, 64, 100])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_the_same_bits_as_the_cpu(host, rows, width):
    draw = np.random.default_rng(rows)
    index = np.sort(draw.integers(0, rows, 60)) if rows == 7 else draw.integers(0, rows, 60)
    grad = torch.randn(60, width, generator=torch.Generator().manual_seed(width))
    entries = entries_of(index, rows)
    assert torch.equal(reduce.reduce_rows(entries, grad), ops.reduce_rows(entries, grad))


def test_by_hand(host):
    entries = entries_of([2, 0, 2, 0], 4)
    grad = torch.tensor([[1.0, 2.0], [10.0, 20.0], [0.5, 0.25], [1.0, 1.0]])
    assert reduce.reduce_rows(entries, grad).tolist() == [[11.0, 21.0], [0.0, 0.0], [1.5, 2.25], [0.0, 0.0]]


def test_a_gradient_with_padded_rows(host):
    grad = torch.randn(9, 24, generator=torch.Generator().manual_seed(0))[:, :20]
    entries = entries_of([0, 1, 2, 0, 1, 2, 0, 1, 2], 3)
    assert torch.equal(reduce.reduce_rows(entries, grad), ops.reduce_rows(entries, grad))


def test_nothing_to_add(host):
    none = np.empty(0, np.int64)
    assert reduce.reduce_rows(entries_of(none, 3), torch.empty(0, 4)).tolist() == [[0.0] * 4] * 3
    assert reduce.reduce_rows(entries_of(none, 0), torch.empty(0, 4)).shape == (0, 4)
