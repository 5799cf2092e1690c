"""A table that catches up rows where they are read, against Adam on every row at every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.config import Optimizer
from gcnrec.rows import AdamSettings, Ticket
from gcnrec.tables import late
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.late import BLOCK, LateTable, Past
from gcnrec.tables.rules import AdamDense, LateAdam, learning_rate

BETAS = (0.9, 0.999, 1e-8)
ROWS, WIDTH, STEPS = 90, 8, 2000
SCALES = np.tile([1e-3, 1e-6, 1e-8], ROWS // 3)[:, None]
"""Of the gradients, by row."""
HOT = 2
"""Rows that are touched in more than a fifth of the steps."""


def gradients(steps=STEPS, seed=0):
    """Rows and their gradients, step by step: the first row in every step, the last about every 1,000th."""
    draw = np.random.default_rng(seed)
    often = 1.0 / np.arange(1, ROWS + 1) ** 1.5
    for _ in range(steps):
        rows_R = np.flatnonzero(draw.random(ROWS) < often)
        yield rows_R, (draw.standard_normal((len(rows_R), WIDTH)) * SCALES[rows_R]).astype(np.float32)


def start():
    return torch.from_numpy(np.random.default_rng(9).standard_normal((ROWS, WIDTH)).astype(np.float32)) * 0.1


def late_table(schedule):
    table = DenseTable(start(), 2 * WIDTH)
    return LateTable(table, Past(AdamSettings(*BETAS), lambda step: learning_rate(schedule, step, STEPS)))


def trained(table, rule, grads, rate, first=1):
    """Read and update, step by step, as a training step does."""
    for step, (rows_R, grad_RD) in enumerate(grads, first):
        ticket = table.prefetch(rows_R)
        table.read(ticket, with_state=False)
        rows = rule.update(table.read(ticket, with_state=True), table.stored(ticket, torch.from_numpy(grad_RD)), step, rate(step))
        table.write(rows)
    return table


def whole(grads):
    """The same gradients for every row, zero where a step has none."""
    for rows_R, grad_RD in grads:
        grad_ND = np.zeros((ROWS, WIDTH), np.float32)
        grad_ND[rows_R] = grad_RD
        yield np.arange(ROWS), grad_ND


def exact(grads, rate):
    """Adam on every row in float64, with the decays that float32 has."""
    beta1, beta2 = (float(np.float32(each)) for each in BETAS[:2])
    weights, m, v = start().double().numpy(), np.zeros((ROWS, WIDTH)), np.zeros((ROWS, WIDTH))
    for step, (_, grad_ND) in enumerate(whole(grads), 1):
        grad_ND = grad_ND.astype(float)
        m, v = beta1 * m + (1 - beta1) * grad_ND, beta2 * v + (1 - beta2) * grad_ND**2
        weights = weights - rate(step) / (1 - beta1**step) * m / (np.sqrt(v / (1 - beta2**step)) + BETAS[2])
    return weights


SCHEDULES = {"constant": {}, "warm-up": {"warmup_steps": 300}, "cosine": {"schedule": "cosine"}}


@pytest.mark.parametrize("name", SCHEDULES)
def test_late_rows_are_those_of_adam_on_every_row(name, threads):
    """All but the most popular rows are within 1e-6 of float64; no row is further from it than Adam's own float32 comes.

    A float32 row that is updated 2,000 times is rounded as often, by any rule.
    """
    threads(1)
    schedule = Optimizer(rule="adam_dense", learning_rate=1e-3, **SCHEDULES[name])

    def rate(step):
        return learning_rate(schedule, step, STEPS)

    caught = trained(late_table(schedule), LateAdam(*BETAS), gradients(), rate).columns(0, WIDTH).numpy()
    every = trained(DenseTable(start(), 2 * WIDTH), AdamDense(*BETAS), whole(gradients()), rate).columns(0, WIDTH).numpy()
    expected = exact(gradients(), rate)
    most_N1 = np.abs(expected).max(1, keepdims=True)
    own, usual = (np.abs(each - expected) / most_N1 for each in (caught, every))
    assert own[HOT:].max() <= 1e-6
    assert own.max() <= usual.max()
    np.testing.assert_array_equal(caught[0], every[0])  # read in every step: nothing is ever missed
    assert np.abs(expected - start().numpy()).max() > 0.02


def test_exports_and_checkpoints_at_any_moment_change_no_later_bit(threads):
    threads(1)
    schedule, grads = Optimizer(rule="adam_dense"), list(gradients(600))

    def rate(step):
        return learning_rate(schedule, step, STEPS)

    plain = trained(late_table(schedule), LateAdam(*BETAS), grads, rate)
    for cut in (1, 311, 599):
        first = trained(late_table(schedule), LateAdam(*BETAS), grads[:cut], rate)
        before = {name: tensor.clone() for name, tensor in first.drained().tensors().items()}
        exported = first.drained().columns(0, WIDTH)
        assert all(torch.equal(tensor, before[name]) for name, tensor in first.tensors().items())
        again = late_table(schedule)
        again.restore(before)
        assert torch.equal(again.columns(0, WIDTH), exported)
        trained(again, LateAdam(*BETAS), grads[cut:], rate, cut + 1)
        assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in plain.tensors().items())


def test_columns_that_are_asked_for_are_caught_up_and_rows_that_are_read(threads):
    threads(1)
    schedule = Optimizer(rule="adam_dense")
    table = trained(late_table(schedule), LateAdam(*BETAS), gradients(400), lambda step: learning_rate(schedule, step, STEPS))
    stored, columns = table.tensors()["weights"].clone(), table.columns(0, WIDTH)
    assert not torch.equal(columns, stored)
    ticket = Ticket(np.arange(ROWS))
    assert torch.equal(table.decode(table.read(ticket, with_state=False)), columns)
    assert torch.equal(table.tensors()["weights"], columns) and len(set(table.tensors()["last"].tolist())) == 1


def test_a_settled_table_has_no_row_that_lags(monkeypatch, threads):
    threads(1)
    monkeypatch.setattr(late, "FILLED_ROWS", 40)  # in three pieces
    schedule = Optimizer(rule="adam_dense")
    table = trained(late_table(schedule), LateAdam(*BETAS), gradients(300), lambda step: learning_rate(schedule, step, STEPS))
    columns = table.columns(0, WIDTH)
    for _ in range(2):
        table.settle()
        assert torch.equal(table.tensors()["weights"], columns) and set(table.tensors()["last"].tolist()) == {300}


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.5)])
def test_moves_do_not_depend_on_when_they_were_made(betas):
    schedule = Optimizer(learning_rate=0.1, schedule="cosine", warmup_steps=7)
    first, second = (Past(AdamSettings(*betas, 1e-8), lambda step: learning_rate(schedule, step, 300)) for _ in range(2))
    for step in range(0, 5 * BLOCK, 13):
        first.until(step)
    for own, other in zip(first.until(5 * BLOCK)[:-1], second.until(5 * BLOCK)[:-1], strict=True):
        np.testing.assert_array_equal(own[: 5 * BLOCK], other[: 5 * BLOCK])
