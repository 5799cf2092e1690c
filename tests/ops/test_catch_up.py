"""Missed steps of Adam against a loop of them: float32 bits where they are replayed, float64 where quadrature replaces them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.ops.catch_up import PRECISION, SHORT, catch_up, caught_up_columns, most_ratio, quadrature, reach
from gcnrec.rows import AdamSettings, Ticket
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.late import Past

ADAM = AdamSettings(0.9, 0.999, 1e-8)
ROWS, WIDTH, RATE = 40, 19, 1e-3


def rate(step):
    """Warm-up over the first steps, then slowly falling."""
    return RATE * min(1.0, step / 20) / (1 + step / 1000)


def naive(weights, m, v, steps, settings, dtype):
    """Steps without a gradient, in `dtype`, with the factors that the update rule has; weights take all moves at once."""
    beta1, beta2, epsilon = (np.float32(each).astype(dtype) for each in (settings.beta1, settings.beta2, settings.epsilon))
    weights, m, v = (each.astype(dtype) for each in (weights, m, v))
    moved = np.zeros_like(weights)
    for step in steps:
        scaled = np.float32(float(np.float32(rate(step))) / (1 - float(np.float32(settings.beta1)) ** step))
        root = np.float32(1 / np.sqrt(1 - float(np.float32(settings.beta2)) ** step))
        m, v = beta1 * m, beta2 * v
        moved += dtype(scaled) * m / (np.sqrt(v) * dtype(root) + epsilon)
    return weights - moved, m, v


def table_at(last, scale):
    """Rows with the moments that some gradients of `scale` left, all last updated at `last`; one row never was."""
    draw = np.random.default_rng(last)
    grads = draw.standard_normal((5, ROWS, WIDTH)) * scale
    m, v = (sum(decay**age * each for age, each in enumerate(part)) for decay, part in ((0.9, grads), (0.999, grads**2)))
    table = DenseTable(torch.from_numpy(draw.standard_normal((ROWS, WIDTH))).float(), 2 * WIDTH)
    state = np.concatenate([0.1 * m, 0.001 * v], 1).astype(np.float32)
    state[7] = 0
    lasts = torch.full((ROWS,), last, dtype=torch.int32)
    lasts[7] = 0
    table.restore({"weights": table.columns(0, WIDTH).clone(), "state": torch.from_numpy(state), "last": lasts})
    return table


def planes(table):
    found = table.tensors()
    state = found["state"].numpy()
    return found["weights"].numpy().copy(), state[:, :WIDTH].copy(), state[:, WIDTH:].copy()


def caught_up(table, step, settings):
    catch_up(table.read(Ticket(np.arange(ROWS)), with_state=True), step, Past(settings, rate).until(step), settings)
    return planes(table)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.8, 0.99), (0.5, 0.9), (0.99, 0.9999), (0.0, 0.9)])
def test_reach_is_the_least_that_drops_less_than_the_precision(beta1, beta2):
    settings = AdamSettings(beta1, beta2, 1e-8)
    steps, rho = reach(settings), beta1 / beta2**0.5
    dropped = [most_ratio(settings) * rho**after / (1 - rho) for after in (steps, steps - 1)]
    assert dropped[0] <= 1.01 * PRECISION and (dropped[1] > 0.99 * PRECISION or steps == 1)


def test_reach_of_the_default_decays_and_of_decays_that_do_not_fade():
    assert reach(ADAM) == 200
    assert reach(AdamSettings(0.9, 0.81, 1e-8)) is None and reach(AdamSettings(0.9, 0.5, 1e-8)) is None
    assert reach(AdamSettings(0.9999, 0.999999, 1e-8)) is None  # too far


@pytest.mark.parametrize(
    ("settings", "last", "gap"),
    [(ADAM, 500, 1), (ADAM, 500, SHORT), (ADAM, 1, 40), (AdamSettings(0.9, 0.5, 1e-8), 30, 60)],
    ids=["one step", "short", "early", "decays that do not fade"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_replayed_steps_have_the_bits_of_a_loop(settings, last, gap, scale):
    table = table_at(last, scale)
    expected = naive(*planes(table), range(last + 1, last + gap + 1), settings, np.float32)
    for own, other in zip(caught_up(table, last + gap, settings), expected, strict=True):
        np.testing.assert_array_equal(np.delete(own, 7, 0), np.delete(other, 7, 0))
    assert table.tensors()["last"].tolist() == [last + gap] * ROWS


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-8])
@pytest.mark.parametrize(
    ("last", "gap"), [(1, 300), (100, 30), (260, 9), (300, 60), (300, 199), (300, 200), (300, 260), (900, 900)]
)
def test_long_gaps_equal_a_loop_in_float64(last, gap, scale):
    """To half the distance of float32 numbers, which the result is rounded to, and as much of the move as float32 holds.

    m and v of replayed early steps are rounded as often as there are steps.
    """
    table = table_at(last, scale)
    before = planes(table)
    weights, m, v = naive(*before, range(last + 1, last + gap + 1), ADAM, np.float64)
    own, own_m, own_v = caught_up(table, last + gap, ADAM)
    early = max(0, min(235, last + gap) - last)
    moved = np.abs(weights - before[0]).max()
    bound = 0.5 * np.spacing(np.abs(weights).astype(np.float32)) + 2e-6 * moved + RATE * PRECISION
    assert (np.abs(own - weights) <= bound).all() and moved > 10 * bound.max()
    np.testing.assert_allclose(own_v, v, rtol=2e-7 + early * 6e-8, atol=1e-38)
    np.testing.assert_allclose(own_m, m, rtol=2e-7 + early * 6e-8, atol=1e-38)


def test_a_row_without_a_gradient_stays(threads):
    table = table_at(300, 1.0)
    before = planes(table)
    after = caught_up(table, 800, ADAM)
    assert all(np.array_equal(own[7], other[7]) for own, other in zip(after, before, strict=True))
    assert not np.array_equal(after[0], before[0])


@pytest.mark.parametrize("step", [305, 420, 900])
def test_columns_are_those_of_caught_up_rows_and_change_nothing(step, threads):
    results = []
    for count in (1, 2):
        threads(count)
        table = table_at(300, 1e-3)
        before, moves = planes(table), Past(ADAM, rate).until(step)
        last_N = table.tensors()["last"].numpy()
        own = [
            caught_up_columns(*(part[:, a:b] for part in before), last_N, step, moves, ADAM) for a, b in ((0, 16), (16, WIDTH))
        ]
        assert all(np.array_equal(now, was) for now, was in zip(planes(table), before, strict=True))
        results += [np.concatenate(own, 1), caught_up(table, step, ADAM)[0]]
    assert all(np.array_equal(each, results[0]) for each in results)


def sums(step, q, epsilon):
    """F of a step at some q, term by term in float64."""
    beta1, beta2 = float(np.float32(ADAM.beta1)), float(np.float32(ADAM.beta2))
    total = np.zeros_like(q)
    for after in range(1, reach(ADAM) + 1):
        now = step + after
        a = float(np.float32(rate(now))) / (1 - beta1**now) * beta1**after
        total += a / (q * beta2 ** (after / 2) / np.sqrt(1 - beta2**now) + epsilon)
    return total


@pytest.mark.parametrize("step", [300, 777, 5000])
def test_the_error_of_smooth_steps_is_bounded_at_every_value(step):
    """The largest is at epsilon = 0, where it is the same share of 1 / q for each q. The numbers are kept in float32."""
    moves = Past(ADAM, rate).until(step)
    assert moves.smooth_T[step]
    q = np.logspace(-9, 0, 40)
    for epsilon in (0.0, 1e-8, 1e-3):
        nodes, shares = moves.nodes_T3[step].astype(float), moves.shares_T3[step].astype(float)
        own, exact = sum(shares[i] / (nodes[i] * q + epsilon) for i in range(3)), sums(step, q, epsilon)
        assert (np.abs(own - exact) <= 2e-7 * exact + PRECISION * RATE / most_ratio(ADAM) / q).all()
    assert not moves.smooth_T[1:50].any()  # bias corrections change too fast


def test_measures_of_fewer_points_than_nodes():
    """No rate at all, and a single step with one: F is 0, and a / b."""
    settings = AdamSettings(0.5, 0.9, 1e-8)
    width = reach(settings)
    scaled, root = np.zeros(width + 2, np.float32), np.ones(width + 2, np.float32)
    scaled[1] = 1.0
    nodes, shares, errors = quadrature(scaled, root, 3, settings)
    np.testing.assert_allclose((shares / nodes).sum(1), [0.25 / 0.9, 0.5 / 0.9**0.5, 0.0], rtol=1e-6)
    assert np.isfinite(nodes).all() and (errors <= 1e-12).all()
