"""Every rule over dense rows and slots, several steps: as near to float64 as the CPU's kernels, integers equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import update as cuda
from gcnrec.ops import update as ops
from gcnrec.rows import ALL_NODES, AdamSettings, RowGrad, RowNumbers, Rows, State, Ticket
from gcnrec.testing import assert_as_accurate

EPSILON, RATE = 1e-8, 0.01
SETTINGS = AdamSettings(0.9, 0.999, EPSILON)
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

    def rows(self, rows):
        """The rows and their state where they lie, as tensors that share their memory."""
        state = State(*map(torch.from_numpy, (self.state, self.state_at[rows], self.last))) if STATE[self.rule] else None
        return Rows(Ticket(rows), *map(torch.from_numpy, (rows, self.weights, self.at[rows], self.counts[rows])), state)

    def step(self, kernels, number, *more, bad=None):
        """One step on the rows of TOUCHED: gradients are equal for equal numbers. `bad` is that of the gradient."""
        rows = self.rows(TOUCHED[number - 1])
        grad = np.random.default_rng(number).standard_normal(int(rows.count_R.sum())).astype(self.state.dtype)
        numbers = {"sgd": (), "adagrad_row": (EPSILON,)}.get(self.rule, (SETTINGS,))
        row_grad = RowGrad(rows.ticket, torch.from_numpy(grad), rows.count_R.cumsum(0) - rows.count_R, bad)
        getattr(kernels, self.rule)(rows, row_grad, number, RATE, *numbers, *more)

    def stored(self):
        return torch.from_numpy(np.concatenate([self.weights[a : a + c] for a, c in zip(self.at, self.counts, strict=True)]))

    def between(self):
        """What no row owns and no rule may touch."""
        return np.concatenate([self.weights[a + c : a + c + 3] for a, c in zip(self.at, self.counts, strict=True)])


def run(kernels, rule, counts, dtype, *more):
    planes = Planes(rule, counts, dtype)
    for number in range(1, len(TOUCHED) + 1):
        planes.step(kernels, number, *more)
    return planes


class Exact:
    """The rules in float64, row by row; formulas of Duchi et al. 2011 and Kingma & Ba 2015."""

    @staticmethod
    def sgd(rows, grad, step, rate):
        for w, g, _ in Exact._rows(rows, grad):
            w -= rate * g

    @staticmethod
    def adagrad_row(rows, grad, step, rate, epsilon):
        for w, g, s in Exact._rows(rows, grad):
            if len(w):
                s[0] += (g**2).mean()
                w -= rate * g / (np.sqrt(s[0]) + epsilon)

    @staticmethod
    def adam(rows, grad, step, rate, settings):
        Exact._adam(rows, grad, step, rate, settings, Exact._gaps(rows, step))

    @staticmethod
    def adam_dense(rows, grad, step, rate, settings):
        Exact._adam(rows, grad, step, rate, settings, np.ones(len(rows.rows_R)))

    @staticmethod
    def _adam(rows, grad, step, rate, settings, gaps):
        beta1, beta2 = settings.beta1, settings.beta2
        for (w, g, s), gap in zip(Exact._rows(rows, grad), gaps, strict=True):
            m, v = s[: len(w)], s[len(w) : 2 * len(w)]
            m[:] = beta1**gap * m + (1 - beta1) * g
            v[:] = beta2**gap * v + (1 - beta2) * g**2
            w -= rate * m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + settings.epsilon)

    @staticmethod
    def adam_row(rows, grad, step, rate, settings):
        beta1, beta2 = settings.beta1, settings.beta2
        for (w, g, s), gap in zip(Exact._rows(rows, grad), Exact._gaps(rows, step), strict=True):
            c = len(w)
            if c:
                m = s[:c]
                m[:] = beta1**gap * m + (1 - beta1) * g
                s[c] = beta2**gap * s[c] + (1 - beta2) * (g**2).mean()
                w -= rate * m / (1 - beta1**step) / (np.sqrt(s[c] / (1 - beta2**step)) + settings.epsilon)

    @staticmethod
    def _gaps(rows, step):
        last = rows.state.last_N.numpy()
        gaps = step - last[rows.rows_R]
        last[rows.rows_R] = step
        return gaps

    @staticmethod
    def _rows(rows, grad):
        """Weights, gradient and state (from its start on) of every row, as views."""
        states = [None] * len(rows.rows_R) if rows.state is None else [rows.state.values.numpy()[p:] for p in rows.state.at_R]
        places = zip(rows.at_R.tolist(), rows.count_R.tolist(), grad.at_R.tolist(), states, strict=True)
        for a, c, b, state in places:
            yield rows.weights.numpy()[a : a + c], grad.values_X.numpy()[b : b + c], state


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("rule", STATE)
def test_float32_rows(host, rule, counts):
    exact = run(Exact, rule, COUNTS[counts], np.float64)
    yardstick = run(ops, rule, COUNTS[counts], np.float32)
    found = run(cuda, rule, COUNTS[counts], np.float32)
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
    yardstick = run(ops, rule, COUNTS[counts], np.uint16)
    found = run(cuda, rule, COUNTS[counts], np.uint16)
    assert np.array_equal(found.weights, yardstick.weights)
    assert np.array_equal(found.last, yardstick.last)


@pytest.mark.parametrize("lanes", [1, 8, 32])
def test_any_tile(host, lanes):
    counts = np.arange(ROWS)
    planes, other = Planes("adam_row", counts, np.float32), Planes("adam_row", counts, np.float32)
    rows, values_X = np.arange(ROWS), torch.randn(int(counts.sum()), generator=torch.Generator().manual_seed(0))
    grad = RowGrad(Ticket(rows), values_X, torch.from_numpy(np.cumsum(counts) - counts))
    for own, share in ((planes, lanes), (other, 16)):
        cuda.adam_row(own.rows(rows), grad, 1, RATE, SETTINGS, cuda.Grid(share))
    assert planes.weights == pytest.approx(other.weights, rel=1e-6)


@pytest.mark.parametrize("rule", STATE)
def test_a_capped_grid_strides_over_all_rows(host, rule):
    free = run(cuda, rule, COUNTS["slots"], np.float32, cuda.Grid(32))
    assert max(grid for _, grid, _ in host.launches) == 3
    host.launches.clear()
    capped = run(cuda, rule, COUNTS["slots"], np.float32, cuda.Grid(32, 1))
    assert {grid for _, grid, _ in host.launches} == {1}
    assert np.array_equal(capped.weights, free.weights) and np.array_equal(capped.state, free.state)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("rule", STATE)
@pytest.mark.parametrize("kernels", [ops, cuda], ids=["ops", "cuda"])
def test_a_bad_gradient_changes_nothing(host, kernels, rule, dtype):
    planes, others = Planes(rule, COUNTS["slots"], dtype), Planes(rule, COUNTS["slots"], dtype)
    for own in (planes, others):
        own.step(kernels, 1, bad=torch.zeros(1, dtype=torch.int32) if own is planes else None)
    before = [part.copy() for part in (planes.weights, planes.state, planes.last)]
    for word in (1, -(2**31)):
        planes.step(kernels, 3, bad=torch.tensor([word], dtype=torch.int32))
    for found, expected in zip((planes.weights, planes.state, planes.last), before, strict=True):
        assert np.array_equal(found, expected)
    for own in (planes, others):
        own.step(kernels, 3)
    assert np.array_equal(planes.weights, others.weights) and not np.array_equal(planes.weights, before[0])
    assert np.array_equal(planes.state, others.state) and np.array_equal(planes.last, others.last)


class OddRows(Planes):
    """The rows of the odd nodes of `Planes`, numbered from 0: `numbers` says that row r is node 2 r + 1."""

    def __init__(self, rule, counts, numbers):
        super().__init__(rule, counts, np.uint16)
        self.numbers, self.last = numbers, self.last[1::2].copy()

    def step(self, kernels, number):
        """The gradients that the whole table's odd rows get in `Planes.step`."""
        nodes = TOUCHED[number - 1]
        odd = nodes % 2 == 1
        grad = np.random.default_rng(number).standard_normal(int(self.counts[nodes].sum())).astype(np.float32)
        starts = np.cumsum(self.counts[nodes]) - self.counts[nodes]
        own, rows = nodes[odd], nodes[odd] // 2
        state = State(*map(torch.from_numpy, (self.state, self.state_at[own], self.last))) if STATE[self.rule] else None
        places = (rows, self.weights, self.at[own], self.counts[own])
        chosen = Rows(Ticket(rows), *map(torch.from_numpy, places), state, self.numbers)
        row_grad = RowGrad(chosen.ticket, torch.from_numpy(grad), torch.from_numpy(starts[odd]))
        more = {"sgd": (), "adagrad_row": (EPSILON,)}.get(self.rule, (SETTINGS,))
        getattr(kernels, self.rule)(chosen, row_grad, number, RATE, *more)


@pytest.mark.parametrize("rule", STATE)
@pytest.mark.parametrize("kernels", [ops, cuda], ids=["ops", "cuda"])
def test_rows_of_a_worker_round_as_in_the_whole_table(host, kernels, rule):
    """Random rounding is keyed by the node, the last step by the row of the worker's own table."""
    counts = COUNTS["slots"]
    whole, own, misnamed = (
        run(kernels, rule, counts, np.uint16),
        *(OddRows(rule, counts, n) for n in (RowNumbers(2, 1), ALL_NODES)),
    )
    for number in range(1, len(TOUCHED) + 1):
        own.step(kernels, number)
        misnamed.step(kernels, number)
    found, expected, other = (
        np.concatenate([each.weights[a : a + c] for a, c in zip(each.at[1::2], counts[1::2], strict=True)])
        for each in (own, whole, misnamed)
    )
    assert np.array_equal(found, expected) and not np.array_equal(other, expected)
    assert np.array_equal(own.last, whole.last[1::2])


def draw_of(step, node, place):
    """MurmurHash3's finaliser of a value's place and the step, in whole numbers of any size."""
    word = 0xFFFFFFFF
    bits = ((node * 256 + place) * 0x9E3779B1 ^ step * 0x85EBCA77) & word
    bits = (bits ^ bits >> 16) * 0x85EBCA6B & word
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 & word
    return bits ^ bits >> 16


@pytest.mark.parametrize("numbers", [ALL_NODES, RowNumbers(8, 3), RowNumbers(64, 63)], ids=str)
@pytest.mark.parametrize("kernels", [ops, cuda], ids=["ops", "cuda"])
def test_rounding_is_keyed_by_step_node_and_place(host, kernels, numbers):
    rows_R, width, step = np.array([0, 1, 70_000, 2**31 - 1, 2**33 + 5]), 9, 12
    start = np.random.default_rng(3).integers(0x3F80, 0x4000, rows_R.size * width).astype(np.uint16)  # in 1 .. 2
    grad = np.random.default_rng(4).random(start.size, np.float32)
    moved = (start.astype(np.uint32) << 16).view(np.float32) - np.float32(RATE) * grad
    nodes = [row * numbers.stride + numbers.first for row in rows_R.tolist()]
    draws = [draw_of(step, node, place) & 0xFFFF for node in nodes for place in range(width)]
    expected = [bits + draw >> 16 for bits, draw in zip(moved.view(np.uint32).tolist(), draws, strict=True)]
    places = (rows_R, start, np.arange(len(rows_R)) * width, np.full(len(rows_R), width))
    rows = Rows(Ticket(rows_R), *map(torch.from_numpy, places), None, numbers)
    kernels.sgd(rows, RowGrad(rows.ticket, torch.from_numpy(grad), rows.at_R), step, RATE)
    assert start.tolist() == expected
