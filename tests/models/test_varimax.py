"""Varimax: a rotation, no worse than none, and one that finds planted sparse rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.models.spectral import varimax


def criterion(rows):
    """Sum over columns of the variance of squared entries, rows of unit length (Kaiser 1958)."""
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True).clamp_min(1e-12)
    return float(unit.square().var(0, unbiased=False).sum())


def planted(rows, width, seed):
    """Rows with one entry far from zero, in one of `width` columns, of either sign."""
    draw = np.random.default_rng(seed)
    out = 0.02 * draw.standard_normal((rows, width))
    out[np.arange(rows), np.arange(rows) % width] = draw.choice([-1.0, 1.0], rows) * draw.uniform(0.5, 2.0, rows)
    return torch.from_numpy(out).float()


def random_rotation(width, seed):
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 3, 7, 20])
def test_a_rotation_that_is_no_worse_than_none(width, seed):
    rows = torch.randn(60, width, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.1, 2.0, width)
    rotation = varimax(rows)
    assert torch.allclose(rotation @ rotation.T, torch.eye(width), atol=1e-5)
    assert criterion(rows @ rotation) >= criterion(rows) - 1e-6
    assert torch.allclose((rows @ rotation) @ (rows @ rotation).T, rows @ rows.T, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_planted_rows_come_back_up_to_order_and_sign(seed):
    rows = planted(200, 6, seed)
    found = (rows @ random_rotation(6, seed)) @ (rotation := varimax(rows @ random_rotation(6, seed)))
    assert torch.allclose(rotation @ rotation.T, torch.eye(6), atol=1e-5)
    match = (rows.T @ found).numpy()
    order = np.abs(match).argmax(1)
    assert sorted(order.tolist()) == list(range(6))
    signs = np.sign(match[np.arange(6), order])
    np.testing.assert_allclose(found.numpy()[:, order] * signs, rows.numpy(), atol=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_by_hand(seed):
    """Rows along four orthogonal lines turn onto the axes: a quarter of a column's squares are 1, variance 3/16 of each."""
    rows = torch.diag(torch.tensor([1.0, -2.0, 3.0, 0.5])).repeat(2, 1)
    turned = (tilted := rows @ random_rotation(4, seed)) @ varimax(tilted)
    assert criterion(turned) == pytest.approx(4 * 3 / 16, rel=1e-3)
    assert turned.abs().max(1).values.tolist() == pytest.approx([1.0, 2.0, 3.0, 0.5] * 2, rel=1e-2)


def test_rows_of_zeros_are_ignored():
    rows = planted(120, 5, 0) @ random_rotation(5, 1)
    padded = torch.cat([rows, torch.zeros(30, 5)])
    assert criterion(rows @ varimax(padded)) == pytest.approx(criterion(rows @ varimax(rows)), rel=1e-3)
