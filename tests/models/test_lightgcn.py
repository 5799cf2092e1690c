"""LightGCN against dense matrices and their autograd, for 0 to 3 layers and for rules that move every row or only some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from built import step_of

from gcnrec.config import Job, Sampler
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn import LightGcn
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import check_encoder, check_step, checkerboard, dense_hop, encoded_by, grad_tile, star, worlds


def dense(num_layers):
    """He et al. 2020, eqs. 3, 4 and 8: the mean of E, AE, A(AE), ..."""

    def final(rows_ND, hop_NN):
        layers = [rows_ND]
        for _ in range(num_layers):
            layers.append(hop_NN @ layers[-1])
        return sum(layers) / len(layers)

    return final


def table_of(graph, width):
    return DenseTable(torch.randn(graph.num_nodes, width, generator=torch.Generator().manual_seed(width)), 0)


@pytest.mark.parametrize("dense_grad", [False, True])
@pytest.mark.parametrize("num_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
def test_equals_dense_autograd(world, num_layers, dense_grad):
    graph = world.graph
    batch = edge_sampler(Sampler(negatives="uniform"), graph, None, 5, 0).batch(0, 0)
    # 20 columns: narrower than a block of columns.
    check_encoder(LightGcn(Hop(graph), num_layers, 20, dense_grad), table_of(graph, 20), batch, graph, dense(num_layers))


@pytest.mark.parametrize("width", [1, 16, 64])
def test_other_widths(width):
    graph = checkerboard().graph
    batch = edge_sampler(Sampler(), graph, None, 40, 0).batch(0, 1)
    check_encoder(LightGcn(Hop(graph), 2, width, False), table_of(graph, width), batch, graph, dense(2))


def test_star_by_hand():
    """40 leaves with row 2 and a centre with row 3: a leaf gets (2 + 3/sqrt(40)) / 2, the centre (3 + 40 * 2/sqrt(40)) / 2."""
    graph = star(40).graph
    rows = torch.full((41, 1), 2.0)
    rows[40] = 3.0
    out = torch.empty(41, 1)
    LightGcn(Hop(graph), 1, 1, False).export(DenseTable(rows, 0), out)
    assert out[:40, 0].numpy() == pytest.approx(np.full(40, 1 + 1.5 / 40**0.5), rel=1e-6)
    assert float(out[40]) == pytest.approx(1.5 + 40**0.5, rel=1e-6)


def rows_with_gradient(num_layers, dense_grad):
    graph = checkerboard().graph
    batch = edge_sampler(Sampler(), graph, None, 2, 0).batch(0, 0)
    encoded = encoded_by(LightGcn(Hop(graph), num_layers, 4, dense_grad), table_of(graph, 4), batch)
    ones = torch.ones(len(batch.nodes_V), 4)
    return graph, batch, encoded.pull(ones, ones).rows_R


def test_one_layer_hands_out_the_batch_and_its_neighbours():
    graph, batch, rows = rows_with_gradient(1, dense_grad=False)
    reached = dense_hop(graph)[torch.from_numpy(batch.nodes_V)].any(0).numpy()
    reached[batch.nodes_V] = True
    assert np.array_equal(rows, np.flatnonzero(reached)) and len(rows) < graph.num_nodes
    assert np.array_equal(rows_with_gradient(0, dense_grad=False)[2], batch.nodes_V)


def test_rules_that_move_every_row_get_every_row():
    graph, _, rows = rows_with_gradient(1, dense_grad=True)
    assert np.array_equal(rows, np.arange(graph.num_nodes))


def test_gradient_by_finite_differences():
    """d <g, final(E)> / dE through the kernels themselves. The model is linear: a step of one is exact but for rounding."""
    graph = checkerboard(8).graph
    batch = edge_sampler(Sampler(), graph, None, 6, 0).batch(0, 0)
    model, weights = LightGcn(Hop(graph), 3, 2, False), table_of(graph, 2).columns(0, 2)
    grad_VD = torch.randn(len(batch.nodes_V), 2, generator=torch.Generator().manual_seed(0))
    grad = encoded_by(model, DenseTable(weights, 0), batch).pull(grad_VD, torch.zeros_like(grad_VD))
    found = torch.zeros_like(weights)
    found[torch.from_numpy(grad.rows_R)] = grad_tile(grad, 2)

    def value(moved):
        return float((encoded_by(model, DenseTable(moved, 0), batch).final_VD.double() * grad_VD).sum())

    for place in np.ndindex(*weights.shape):
        step = torch.zeros_like(weights)
        step[place] = 1.0
        assert float(found[place]) == pytest.approx((value(weights + step) - value(weights - step)) / 2, abs=2e-6)


@pytest.mark.parametrize("rule", ["adam", "adam_row", "adam_dense"])
@pytest.mark.parametrize("layers", [1, 2])
def test_step(layers, rule):
    sections = {"model": {"layers": layers, "width": 16}, "optimizer": {"rule": rule}, "train": {"batch_size": 12}}
    job, graph = Job.parse(sections, [], "test"), checkerboard().graph
    check_step(lambda: step_of(job, graph), rate=0.02, steps=60, share=0.3)
