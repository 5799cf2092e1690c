"""What the GPU's side adds to its kernels: how many threads share a row of an update."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import module, update
from gcnrec.cuda.ops import CudaOps, Edges
from gcnrec.cuda.update import lanes_of
from gcnrec.graph import csr_from_edges
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


@pytest.mark.parametrize(("columns", "launches"), [(5, ["", ""]), (1025, ["", "long_", ""])])
def test_a_product_knows_its_longest_row_and_column(host, columns, launches):
    """Row 0 has every column, so no column has more than two edges."""
    csr = csr_from_edges(np.array([0] * columns + [1], np.int32), np.array([*range(columns), 0], np.int32), 2, columns)
    ops = CudaOps(torch.device("cpu"))
    parts = [torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in ops.edges(csr)]
    product, scales = ops.product(Edges(*parts)), (torch.ones(2), torch.ones(columns))
    assert product.times(torch.ones(columns, 3), *scales).tolist() == [[columns] * 3, [1.0] * 3]
    assert product.transposed_times(torch.ones(2, 3), *scales)[:2].tolist() == [[2.0] * 3, [1.0] * 3]
    assert [kernel for kernel, _, _ in host.launches] == [f"gcnrec_propagate_{kind}4" for kind in launches]
