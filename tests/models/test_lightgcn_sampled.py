"""Sampled LightGCN: exact where every neighbour is drawn, right on average where some are, and trainable either way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from built import step_of

from gcnrec.config import Job, Sampler
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn import LightGcn
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.ops.draws.directions import uniform, weighted
from gcnrec.ops.weighted import edge_weights
from gcnrec.rows import Ticket
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.steps.explore import mean_gradients
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import check_encoder, check_step, checkerboard, encoded_by, grad_tile, halves, worlds


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


def batch_of(graph, fanouts, size, index=0, negatives="uniform"):
    neighbours = NeighbourSampler(graph, fanouts, 0)
    return edge_sampler(Sampler(negatives=negatives), graph, None, size, 0, neighbours).batch(0, index)


@pytest.mark.parametrize("num_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
def test_equals_dense_autograd_where_all_neighbours_are_drawn(world, num_layers):
    graph = world.graph
    batch = batch_of(graph, (64,) * num_layers, 5)
    check_encoder(SampledLightGcn(Hop(graph), num_layers, 20), table_of(graph, 20), batch, graph, dense(num_layers))


def draws_of(graph, table, num_layers, neighbours, count, grad_VD):
    """Embeddings and row gradients of one batch's nodes under `count` different draws of neighbours."""
    encoder, finals, grads = SampledLightGcn(Hop(graph), num_layers, table.width), [], []
    plain = edge_sampler(Sampler(negatives="uniform"), graph, None, 6, 0).batch(0, 0)
    for step in range(1, count + 1):
        drawn = neighbours.sample(plain.nodes_V, plain.num_users, step)
        batch = type(plain)(
            step, plain.triples, plain.nodes_V, plain.num_users, plain.users_B, plain.positives_B, plain.negatives_BN,
            Ticket(drawn.rows_R), drawn.blocks,
        )  # fmt: skip
        encoded = encoded_by(encoder, table, batch)
        grad = encoded.pull(grad_VD, torch.zeros_like(grad_VD))
        spread_ND = torch.zeros(graph.num_nodes, table.width)
        spread_ND[torch.from_numpy(grad.rows_R)] = grad_tile(grad, table.width)
        finals.append(encoded.final_VD)
        grads.append(spread_ND)
    return plain, torch.stack(finals).double(), torch.stack(grads).double()


def by_weight(graph):
    """Draws by weights between 0.5 and 2."""
    return weighted(graph, edge_weights(graph, np.random.default_rng(2).uniform(0.5, 2.0, graph.num_edges).astype(np.float32)))


@pytest.mark.parametrize(("num_layers", "fanouts"), [(1, (2,)), (2, (3, 2))])
@pytest.mark.parametrize("directions", [uniform, by_weight])
def test_expectation_is_the_full_propagation(num_layers, fanouts, directions):
    graph = halves(9, 6).graph
    neighbours = NeighbourSampler(graph, fanouts, 0, directions=directions(graph))
    table, count = table_of(graph, 3), 4000
    nodes = len(edge_sampler(Sampler(negatives="uniform"), graph, None, 6, 0).batch(0, 0).nodes_V)
    grad_VD = torch.randn(nodes, 3, generator=torch.Generator().manual_seed(1))
    plain, finals, grads = draws_of(graph, table, num_layers, neighbours, count, grad_VD)
    full = encoded_by(LightGcn(Hop(graph), num_layers, 3, True), table, plain)
    grad = full.pull(grad_VD, torch.zeros_like(grad_VD))
    expected_ND = torch.zeros(graph.num_nodes, 3)
    expected_ND[torch.from_numpy(grad.rows_R)] = grad_tile(grad, 3)
    for drawn, expected in ((finals, full.final_VD), (grads, expected_ND)):
        assert float(drawn.std(0).max()) > 0.05  # something was left out
        error = (drawn.mean(0) - expected).abs() / (drawn.std(0) / count**0.5 + 1e-6)
        assert float(error.max()) < 5  # standard errors


def matrix_of(block, rows_R, degrees_N):
    """The drawn part of A between targets and sources, float64: a neighbour that is drawn again counts again."""
    scale_N = np.divide(1.0, np.sqrt(degrees_N), out=np.zeros(len(degrees_N)), where=degrees_N > 0)
    made_TS = np.zeros((len(block.targets_T), len(block.sources_S)))
    for edge, target in enumerate(block.csr.row_numbers()):
        source = block.csr.indices[edge]
        weight = 1.0 if block.weights_X is None else float(block.weights_X[edge])
        scale = np.sqrt(degrees_N[rows_R[block.targets_T[target]]]) / block.csr.degrees[target]
        made_TS[target, source] += scale * weight * scale_N[rows_R[block.sources_S[source]]]
    return made_TS


@pytest.mark.parametrize("fanouts", [(), (2,), (3, 2), (2, 1, 3)])
@pytest.mark.parametrize("directions", [uniform, by_weight])
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
def test_drawn_hops_are_the_product_of_their_matrices(world, directions, fanouts):
    graph, width = world.graph, 5
    neighbours = NeighbourSampler(graph, fanouts, 0, directions=directions(graph))
    batch = edge_sampler(Sampler(negatives="uniform"), graph, None, 6, 0, neighbours).batch(0, 0)
    table, encoder = table_of(graph, width), SampledLightGcn(Hop(graph), len(fanouts), width)
    rows_R, every_RR = batch.rows_R, np.eye(len(batch.rows_R))
    own_VR = every_RR[np.searchsorted(rows_R, batch.nodes_V)]
    inner = every_RR[batch.blocks[-1].sources_S] if batch.blocks else own_VR
    for block in reversed(batch.blocks):
        inner = every_RR[block.targets_T] + matrix_of(block, rows_R, Hop(graph).degrees_of(np.arange(graph.num_nodes))) @ inner
    final_VR = inner / (len(fanouts) + 1)
    encoded, draw = encoded_by(encoder, table, batch), torch.Generator().manual_seed(1)
    grad_VD, grad_ego_VD = (torch.randn(encoded.final_VD.shape, generator=draw) for _ in range(2))
    expected_RD = final_VR.T @ grad_VD.double().numpy() + own_VR.T @ grad_ego_VD.double().numpy()
    assert np.allclose(encoded.final_VD.numpy(), final_VR @ table.columns(0, width).double().numpy()[rows_R], rtol=0, atol=1e-5)
    pulled = encoded.pull(grad_VD, grad_ego_VD)
    assert np.array_equal(pulled.rows_R, rows_R)
    assert np.allclose(grad_tile(pulled, width).numpy(), expected_RD, rtol=0, atol=1e-5)


def test_gradients_of_all_cells_are_those_of_the_stored_ones(tmp_path):
    job = Job.model_validate(
        {
            "model": {"propagation": "sampled", "layers": 2, "width": 8, "start": "normal"},
            "sampler": {"fanouts": [2, 2]},
            "optimizer": {"rule": "sgd"},
        }
    )
    graph = checkerboard().graph
    step = step_of(job, graph)
    batch = step.sampler.batch(0, 0)
    whole = mean_gradients(step, [batch], tmp_path)
    assert np.array_equal(whole.rows_R, batch.rows_R)
    _, encoded, grad_VD, grad_ego_VD = step._backward(step.upload(step.prepare(batch)))
    assert torch.equal(whole.grad_RD, grad_tile(encoded.pull(grad_VD, grad_ego_VD), 8))


@pytest.mark.parametrize("table", [{}, {"budget": 0.5}])
def test_training_step(table):
    job = Job.model_validate(
        {
            "model": {"propagation": "sampled", "layers": 2, "width": 16, "start": "normal"},
            "table": table,
            "sparsity": {"policy": "static"} if table else {},
            "sampler": {"fanouts": [4, 3]},
            "optimizer": {"rule": "adam"},
            "train": {"batch_size": 64},
        }
    )
    graph = checkerboard().graph
    check_step(lambda: step_of(job, graph), 0.02, 60, 0.8)
