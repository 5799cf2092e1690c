"""Which rule a job names, and the learning rate of every step. Formulas of the rules: tests/ops/test_update.py."""

from __future__ import annotations

import math

import pytest

from gcnrec.config import Optimizer
from gcnrec.tables.rules import AdagradRow, Adam, AdamDense, AdamRow, Sgd, learning_rate, rule_of


@pytest.mark.parametrize(
    ("name", "rule", "every_row"),
    [
        ("sgd", Sgd(), False),
        ("adagrad_row", AdagradRow(1e-6), False),
        ("adam", Adam(0.8, 0.99, 1e-6), False),
        ("adam_row", AdamRow(0.8, 0.99, 1e-6), False),
        ("adam_dense", AdamDense(0.8, 0.99, 1e-6), True),
    ],
)
def test_rule_of(name, rule, every_row):
    made = rule_of(Optimizer(rule=name, beta1=0.8, beta2=0.99, epsilon=1e-6))
    assert made == rule and type(made) is type(rule) and made.every_row is every_row


def test_state_widths():
    expected = {"sgd": 0, "adagrad_row": 1, "adam": 128, "adam_row": 65, "adam_dense": 128}
    assert {name: rule_of(Optimizer(rule=name)).state_width(64) for name in expected} == expected


def rates(total=4, **settings):
    return [learning_rate(Optimizer(learning_rate=1.0, **settings), step, total) for step in range(1, total + 1)]


def test_schedules_by_hand():
    assert rates() == [1.0] * 4
    assert rates(schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates(schedule="linear", final_rate=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert rates(schedule="cosine") == pytest.approx([1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])
    assert rates(schedule="cosine", final_rate=0.5)[2] == pytest.approx(0.75)


def test_warm_up_multiplies_the_schedule():
    assert rates(warmup_steps=2) == [0.5, 1.0, 1.0, 1.0]
    assert rates(schedule="linear", warmup_steps=2) == pytest.approx([0.5, 0.75, 0.5, 0.25])
    assert rates(warmup_steps=8) == pytest.approx([0.125, 0.25, 0.375, 0.5])


def test_steps_beyond_the_plan_keep_the_final_rate():
    """A refit on train+valid may have more steps an epoch than were planned."""
    for schedule in ("linear", "cosine"):
        assert learning_rate(Optimizer(learning_rate=2.0, schedule=schedule, final_rate=0.1), 99, 4) == pytest.approx(0.2)
