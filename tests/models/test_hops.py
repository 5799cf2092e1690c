"""Layer-wise export in column blocks: equal to the dense product whatever the blocks, with few planes in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.graph import BipartiteGraph
from gcnrec.models import hops
from gcnrec.models.hops import Hop, MeanExport, block_columns, column_bytes, planes_of
from gcnrec.models.weighted_hop import WeightedHop
from gcnrec.ops.weighted import union_weights
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import checkerboard, dense_hop


def in_order(hop, layers, rows_ND):
    """The mean as its formula has it: whole layers, one after the other, in float32."""
    total, source = rows_ND.clone(), rows_ND
    for _ in range(layers):
        source = hop.full(source)
        total += source
    return total / (layers + 1)


def weighted(graph):
    return WeightedHop(graph, union_weights(graph, np.linspace(0.1, 4.0, graph.num_edges, dtype=np.float32)))


@pytest.mark.parametrize("layers", range(7))
def test_equals_layers_in_their_order_to_the_bit(layers, monkeypatch):
    """By stretches of 5 rows, in blocks of 4, 4 and 3 columns; users are more than items, or fewer."""
    monkeypatch.setattr(hops, "_ROWS_AT_ONCE", 5)
    monkeypatch.setattr(hops, "block_columns", lambda *_: 4)
    for users, items in ((40, 17), (17, 40)):
        graph = drawn(users, items)
        rows_ND = torch.randn(graph.num_nodes, 11, generator=torch.Generator().manual_seed(layers))
        for hop in (Hop(graph), weighted(graph)):
            out_ND = torch.full((graph.num_nodes, 11), torch.nan)
            MeanExport(hop, layers).write_matrix(DenseTable(rows_ND, 0), out_ND)
            assert torch.equal(out_ND, in_order(hop, layers, rows_ND))


def drawn(users, items):
    """A graph of sides of different sizes, whose first user and item have no edge."""
    rng = np.random.default_rng(users)
    edges = np.unique(np.stack([rng.integers(1, users, 200), rng.integers(1, items, 200)]), axis=1).astype(np.int32)
    return BipartiteGraph.from_edges(edges[0], edges[1], users, items)


@pytest.mark.parametrize("layers", [0, 1, 3, 5])
def test_equals_the_dense_mean(layers):
    graph = checkerboard().graph
    rows_ND = torch.randn(graph.num_nodes, 11, generator=torch.Generator().manual_seed(0))
    out_ND, exact, power = torch.empty_like(rows_ND), torch.zeros_like(rows_ND, dtype=torch.float64), rows_ND.double()
    MeanExport(Hop(graph), layers).write_matrix(DenseTable(rows_ND, 0), out_ND)
    for _ in range(layers + 1):
        exact, power = exact + power / (layers + 1), dense_hop(graph) @ power
    assert torch.allclose(out_ND.double(), exact, atol=1e-6)


def test_blocks_follow_the_memory_that_is_free():
    """80 M users and 31 M items: one plane of the users and two of the items are 568 MB a column, seven gibibytes hold 13."""
    users, items = 80 * 10**6, 31 * 10**6
    column = 4 * (users + 2 * items)
    assert planes_of(3) == (1, 2) and planes_of(1) == (1, 1) and planes_of(4) == (2, 3)
    assert block_columns(column, 64 << 30) == 12 and 12 * column < 7 << 30
    assert block_columns(column, 15 << 30) == 8 and 8 * column < 5 << 30
    assert block_columns(column, 0) == 4  # narrower would read every edge for less than a sector
    assert block_columns(4 * 10**6, 0) == hops.WIDEST  # a gibibyte, whatever is free
    graph = checkerboard(24).graph
    assert column_bytes(graph, 2) == 4 * (graph.num_users + 2 * graph.num_items)
