"""What the GPU's side adds to its kernels: how many threads share a row of an update, and whether a matrix has long rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import module, update
from gcnrec.cuda.ops import CudaOps
from gcnrec.cuda.update import lanes_of
from gcnrec.device import arrays_of, with_tensors
from gcnrec.graph import Csr
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


@pytest.mark.parametrize("hub", ["rows", "columns"])
def test_a_long_row_or_column_of_a_block_is_summed_by_a_block_of_threads(hub, monkeypatch):
    """A hub of 1,100 edges among nodes of one edge each, and where it is found."""
    hubs, others = np.zeros(1100, np.int64), np.arange(1100)
    rows, columns = (hubs, others) if hub == "rows" else (others, hubs)
    csr = Csr(np.searchsorted(rows, np.arange(rows.max() + 2)), columns.astype(np.int32), int(columns.max()) + 1)
    ops, launched = CudaOps(torch.device("cpu")), []
    edges = ops.edges(csr)
    assert (edges.longest_row, edges.longest_column) == ((1100, 1) if hub == "rows" else (1, 1100))
    monkeypatch.setattr(module, "launch", lambda file, kernel, *arguments: launched.append("long" in kernel))
    product = ops.product(with_tensors(edges, map(torch.from_numpy, arrays_of(edges))))
    scales, rows_RD, rows_CD = (
        (torch.ones(csr.rows), torch.ones(csr.columns)),
        torch.ones(csr.rows, 4),
        torch.ones(csr.columns, 4),
    )
    product.times(rows_CD, *scales)
    product.transposed_times(rows_RD, *scales)
    assert launched == ([False, True, False] if hub == "rows" else [False, False, True])


def test_a_block_without_edges_has_no_long_rows():
    edges = CudaOps(torch.device("cpu")).edges(Csr(np.zeros(1, np.int64), np.empty(0, np.int32), 0))
    assert (edges.longest_row, edges.longest_column) == (0, 0)
