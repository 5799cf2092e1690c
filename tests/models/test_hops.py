"""Layer-wise export in column blocks: equal to the dense product whatever the blocks."""

from __future__ import annotations

import torch

from gcnrec.models import hops
from gcnrec.models.hops import Hop, block_columns, export_mean
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import checkerboard, dense_hop


def test_equals_the_dense_mean_in_narrow_blocks(monkeypatch):
    graph = checkerboard().graph
    rows_ND = torch.randn(graph.num_nodes, 11, generator=torch.Generator().manual_seed(0))
    hop_NN, out_ND = dense_hop(graph), torch.empty(graph.num_nodes, 11)
    monkeypatch.setattr(hops, "_PLANES_BYTES", 3 * 4 * graph.num_nodes * 5)  # blocks of 5, 5 and 1 columns
    export_mean(Hop(graph), 3, DenseTable(rows_ND, 0), out_ND)
    exact, power = torch.zeros(graph.num_nodes, 11, dtype=torch.float64), rows_ND.double()
    for _ in range(4):
        exact, power = exact + power / 4, hop_NN @ power
    assert torch.allclose(out_ND.double(), exact, atol=1e-6)


def test_planes_stay_within_a_gibibyte():
    assert block_columns(70_000) == hops.WIDEST
    assert 3 * 4 * 10_000_000 * block_columns(10_000_000) <= 1 << 30
    assert block_columns(1_000_000_000) == 4  # narrower would read every edge for less than a sector
