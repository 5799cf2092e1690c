"""GraphSAGE and PinSage against dense transcriptions and their autograd; exports; nodes that training treats as new."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from built import step_of

from gcnrec.config import Job, Sampler
from gcnrec.errors import UsageError
from gcnrec.models import node_encoder, node_inputs
from gcnrec.models.convolutions import PinSageHead, SageConvolution, pinsage_convolutions, sage_convolutions
from gcnrec.models.node_encoder import IdDropout, NodeEncoder, NodeLayers
from gcnrec.models.node_inputs import NodeInputs
from gcnrec.models.pooling import Means, Visits
from gcnrec.rows import Ticket
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.sampling.walk_blocks import WalkSampler
from gcnrec.tables.dense import DenseTable, in_ram
from gcnrec.tables.features.sides import Features, feature_tables
from gcnrec.testing import (
    assert_as_accurate,
    check_encoder,
    check_step,
    checkerboard,
    dense_hop,
    empty_rows,
    encoded_by,
    halves,
    worlds,
)

WIDTH = 6


def features_of(graph, sides=(False, True)):
    draw = np.random.default_rng(3)
    sizes = (graph.num_users, 4), (graph.num_items, 5)
    return Features(*(draw.normal(size=size).astype(np.float32) if has else None for has, size in zip(sides, sizes, strict=True)))


def tables_of(graph, features):
    return feature_tables(features, graph.num_users, in_ram, for_gpu=False)


def inputs_of(graph, features, read_rows=True):
    inputs = NodeInputs(graph, tables_of(graph, features), WIDTH, read_rows, 0.5)
    with torch.no_grad():
        for bias in inputs.biases:
            bias.copy_(torch.linspace(-0.5, 0.7, WIDTH))  # zero at the start, which would hide it
    return inputs


def shaken(layers):
    """Away from the identities and zeros that layers start with."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return layers


def sage(graph, num_layers, features, dropout=0.0, read_rows=True):
    layers = shaken(sage_convolutions(num_layers, WIDTH))
    layers = NodeLayers(inputs_of(graph, features, read_rows), layers, torch.nn.Identity())
    return NodeEncoder(layers, tables_of(graph, features), Means(graph), IdDropout(dropout, 0), in_ram)


def walker(graph, num_layers):
    return WalkSampler(graph, (3,) * num_layers, 20, 2, 0.3, 0)


def pinsage(graph, num_layers, features):
    layers, head = pinsage_convolutions(num_layers, WIDTH, 1), PinSageHead(WIDTH, 1)
    layers = NodeLayers(inputs_of(graph, features), shaken(layers), shaken(head))
    return NodeEncoder(layers, tables_of(graph, features), Visits(walker(graph, num_layers)), IdDropout(0.0, 0), in_ram)


def table_of(graph):
    return DenseTable(torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(5)), 0)


def batch_of(graph, neighbours, step=0):
    batch = edge_sampler(Sampler(negatives="uniform"), graph, None, 5, 0).batch(0, 0)
    drawn = neighbours.sample(batch.nodes_V, batch.num_users, step)
    return replace(batch, step=step, ticket=Ticket(drawn.rows_R), blocks=drawn.blocks)


def dense_inputs(encoder, graph, features, rows_ND, leaves):
    """h_0 of all nodes; `leaves` are the encoder's parameters by name, in the precision of `rows_ND`."""
    known_N = torch.from_numpy(np.concatenate([graph.user_items.degrees, graph.item_users.degrees]) > 0)
    parts = []
    for side, (size, rows) in enumerate(zip((graph.num_users, graph.num_items), features.sides, strict=True)):
        part = leaves[f"inputs.biases.{side}"].expand(size, -1)
        if rows is not None:
            part = part + torch.from_numpy(rows).to(rows_ND.dtype) @ leaves[f"inputs.projections.{side}.weight"].T
        parts.append(part)
    return torch.cat(parts) + rows_ND * known_N[:, None]


def leaves_of(encoder, dtype):
    return {name: value.detach().to(dtype).requires_grad_() for name, value in encoder.layers.named_parameters()}


def dense_sage(encoder, graph, features, leaves, num_layers):
    def final(rows_ND, hop_NN):
        mean_NN = (hop_NN > 0).to(rows_ND.dtype)
        mean_NN = mean_NN / mean_NN.sum(1, keepdim=True).clamp_min(1)
        current = dense_inputs(encoder, graph, features, rows_ND, leaves)
        for layer in range(num_layers):
            own, left, bias = (leaves[f"convolutions.{layer}.{name}"] for name in ("lin_r.weight", "lin_l.weight", "lin_l.bias"))
            current = current @ own.T + (mean_NN @ current) @ left.T + bias
            current = current if layer == num_layers - 1 else torch.relu(current)
        return current

    return final


def dense_pinsage(encoder, graph, features, leaves, num_layers):
    """Ying et al. 2018, algorithms 1 and 2, over the neighbours that the walks of step 0 find."""
    sources_S, block = walker(graph, num_layers).hop(np.arange(graph.num_nodes), 0, 0)
    assert np.array_equal(sources_S, np.arange(graph.num_nodes))
    weights_NN = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    weights_NN[block.csr.row_numbers(), block.csr.indices] = torch.from_numpy(block.weights_X).double()
    weights_NN /= weights_NN.sum(1, keepdim=True).clamp_min(1)

    def final(rows_ND, hop_NN):
        def linear(name, rows):
            return rows @ leaves[f"{name}.weight"].T + (leaves.get(f"{name}.bias", 0.0))

        current = dense_inputs(encoder, graph, features, rows_ND, leaves)
        for layer in range(num_layers):
            pooled = weights_NN.to(rows_ND.dtype) @ torch.relu(linear(f"convolutions.{layer}.neighbour", current))
            current = F.normalize(torch.relu(linear(f"convolutions.{layer}.joined", torch.cat([current, pooled], 1))), dim=1)
        return linear("head.outer", torch.relu(linear("head.inner", current)))

    return final


@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
def test_graphsage_equals_dense_autograd_where_all_neighbours_are_drawn(world, num_layers):
    graph, features = world.graph, features_of(world.graph)
    encoder = sage(graph, num_layers, features)
    batch = batch_of(graph, NeighbourSampler(graph, (64,) * num_layers, 0, with_targets=True))

    def dense(rows_ND, hop_NN):
        return dense_sage(encoder, graph, features, leaves_of(encoder, rows_ND.dtype), num_layers)(rows_ND, hop_NN)

    check_encoder(encoder, table_of(graph), batch, graph, dense)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
def test_pinsage_equals_dense_autograd(world, num_layers):
    graph, features = world.graph, features_of(world.graph, (True, True))
    encoder = pinsage(graph, num_layers, features)

    def dense(rows_ND, hop_NN):
        return dense_pinsage(encoder, graph, features, leaves_of(encoder, rows_ND.dtype), num_layers)(rows_ND, hop_NN)

    # A layer ends in rows of unit length, of which the last projection may leave less.
    check_encoder(encoder, table_of(graph), batch_of(graph, walker(graph, num_layers)), graph, dense, passed=1.0)


@pytest.mark.parametrize("kind", ["graphsage", "pinsage"])
def test_gradients_of_the_layers(kind):
    graph, table = halves().graph, table_of(halves().graph)
    features = features_of(graph, (True, True))
    encoder = sage(graph, 2, features) if kind == "graphsage" else pinsage(graph, 2, features)
    sampler = NeighbourSampler(graph, (64, 64), 0, with_targets=True) if kind == "graphsage" else walker(graph, 2)
    batch = batch_of(graph, sampler)
    nodes = torch.from_numpy(batch.nodes_V)
    grad_VD = torch.randn(len(nodes), WIDTH, generator=torch.Generator().manual_seed(1))
    dense, expected = dense_sage if kind == "graphsage" else dense_pinsage, []
    for dtype in (torch.float32, torch.float64):
        leaves = leaves_of(encoder, dtype)
        final_ND = dense(encoder, graph, features, leaves, 2)(table.columns(0, WIDTH).to(dtype), dense_hop(graph).to(dtype))
        expected.append(torch.autograd.grad((final_ND[nodes] * grad_VD).sum(), list(leaves.values())))
    encoder.layers.zero_grad()
    encoded_by(encoder, table, batch).pull(grad_VD, torch.zeros_like(grad_VD))
    for (name, parameter), yardstick, exact in zip(encoder.layers.named_parameters(), *expected, strict=True):
        assert_as_accurate(parameter.grad, yardstick, exact, name)


def test_a_layer_is_that_of_torch_geometric():
    geometric = pytest.importorskip("torch_geometric.nn")
    graph, theirs = checkerboard().graph, geometric.SAGEConv((WIDTH, WIDTH), WIDTH, aggr="mean")
    ours = SageConvolution(WIDTH, torch.nn.Identity())
    ours.load_state_dict(theirs.state_dict())
    plane_ND = torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(0))
    sources_SD, edges = Means(graph).every(0, 0, graph.num_users, plane_ND)
    own_TD = plane_ND[: graph.num_users]
    csr = graph.user_items
    edge_index = torch.from_numpy(np.stack([csr.indices, csr.row_numbers()]).astype(np.int64))
    expected = theirs((plane_ND[graph.num_users :], own_TD), edge_index)
    assert torch.allclose(ours(own_TD, sources_SD, edges), expected, atol=1e-6)


def test_an_export_in_small_ranges_is_the_same(monkeypatch):
    graph = empty_rows().graph
    features, table = features_of(graph), table_of(graph)
    made = []
    for rows in (1000, 3):
        monkeypatch.setattr(node_encoder, "ROWS", rows)
        out_ND = torch.empty(graph.num_nodes, WIDTH)
        sage(graph, 2, features).export(table, out_ND)
        made.append(out_ND)
    assert torch.allclose(*made, atol=1e-6)


def test_nodes_treated_as_new_are_encoded_without_row_and_neighbours():
    """All nodes dropped: items (with features) as `cold` has them, users from their items alone; and no row of theirs learns."""
    graph, table = halves().graph, table_of(halves().graph)
    encoder = sage(graph, 1, features_of(graph), dropout=1.0 - 1e-9)
    batch = batch_of(graph, NeighbourSampler(graph, (64,), 0, with_targets=True))
    encoded = encoded_by(encoder, table, batch)
    items = Ticket(batch.nodes_V[batch.num_users :])
    cold = encoder.layers.cold((0, len(items.rows_R)), encoder.features.read(items))
    assert torch.equal(encoded.final_VD[batch.num_users :], cold.detach())
    blank = table.columns(0, WIDTH).clone()
    blank[torch.from_numpy(batch.nodes_V)] = 0.0
    whole_ND = torch.empty(graph.num_nodes, WIDTH)
    sage(graph, 1, features_of(graph)).export(DenseTable(blank, 0), whole_ND)
    users = torch.from_numpy(batch.nodes_V[: batch.num_users])
    assert torch.allclose(encoded.final_VD[: batch.num_users], whole_ND[users], atol=1e-6)
    grad_VD = torch.ones(len(batch.nodes_V), WIDTH)
    grad = encoded.pull(grad_VD, torch.zeros_like(grad_VD))
    own_V = np.searchsorted(grad.rows_R, batch.nodes_V)
    assert not grad.values_X.view(-1, WIDTH)[torch.from_numpy(own_V)].any()


def test_the_share_treated_as_new_changes_with_the_step_and_the_seed():
    graph = checkerboard().graph
    batch = edge_sampler(Sampler(negatives="uniform"), graph, None, 200, 0).batch(0, 0)
    encoder = sage(graph, 1, features_of(graph), dropout=0.3)
    drawn = [encoder._treated_as_new(replace(batch, step=step)) for step in range(300)]
    share = float(np.stack(drawn).mean())
    # 300 x 48 draws: three standard errors are 0.011.
    assert abs(share - 0.3) < 0.012 and not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[5], encoder._treated_as_new(replace(batch, step=5)))


def test_features_alone():
    """model.inputs = "features": rows play no part."""
    graph = checkerboard().graph
    encoder = sage(graph, 1, features_of(graph), read_rows=False)
    made = []
    for seed in (0, 1):
        out_ND = torch.empty(graph.num_nodes, WIDTH)
        rows_ND = torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(seed))
        encoder.export(DenseTable(rows_ND, 0), out_ND)
        made.append(out_ND)
    assert torch.equal(*made)


@pytest.mark.parametrize("table", [{}, {"budget": 0.5}])
@pytest.mark.parametrize("name", ["graphsage", "pinsage"])
def test_step(name, table):
    sections = {
        "model": {"name": name, "layers": 1, "width": 16, "start": "normal", "id_dropout": 0.1},
        "table": table,
        "sparsity": {"policy": "static"} if table else {},
        "sampler": {"fanouts": [4]},
        "optimizer": {"rule": "adam"},
        "train": {"batch_size": 64},
    }
    job, graph = Job.parse(sections, [], "test"), checkerboard().graph
    assert job.model.propagation == "sampled"
    check_step(lambda: step_of(job, graph, features=features_of(graph)), 0.02, 60, 0.85)


def test_refusals():
    graph = checkerboard().graph
    sections = {"model": {"name": "graphsage", "inputs": "features"}, "optimizer": {"rule": "adam"}}
    job = Job.parse(sections, [], "test")
    with pytest.raises(UsageError, match=r"needs features; ingest with --item-features"):
        step_of(job, graph)
    with pytest.raises(UsageError, match=r"sampled neighbourhoods; set model\.propagation = 'sampled', got 'full'"):
        Job.parse({"model": {"name": "pinsage", "propagation": "full"}}, [], "test")


def test_projections_keep_angles_at_the_start():
    """Features of length 1 come out as long as a table's rows, at the angles that they had."""
    graph = checkerboard().graph
    for rows in (np.eye(graph.num_items, 30), np.random.default_rng(0).normal(size=(graph.num_items, 300))):
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        assert graph.num_items <= 64
        assert np.abs(cosines_at_the_start(graph, rows, 64) - rows @ rows.T).max() < 1e-5


@pytest.mark.parametrize("most_rows", [10**6, 20])
def test_projections_of_wider_features_keep_what_the_width_holds(monkeypatch, most_rows):
    """The best inner products of rank 5, those of the leading singular vectors; of half the rows nearly so."""
    monkeypatch.setattr(node_inputs, "_AXES_ROWS", most_rows)
    monkeypatch.setattr(node_inputs, "_AXES_BLOCK", 7)
    graph, rng = checkerboard().graph, np.random.default_rng(0)
    rows = rng.normal(size=(graph.num_items, 5)) @ rng.normal(size=(5, 30)) + 0.01 * rng.normal(size=(graph.num_items, 30))
    rows = rows.astype(np.float32)
    left, singular, _ = np.linalg.svd(rows)
    best = (left[:, :5] * singular[:5] ** 2) @ left[:, :5].T
    assert graph.num_items > 20
    assert np.allclose(cosines_at_the_start(graph, rows, 5), best, atol=1e-3 if most_rows > 20 else 0.3)


def cosines_at_the_start(graph, rows, width):
    """Inner products of projected item features, of the scale of those of the features."""
    features = tables_of(graph, Features(None, rows))
    inputs = NodeInputs(graph, features, width, True, 0.1)
    made = inputs((0, graph.num_items), features.read(Ticket(np.arange(graph.num_users, graph.num_nodes)))).detach().numpy()
    return made @ made.T / (0.01 * width)


def test_layers_learn_at_their_own_rate():
    graph, moved = checkerboard().graph, []
    for layer_rate in (1.0, 0.25):
        sections = {
            "model": {"name": "graphsage", "width": 8, "start": "normal"},
            "optimizer": {"rule": "adam", "layer_rate": layer_rate},
        }
        job = Job.parse(sections, [], "test")
        step = step_of(job, graph)
        weight = step.encoder.layers.convolutions[0].lin_l.weight
        before = weight.detach().clone()
        step(step.sampler.batch(0, 0), 0.01)
        moved.append((weight.detach() - before).abs().max())
    # Adam's first step is as long as the rate.
    assert moved == [pytest.approx(0.01, rel=1e-3), pytest.approx(0.0025, rel=1e-3)]
