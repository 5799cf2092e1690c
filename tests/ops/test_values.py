"""Stored values: compiled code and plain Python agree, and bfloat16 rounds as torch does."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch

from gcnrec.ops.values import load, store, store_update

VALUES = np.array([0.0, -0.0, 1.0, 1.00390625, 1.01171875, -3.14159, 1e-30, 65504.0, 2.0**-130], np.float32)


@numba.njit
def compiled(values, source, step, loaded):
    for at in range(len(source)):
        if step:
            store_update(values, at, source[at], step, at)
        else:
            store(values, at, source[at])
        loaded[at] = load(values, at)


def plain(values, source, step, loaded):
    for at in range(len(source)):
        if step:
            store_update(values, at, source[at], step, at)
        else:
            store(values, at, source[at])
        loaded[at] = load(values, at)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("step", [0, 1, 77])
def test_compiled_equals_plain_python(dtype, step):
    results = []
    for function in (compiled, plain):
        values, loaded = np.zeros(len(VALUES), dtype), np.zeros(len(VALUES), np.float32)
        function(values, VALUES, step, loaded)
        results.append((values, loaded))
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))
    if dtype == np.float32:
        assert np.array_equal(results[0][1], VALUES)
    elif step == 0:
        assert np.array_equal(results[0][1], torch.from_numpy(VALUES).bfloat16().float().numpy())
