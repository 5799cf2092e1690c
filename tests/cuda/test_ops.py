"""What the GPU's side adds to its kernels: how many threads share a row of an update."""

from __future__ import annotations

import pytest
import torch

from gcnrec.cuda import module, update
from gcnrec.cuda.update import lanes_of
from gcnrec.rows import AdamSettings, RowGrad, Rows, State, Ticket

MEANS = [
    (160, 10, 16), (157, 10, 16), (200, 10, 16), (240, 10, 32), (640, 10, 32), (2560, 10, 32), (10, 10, 1), (0, 10, 1), (0, 0, 1),
    (60, 10, 8), (50, 10, 4),
]  # fmt: skip


@pytest.mark.parametrize(("values", "rows", "lanes"), MEANS)
def test_lanes_are_about_the_values_of_a_row(values, rows, lanes):
    assert lanes_of(values, rows) == lanes and type(lanes_of(values, rows)) is int


@pytest.mark.parametrize("rule", ["sgd", "adagrad_row", "adam", "adam_row", "adam_dense"])
def test_every_rule_is_launched_with_them(rule, monkeypatch):
    launched = []
    monkeypatch.setattr(
        module, "launch", lambda file, kernel, grid, block, arguments, device: launched.append((grid, arguments[-1]))
    )
    rows, width = 100, 16
    at_R = torch.arange(rows) * width
    index_R, last_N = torch.arange(rows), torch.zeros(rows, dtype=torch.int32)
    state = None if rule == "sgd" else State(torch.zeros(rows * 40), index_R * 40, last_N)
    chosen = Rows(Ticket(index_R.numpy()), index_R, torch.zeros(rows * width), at_R, torch.full((rows,), width), state)
    numbers = {"sgd": (), "adagrad_row": (1e-8,)}.get(rule, (AdamSettings(0.9, 0.999, 1e-8),))
    getattr(update, rule)(chosen, RowGrad(chosen.ticket, torch.ones(rows * width), at_R), 1, 0.1, *numbers)
    assert launched == [(7, 16)], "100 rows of 16 threads in blocks of 256"
