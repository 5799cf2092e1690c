"""The update bench on a small table: every variant against the rules' formulas in float64, and the rows of the bench."""

from __future__ import annotations

import json

import pytest
import torch

from gcnrec.bench import update as bench

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("quick_bench")


def test_rows(monkeypatch):
    monkeypatch.setattr(bench, "device_or_none", lambda: None)
    rows = list(bench.run(threads=1, runs=1, num_rows=300, batch=40))
    assert json.loads(json.dumps(rows)) == rows
    names = {row["bench"]: [] for row in rows}
    for row in rows:
        names[row["bench"]].append(row.get("variant"))
    whole = ["gcnrec", "gcnrec-slots", "torch-sparse-optimizer", "torch-rows", None]
    few = ["gcnrec", "torch-rows", None]
    rules = {"sgd": whole, "adagrad_row": few, "adam": whole, "adam_row": few}
    assert names == {**{f"update-{rule}": expected for rule, expected in rules.items()}, "update": [None]}
    assert rows[-1]["summary"] and rows[-1]["speedup"] is not None


def exact_weights(task, steps):
    """Duchi et al. 2011 and Kingma & Ba 2015 in float64, one scalar of second moment for a row where the rule says so."""
    weights, grad = task.weights_ND[task.rows_R].double(), task.grad_RD.double()
    square = grad.square() if task.rule == "adam" else grad.square().mean(1, keepdim=True)
    first, second = torch.zeros_like(grad), torch.zeros_like(square)
    for step in range(1, steps + 1):
        if task.rule == "sgd":
            weights -= bench.RATE * grad
        elif task.rule == "adagrad_row":
            second += square
            weights -= bench.RATE * grad / (second.sqrt() + bench.EPSILON)
        else:
            first, second = (bench.BETA1 * first + 0.1 * grad), bench.BETA2 * second + (1 - bench.BETA2) * square
            divisor = (second / (1 - bench.BETA2**step)).sqrt() + bench.EPSILON
            weights -= bench.RATE * first / (1 - bench.BETA1**step) / divisor
    return weights


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("rule", bench.MOMENTS)
def test_every_variant_follows_the_rule(rule, where):
    task = bench.task_of(rule, 100, 30)
    exact = exact_weights(task, 3)
    for variant in bench.variants(task) if where == "host" else bench.variants(task, CPU):
        contender = variant.setup()
        for _ in range(3):
            contender = variant.run(contender)
        found = contender.weights()
        stored = exact[:, :: bench.STRIDE] if variant.name == "gcnrec-slots" else exact
        assert found.shape == stored.shape, variant.name
        assert float((found - stored).abs().max()) < 1e-6, variant.name


def test_a_wrong_update_does_not_count():
    task = bench.task_of("sgd", 100, 30)
    right, wrong = bench.TorchRows(task), bench.TorchRows(task)
    right.step()
    assert bench.difference(right, wrong) > bench.TOLERANCE
