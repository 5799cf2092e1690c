"""Update kernels through their rules: five-line transcriptions in float64, torch's optimizers, worked examples.

`Adam` and `AdamRow` are lazy: `lazy_adam` transcribes the decay by the gap since a row's last update.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.rows import Ticket
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import AdagradRow, Adam, AdamDense, AdamRow, Sgd
from gcnrec.testing import assert_as_accurate

BETA1, BETA2, EPSILON, RATE = 0.9, 0.999, 1e-8, 0.01
ROWS = 9
# Which rows have a gradient at steps 1, 2, ...: gaps of one, several and many steps, and a row (8) that is never touched.
TOUCHED = [[0, 1, 2, 3], [0, 4], [1, 2, 4, 5], [0], [0, 6], [0, 1, 7], [3], [0, 3, 6]]


def sgd(w, g, state, gap, step):
    return w - RATE * g


def adagrad_row(w, g, state, gap, step):
    state["sum"] = state.get("sum", 0) + (g * g).mean()
    return w - RATE * g / (state["sum"] ** 0.5 + EPSILON)


def lazy_adam(w, g, state, gap, step):
    state["m"] = BETA1**gap * state.get("m", 0 * g) + (1 - BETA1) * g
    state["v"] = BETA2**gap * state.get("v", 0 * g) + (1 - BETA2) * g * g
    m, v = state["m"] / (1 - BETA1**step), state["v"] / (1 - BETA2**step)
    return w - RATE * m / (v**0.5 + EPSILON)


def lazy_adam_row(w, g, state, gap, step):
    state["m"] = BETA1**gap * state.get("m", 0 * g) + (1 - BETA1) * g
    state["v"] = BETA2**gap * state.get("v", 0) + (1 - BETA2) * (g * g).mean()
    m, v = state["m"] / (1 - BETA1**step), state["v"] / (1 - BETA2**step)
    return w - RATE * m / (v**0.5 + EPSILON)


RULES = {
    "sgd": (Sgd(), sgd, 0),
    "adagrad_row": (AdagradRow(EPSILON), adagrad_row, 1),
    "adam": (Adam(BETA1, BETA2, EPSILON), lazy_adam, 128),
    "adam_row": (AdamRow(BETA1, BETA2, EPSILON), lazy_adam_row, 65),
}


def gradients(width, seed=0):
    """(rows, gradient) of every step; magnitudes differ by row."""
    draw = torch.Generator().manual_seed(seed)
    for rows in TOUCHED:
        rows_R = np.array(rows)
        yield rows_R, torch.randn(len(rows), width, generator=draw) * torch.from_numpy(10.0**-rows_R).float()[:, None]


def transcribed(formula, start, dtype, width):
    """Row by row, one step after the other, in `dtype`."""
    weights = start.to(dtype).clone()
    states, last = [{} for _ in range(ROWS)], [0] * ROWS
    for step, (rows, grad) in enumerate(gradients(width), 1):
        for row, g in zip(rows, grad.to(dtype), strict=True):
            weights[row] = formula(weights[row], g, states[row], step - last[row], step)
            last[row] = step
    return weights


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("width", [1, 33, 64])
def test_rules_with_gaps_equal_their_formula(name, width):
    rule, formula, _ = RULES[name]
    start = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(5))
    table = DenseTable(start, rule.state_width(width))
    for step, (rows, grad) in enumerate(gradients(width), 1):
        table.write(rule.update(table.read(Ticket(rows), with_state=True), table.stored(Ticket(rows), grad), step, RATE))
    exact, yardstick = (transcribed(formula, start, dtype, width) for dtype in (torch.float64, torch.float32))
    result = table.columns(0, width)
    assert_as_accurate(result, yardstick, exact, name)
    assert torch.equal(result[8], start[8])  # untouched weights do not move


@pytest.mark.parametrize("name", RULES)
def test_state_width(name):
    assert RULES[name][0].state_width(64) == RULES[name][2]


def test_state_belongs_to_its_row_and_remembers_the_step():
    rule, width = Adam(BETA1, BETA2, EPSILON), 64
    table = DenseTable(torch.zeros(ROWS, width), rule.state_width(width))
    for step, (rows, grad) in enumerate(gradients(width), 1):
        rule.update(table.read(Ticket(rows), with_state=True), table.stored(Ticket(rows), grad), step, RATE)
    assert table.tensors()["last"].tolist() == [8, 6, 3, 8, 3, 3, 8, 6, 0]
    # Row 7 was touched once, at step 6: m = 0.1 g and v = 0.001 g^2. float32 holds 1 - 0.999 to 2e-5.
    grad = next(g for rows, g in gradients(width) if 7 in rows)[2]
    state = table.tensors()["state"][7]
    torch.testing.assert_close(state[:width], 0.1 * grad, rtol=1e-6, atol=0)
    torch.testing.assert_close(state[width:], 0.001 * grad * grad, rtol=2e-5, atol=0)


def dense_run(rule_steps, start, width):
    rule = AdamDense(BETA1, BETA2, EPSILON)
    table = DenseTable(start, rule.state_width(width))
    every = np.arange(ROWS)
    for step, grad in enumerate(rule_steps, 1):
        rule.update(table.read(Ticket(every), with_state=True), table.stored(Ticket(every), grad), step, RATE)
    return table.columns(0, width)


def torch_adam(rule_steps, start, dtype):
    weights = torch.nn.Parameter(start.to(dtype).clone())
    optimizer = torch.optim.Adam([weights], RATE, (BETA1, BETA2), EPSILON, foreach=False)
    for grad in rule_steps:
        weights.grad = grad.to(dtype)
        optimizer.step()
    return weights.detach()


@pytest.mark.parametrize("width", [1, 33, 64])
def test_adam_dense_is_torch_adam(width):
    draw = torch.Generator().manual_seed(width)
    start = torch.randn(ROWS, width, generator=draw)
    grads = [torch.randn(ROWS, width, generator=draw) * (torch.rand(ROWS, 1, generator=draw) > 0.5) for _ in range(30)]
    exact, yardstick = torch_adam(grads, start, torch.float64), torch_adam(grads, start, torch.float32)
    assert_as_accurate(dense_run(grads, start, width), yardstick, exact, "adam_dense")


def test_lazy_adam_touched_every_step_is_torch_adam():
    rule, draw = Adam(BETA1, BETA2, EPSILON), torch.Generator().manual_seed(2)
    start = torch.randn(ROWS, 64, generator=draw)
    grads = [torch.randn(ROWS, 64, generator=draw) for _ in range(30)]
    table, every = DenseTable(start, 128), np.arange(ROWS)
    for step, grad in enumerate(grads, 1):
        rule.update(table.read(Ticket(every), with_state=True), table.stored(Ticket(every), grad), step, RATE)
    exact, yardstick = torch_adam(grads, start, torch.float64), torch_adam(grads, start, torch.float32)
    assert_as_accurate(table.columns(0, 64), yardstick, exact, "adam")


def two_steps(rule):
    """Row 1 of three, width 2, weights (1, 1): gradient (3, 4) at step 1 and (0, 0) at step 3, rate 0.5."""
    table, rows = DenseTable(torch.ones(3, 2), rule.state_width(2)), np.array([1])
    found = []
    for step, grad in ((1, [3.0, 4.0]), (3, [0.0, 0.0])):
        rule.update(table.read(Ticket(rows), with_state=True), table.stored(Ticket(rows), torch.tensor([grad])), step, 0.5)
        found.append(table.columns(0, 2)[1].tolist())
    return found


def test_worked_examples():
    """By hand. beta1 = beta2 = 1/2: corrections at step 1 are 1/2, at step 3 7/8; the gap of two steps decays by 1/4."""
    assert two_steps(Sgd()) == [[-0.5, -1.0], [-0.5, -1.0]]
    # mean of squares 25/2; scale 0.5 / 3.5355339.
    assert two_steps(AdagradRow(0.0))[0] == pytest.approx([1 - 1.5 / 12.5**0.5, 1 - 2 / 12.5**0.5], rel=1e-6)
    # Step 1: m = g/2, v = g^2/2, so m^/sqrt(v^) = 1. Step 3: m = g/8, v = g^2/8, m^ = g/7, v^ = g^2/7: move 0.5 / sqrt(7).
    second = 0.5 - 0.5 / 7**0.5
    assert np.array(two_steps(Adam(0.5, 0.5, 0.0))) == pytest.approx(np.array([[0.5, 0.5], [second, second]]), rel=1e-6)
    # One v for the row: 12.5. Step 1 moves g / sqrt(12.5) / 2; step 3 again, over sqrt(7).
    move = np.array([1.5, 2.0]) / 12.5**0.5
    expected = np.array([1 - move, 1 - move - move / 7**0.5])
    assert np.array(two_steps(AdamRow(0.5, 0.5, 0.0))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_threads_do_not_matter(name, threads):
    rule, _, _ = RULES[name]
    rows, grad = np.arange(0, 400, 2), torch.randn(200, 64, generator=torch.Generator().manual_seed(1))
    results = []
    for count in (1, 2):
        threads(count)
        table = DenseTable(torch.ones(400, 64), rule.state_width(64))
        rule.update(table.read(Ticket(rows), with_state=True), table.stored(Ticket(rows), grad), 3, RATE)
        results.append(table.columns(0, 64))
    assert torch.equal(*results)
