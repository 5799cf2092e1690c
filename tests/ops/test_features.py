"""Reading stored features against NumPy's float16, torch's bfloat16 and the grid's own formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.ops.features import Grid, Stored, nearest_codes, read_features

WIDTHS = [1, 3, 37, 300]


def read(plane, width, dtype, index, grid=None):
    out = np.full((len(index), width), np.nan, np.float32)
    read_features(Stored(plane.reshape(-1), plane.shape[1], width, dtype, grid), index, out)
    return out


def indices(rows):
    return np.random.default_rng(0).integers(0, rows, 900)


@pytest.mark.parametrize("width", WIDTHS)
def test_float32_is_as_it_lies(width, threads):
    plane = np.random.default_rng(1).standard_normal((50, width + 5), np.float32)
    plane.flags.writeable = False  # as a mapped dataset
    for count in (1, 2):
        threads(count)
        assert np.array_equal(read(plane, width, "float32", indices(50)), plane[indices(50), :width])
    assert read(plane, width, "float32", np.empty(0, np.int64)).shape == (0, width)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_finite_value_of_16_bits(dtype):
    plane = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    wide = torch.from_numpy(plane.astype(np.int32)).to(torch.int16)
    expected = wide.view(torch.float16 if dtype == "float16" else torch.bfloat16).float().numpy()
    found = read(plane, 256, dtype, np.arange(256))
    finite = np.isfinite(expected)
    assert finite.sum() > 63_000 and np.array_equal(found.view(np.uint32)[finite], expected.view(np.uint32)[finite])


def grid_of_three():
    return Grid(*(np.array(ends, np.float32) for ends in ([-1.0, 0.1, 5.0], [0.0078125, 0.25, 0.0], [0.98, 63.7, 5.0])))


def test_codes_are_points_of_the_grid():
    grid, plane = grid_of_three(), np.repeat(np.arange(-127, 128, dtype=np.int8)[:, None], 4, 1)
    found = read(plane, 3, "int8", np.arange(255), grid)
    for c in range(254):
        point = np.float64(grid.low_F) + c * np.float64(grid.step_F)
        assert found[c].tolist() == point.astype(np.float32).tolist()
    assert found[254].tolist() == grid.high_F.tolist()


def test_the_nearest_code():
    grid = grid_of_three()
    values = np.random.default_rng(0).uniform(-2.0, 70.0, (2000, 3)).astype(np.float32)
    values[:500] = np.random.default_rng(1).uniform(-1.0, 1.0, (500, 3))
    codes = np.empty(values.shape, np.int8)
    nearest_codes(values, grid, codes)
    points = read(np.repeat(np.arange(-127, 128, dtype=np.int8)[:, None], 3, 1), 3, "int8", np.arange(255), grid)
    for column in range(3):
        away = np.abs(points[:, column].astype(np.float64)[None, :] - values[:, column, None])
        own = away[np.arange(len(values)), codes[:, column].astype(int) + 127]
        assert (own <= away.min(1) * (1 + 1e-6) + 1e-7).all()
    assert {codes.min(), codes.max()} == {-127, 127}
