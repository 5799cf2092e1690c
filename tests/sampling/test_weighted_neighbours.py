"""Neighbours by weight: what blocks hold, what GraphSAGE makes of them in training and export, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from built import step_of

from gcnrec.config import Job
from gcnrec.device import ops_for, uploaded
from gcnrec.errors import DataError, UsageError
from gcnrec.models.pooling import WeightedMeans, scaled_product
from gcnrec.ops.draws.directions import weighted
from gcnrec.ops.weighted import edge_weights
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.testing import check_step, checkerboard, empty_rows, grad_tile, halves

GRAPH = halves(9, 6).graph
WEIGHTS_E = np.random.default_rng(1).uniform(0.2, 3.0, GRAPH.num_edges).astype(np.float32)


def job_of(name="graphsage", **sampler):
    return Job.model_validate(
        {
            "model": {"name": name, "propagation": "sampled", "layers": 2, "width": 8, "start": "normal", "id_dropout": 0.0},
            "sampler": {"fanouts": [4, 3], "neighbours": "weighted", **sampler},
            "optimizer": {"rule": "adam"},
            "train": {"batch_size": 32},
        }
    )


def dense_weights(graph, weights_E):
    """Of all nodes: entry [n, m] is the weight of the edge between n and m."""
    whole_NN = np.zeros((graph.num_nodes, graph.num_nodes))
    whole_NN[graph.user_items.row_numbers(), graph.user_items.indices + graph.num_users] = weights_E
    return whole_NN + whole_NN.T


def drawn_blocks(count, fanout=3):
    nodes = np.arange(GRAPH.num_nodes)
    sampler = NeighbourSampler(GRAPH, (fanout,), 4, True, weighted(GRAPH, edge_weights(GRAPH, WEIGHTS_E)))
    for step in range(1, count + 1):
        sampled = sampler.sample(nodes, GRAPH.num_users, step)
        assert np.array_equal(sampled.rows_R, nodes)
        yield sampled.blocks[0]


def test_a_block_holds_what_undoes_its_draws():
    """Entry: mean weight of the target's edges over that of this one; edges are drawn as often as their weights say."""
    whole_NN = dense_weights(GRAPH, WEIGHTS_E)
    degrees_N, times_NN = (whole_NN > 0).sum(1), np.zeros_like(whole_NN)
    for block in drawn_blocks(2000):
        targets_X = block.csr.row_numbers()
        weights_X = whole_NN[targets_X, block.csr.indices]
        expected_X = whole_NN.sum(1)[targets_X] / degrees_N[targets_X] / weights_X
        assert block.weights_X.dtype == np.float32 and np.allclose(block.weights_X, expected_X, rtol=1e-5)
        np.add.at(times_NN, (targets_X, block.csr.indices), 1)
    share_NN = np.divide(whole_NN, whole_NN.sum(1, keepdims=True), where=degrees_N[:, None] > 0, out=np.zeros_like(whole_NN))
    error = np.sqrt(6000 * share_NN * (1 - share_NN)) + 1e-9
    assert np.abs((times_NN - 6000 * share_NN) / error).max() < 5  # standard errors


def test_products_of_weighted_blocks_equal_dense_ones():
    block = next(drawn_blocks(1))
    dense_TS = torch.zeros(block.csr.rows, block.csr.columns, dtype=torch.float64)
    at_X = torch.from_numpy(block.csr.row_numbers().astype(np.int64)), torch.from_numpy(block.csr.indices.astype(np.int64))
    dense_TS.index_put_(at_X, torch.from_numpy(block.weights_X).double(), accumulate=True)
    assert len(np.unique(block.csr.indices[:3])) < 3 or (dense_TS > 0).sum() < block.csr.num_edges  # something came twice
    draw, ops = torch.Generator().manual_seed(0), ops_for(torch.device("cpu"))
    rows, columns = torch.rand(block.csr.rows, generator=draw), torch.rand(block.csr.columns, generator=draw)
    product = uploaded(scaled_product(block.csr, block.weights_X, rows.numpy(), columns.numpy(), ops), ops)
    source, grad = (torch.randn(count, 5, generator=draw) for count in (block.csr.columns, block.csr.rows))
    scaled_TS = rows.double()[:, None] * dense_TS * columns.double()
    assert torch.allclose(product.times(source).double(), scaled_TS @ source.double(), atol=1e-5)
    assert torch.allclose(product.transposed_times(grad).double(), scaled_TS.T @ grad.double(), atol=1e-5)


def test_means_of_drawn_neighbours_are_weighted_ones_on_average():
    means, whole_NN = WeightedMeans(GRAPH, edge_weights(GRAPH, WEIGHTS_E)), dense_weights(GRAPH, WEIGHTS_E)
    rows_ND = torch.randn(GRAPH.num_nodes, 3, generator=torch.Generator().manual_seed(1))
    expected = whole_NN @ rows_ND.double().numpy() / whole_NN.sum(1, keepdims=True).clip(1e-9)
    ops = ops_for(torch.device("cpu"))
    pooled = [uploaded(means.prepare(block, ops), ops).pool(rows_ND) for block in drawn_blocks(3000)]
    drawn = torch.stack(pooled).double().numpy()
    assert drawn.std(0).max() > 0.1
    assert (np.abs(drawn.mean(0) - expected) / (drawn.std(0) / 3000**0.5 + 1e-6)).max() < 5  # standard errors


@pytest.mark.parametrize("graph", [GRAPH, empty_rows().graph], ids=["halves", "empty_rows"])
def test_exports_average_all_neighbours_by_weight(graph):
    weights_E = np.linspace(0.5, 2.0, graph.num_edges, dtype=np.float32)
    whole_NN = dense_weights(graph, weights_E)
    plane_ND = torch.randn(graph.num_nodes, 7, generator=torch.Generator().manual_seed(3))
    expected = whole_NN @ plane_ND.double().numpy() / whole_NN.sum(1, keepdims=True).clip(1e-9)
    means, cut = WeightedMeans(graph, edge_weights(graph, weights_E)), graph.num_users
    for first, last in ((0, 2), (2, cut), (cut, graph.num_nodes)):
        sources_SD, edges = means.every(0, first, last, plane_ND)
        assert np.allclose(edges.pool(sources_SD).numpy(), expected[first:last], atol=1e-6)


def test_equal_weights_export_as_none_do():
    job, even = job_of(), np.ones(GRAPH.num_edges, np.float32)
    exported = []
    for settings in (job, job_of(neighbours="uniform")):
        step = step_of(settings, GRAPH, even)
        out_ND = torch.empty(GRAPH.num_nodes, 8)
        step.encoder.export(step.table.drained(), out_ND)
        exported.append(out_ND)
    assert torch.allclose(*exported, atol=1e-6)


@pytest.mark.parametrize("name", ["graphsage", "lightgcn"])
def test_trains(name):
    graph, job = checkerboard().graph, job_of(name)
    weights_E = np.random.default_rng(0).uniform(0.5, 2.0, graph.num_edges).astype(np.float32)
    check_step(lambda: step_of(job, graph, weights_E), 0.02, 60, 0.9)


def test_gradients_do_not_depend_on_the_number_of_threads(threads):
    job, found = job_of("lightgcn"), []
    for count in (1, 2):
        threads(count)
        step = step_of(job, GRAPH, WEIGHTS_E)
        _, encoded, grad_VD, grad_ego_VD = step._backward(step.upload(step.prepare(step.sampler.batch(0, 0))))
        found.append(grad_tile(encoded.pull(grad_VD, grad_ego_VD), 8))
    assert torch.equal(*found)


def test_data_without_weights_is_refused():
    job = job_of()
    with pytest.raises(UsageError, match="needs weights of interactions, and this dataset has none; ingest with --weight"):
        step_of(job, GRAPH)


def test_weights_of_zero_are_refused():
    job, weights_E = job_of("lightgcn"), WEIGHTS_E.copy()
    weights_E[[3, 5]] = 0.0
    with pytest.raises(DataError, match=rf"must be above 0, and 2 of {len(weights_E)} are not"):
        step_of(job, GRAPH, weights_E)


def test_another_number_of_weights_is_refused():
    with pytest.raises(DataError, match="one for each edge"):
        edge_weights(GRAPH, WEIGHTS_E[1:])


@pytest.mark.parametrize("model", [{"name": "pinsage"}, {"name": "lightgcn"}, {"name": "lightgcn", "propagation": "none"}])
def test_models_that_draw_no_neighbours_refuse_the_setting(model):
    with pytest.raises(UsageError, match=r"sampler\.neighbours = 'weighted' draws for lightgcn or graphsage"):
        Job.parse({"model": model, "sampler": {"neighbours": "weighted"}, "optimizer": {"rule": "adam"}}, [], "job.toml")
