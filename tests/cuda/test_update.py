"""Every rule over dense rows and slots, several steps: as near to float64 as the CPU's kernels, integers equal."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcnrec.cuda import update as cuda
from gcnrec.ops import update as ops
from gcnrec.testing import assert_as_accurate

BETA1, BETA2, EPSILON, RATE = 0.9, 0.999, 1e-8, 0.01
ROWS = 23
COUNTS = {
    "dense": np.full(ROWS, 64),
    "odd": np.full(ROWS, 33),
    "one": np.ones(ROWS, np.int64),
    "slots": np.arange(ROWS) * 7 % 23,  # none, one and more than a pass of the tile
}
# Which rows have a gradient at steps 1, 2, ...
TOUCHED = [np.arange(ROWS), np.array([0, 4, 22]), np.array([1, 2, 4, 5]), np.array([], np.int64), np.arange(0, ROWS, 2)]
# Moments per value and scalars per row.
STATE = {"sgd": (), "adagrad_row": (0, 1), "adam": (2, 0), "adam_row": (1, 1), "adam_dense": (2, 0)}


class Planes:
    """Weights and state of rows of `counts` values, with gaps between rows and a place of its own for each row's gradient."""

    def __init__(self, rule, counts, dtype):
        draw = np.random.default_rng(0)
        self.counts, self.rule = counts.astype(np.int64), rule
        moments, scalars = STATE[rule] or (0, 0)
        self.at = np.cumsum(self.counts + 3) - self.counts - 3
        size = self.counts * moments + scalars
        self.state_at = np.cumsum(size + 1) - size
        values = draw.standard_normal(int((self.counts + 3).sum())).astype(np.float32)
        self.weights = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == np.uint16 else values.astype(dtype)
        self.state = np.zeros(int((size + 1).sum()), np.float64 if dtype == np.float64 else np.float32)
        self.last = np.zeros(ROWS, np.int32)

    def step(self, kernels, convert, number, rate_type):
        """One step on the rows of TOUCHED: gradients are equal for equal numbers."""
        rows = TOUCHED[number - 1]
        counts = self.counts[rows]
        grad_at = np.cumsum(counts) - counts
        grad = np.random.default_rng(number).standard_normal(int(counts.sum())).astype(rate_type)
        weights = tuple(map(convert, (self.weights, self.at[rows], counts, rows)))
        state = (convert(self.state), convert(self.state_at[rows])) if STATE[self.rule] else ()
        last = (convert(self.last),) if self.rule in ("adam", "adam_row") else ()
        numbers = {"sgd": (RATE,), "adagrad_row": (RATE, EPSILON)}.get(self.rule, (RATE, BETA1, BETA2, EPSILON))
        arguments = (*weights, *state, *last, convert(grad), convert(grad_at), number, *map(rate_type, numbers))
        getattr(kernels, self.rule)(*arguments)

    def stored(self):
        return torch.from_numpy(np.concatenate([self.weights[a : a + c] for a, c in zip(self.at, self.counts, strict=True)]))

    def between(self):
        """What no row owns and no rule may touch."""
        return np.concatenate([self.weights[a + c : a + c + 3] for a, c in zip(self.at, self.counts, strict=True)])


def run(kernels, rule, counts, dtype, convert, rate_type=np.float32):
    planes = Planes(rule, counts, dtype)
    for number in range(1, len(TOUCHED) + 1):
        planes.step(kernels, convert, number, rate_type)
    return planes


class Exact:
    """The rules in float64, row by row; formulas of Duchi et al. 2011 and Kingma & Ba 2015."""

    @staticmethod
    def sgd(w, at, count, rows, g, g_at, step, rate):
        for a, c, b in zip(at, count, g_at, strict=True):
            w[a : a + c] -= rate * g[b : b + c]

    @staticmethod
    def adagrad_row(w, at, count, rows, s, s_at, g, g_at, step, rate, epsilon):
        for a, c, p, b in zip(at, count, s_at, g_at, strict=True):
            if c:
                s[p] += (g[b : b + c] ** 2).mean()
                w[a : a + c] -= rate * g[b : b + c] / (np.sqrt(s[p]) + epsilon)

    @staticmethod
    def adam(w, at, count, rows, s, s_at, last, g, g_at, step, rate, beta1, beta2, epsilon):
        gaps = step - last[rows]
        last[rows] = step
        Exact._adam(w, at, count, s, s_at, gaps, g, g_at, step, rate, beta1, beta2, epsilon)

    @staticmethod
    def adam_dense(w, at, count, rows, s, s_at, g, g_at, step, rate, beta1, beta2, epsilon):
        Exact._adam(w, at, count, s, s_at, np.ones(len(at)), g, g_at, step, rate, beta1, beta2, epsilon)

    @staticmethod
    def _adam(w, at, count, s, s_at, gaps, g, g_at, step, rate, beta1, beta2, epsilon):
        for a, c, p, gap, b in zip(at, count, s_at, gaps, g_at, strict=True):
            m, v, own = s[p : p + c], s[p + c : p + 2 * c], g[b : b + c]
            m[:] = beta1**gap * m + (1 - beta1) * own
            v[:] = beta2**gap * v + (1 - beta2) * own**2
            w[a : a + c] -= rate * m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + epsilon)

    @staticmethod
    def adam_row(w, at, count, rows, s, s_at, last, g, g_at, step, rate, beta1, beta2, epsilon):
        for a, c, p, row, b in zip(at, count, s_at, rows, g_at, strict=True):
            gap, last[row] = step - last[row], step
            if c:
                m, own = s[p : p + c], g[b : b + c]
                m[:] = beta1**gap * m + (1 - beta1) * own
                s[p + c] = beta2**gap * s[p + c] + (1 - beta2) * (own**2).mean()
                w[a : a + c] -= rate * m / (1 - beta1**step) / (np.sqrt(s[p + c] / (1 - beta2**step)) + epsilon)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("rule", STATE)
def test_float32_rows(host, rule, counts):
    exact = run(Exact, rule, COUNTS[counts], np.float64, lambda array: array, np.float64)
    yardstick = run(ops, rule, COUNTS[counts], np.float32, lambda array: array)
    found = run(cuda, rule, COUNTS[counts], np.float32, torch.from_numpy)
    assert_as_accurate(found.stored(), yardstick.stored(), exact.stored(), rule)
    assert np.array_equal(found.last, yardstick.last)
    assert found.state == pytest.approx(yardstick.state, rel=1e-5, abs=1e-9)
    between = np.setdiff1d(
        np.arange(len(found.weights)), np.concatenate([a + np.arange(c) for a, c in zip(found.at, found.counts, strict=True)])
    )
    assert np.array_equal(found.weights[between], yardstick.weights[between])


@pytest.mark.parametrize("counts", ["odd", "slots"])
@pytest.mark.parametrize("rule", STATE)
def test_bfloat16_rows_round_by_the_same_draws(host, rule, counts):
    """The hash must give the CPU's bits; where arithmetic differs in its last place, one in 65536 roundings may."""
    yardstick = run(ops, rule, COUNTS[counts], np.uint16, lambda array: array)
    found = run(cuda, rule, COUNTS[counts], np.uint16, torch.from_numpy)
    assert np.array_equal(found.weights, yardstick.weights)
    assert np.array_equal(found.last, yardstick.last)


@pytest.mark.parametrize("lanes", [1, 8, 32])
def test_any_tile(host, lanes):
    counts = np.arange(ROWS)
    planes, other = Planes("adam_row", counts, np.float32), Planes("adam_row", counts, np.float32)
    rows, grad = np.arange(ROWS), torch.randn(int(counts.sum()), generator=torch.Generator().manual_seed(0))
    at = np.cumsum(counts) - counts
    for own, share in ((planes, lanes), (other, 16)):
        cuda.adam_row(
            torch.from_numpy(own.weights), torch.from_numpy(own.at), torch.from_numpy(own.counts), torch.from_numpy(rows),
            torch.from_numpy(own.state), torch.from_numpy(own.state_at), torch.from_numpy(own.last), grad, torch.from_numpy(at),
            1, RATE, BETA1, BETA2, EPSILON, share,
        )  # fmt: skip
    assert planes.weights == pytest.approx(other.weights, rel=1e-6)


@pytest.mark.parametrize("rule", STATE)
def test_a_capped_grid_strides_over_all_rows(host, rule):
    free = run(cuda, rule, COUNTS["slots"], np.float32, torch.from_numpy)
    assert max(grid for _, grid, _ in host.launches) == 3
    host.launches.clear()
    one_block = SimpleNamespace(**{rule: partial(getattr(cuda, rule), max_blocks=1)})
    capped = run(one_block, rule, COUNTS["slots"], np.float32, torch.from_numpy)
    assert {grid for _, grid, _ in host.launches} == {1}
    assert np.array_equal(capped.weights, free.weights) and np.array_equal(capped.state, free.state)
