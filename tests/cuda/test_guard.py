"""The finite check on both devices: which tensors are bad, wherever in them the number lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import guard as cuda
from gcnrec.errors import DataError
from gcnrec.ops import guard as ops

SIZES = [(), (0,), (1,), (31,), (256,), (257, 4), (3, 1030), (7,), (5, 5), (2,)]


def tensors():
    """Ten tensors, finite and as large as numbers get: sums of some overflow."""
    largest = torch.finfo(torch.float32).max
    return [torch.full(shape, -largest if k % 2 else largest) for k, shape in enumerate(SIZES)]


@pytest.fixture(params=["ops", "cuda"])
def flag(request, host):
    return {"ops": ops, "cuda": cuda}[request.param].flag_nonfinite


def test_finite_numbers_are_good_however_large(flag):
    bad = torch.zeros(1, dtype=torch.int32)
    flag(tensors(), bad)
    flag([], bad)
    assert bad.tolist() == [0]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_each_tensor_has_its_bit(flag, number):
    for k, shape in enumerate(SIZES):
        size = int(np.prod(shape))
        for place in {0, size // 2, size - 1} if size else ():
            given, bad = tensors(), torch.zeros(1, dtype=torch.int32)
            given[k].view(-1)[place] = number
            flag(given, bad)
            assert bad.tolist() == [1 << k], (k, place)


def test_other_bits_stay_and_far_tensors_share_the_last(flag):
    bad = torch.tensor([4], dtype=torch.int32)
    flag([torch.tensor([np.nan]), torch.ones(2)], bad)
    assert bad.tolist() == [5]
    flag([torch.ones(1)] * 33 + [torch.tensor([np.inf])], bad)
    assert bad.tolist() == [5 | 1 << 30]


def test_eight_tensors_are_one_launch(host):
    bad = torch.zeros(1, dtype=torch.int32)
    cuda.flag_nonfinite([torch.ones(3000)] * 8, bad)
    cuda.flag_nonfinite([torch.ones(0)] * 3, bad)
    assert host.launches == [("gcnrec_flag_nonfinite", 3, 256)]


def test_other_dtypes_are_refused(host):
    with pytest.raises(DataError, match=r"tensors\[1\] must be torch\.float32"):
        cuda.flag_nonfinite([torch.ones(1), torch.ones(1, dtype=torch.float64)], torch.zeros(1, dtype=torch.int32))
