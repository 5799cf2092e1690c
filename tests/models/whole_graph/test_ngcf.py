"""NGCF against a dense transcription and its autograd, table rows and layers alike."""

from __future__ import annotations

import pytest
import torch
from built import step_of

from gcnrec.config import Job, Sampler
from gcnrec.models.whole_graph.ngcf import Ngcf
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import assert_as_accurate, check_encoder, check_step, checkerboard, dense_hop, encoded_by, worlds


def layers_of(model, dtype):
    """[(W1, b1, W2, b2)] as leaves."""
    flat = [leaf.detach().to(dtype).clone().requires_grad_() for leaf in model.layers.parameters()]
    return [flat[first : first + 4] for first in range(0, len(flat), 4)]


def transcription(layers, rows_ND, hop_NN):
    """Wang et al. 2019, eqs. 7 and 9."""
    current, parts = rows_ND, [rows_ND]
    for w1, b1, w2, b2 in layers:
        side = hop_NN @ current
        total = (current + side) @ w1.T + b1 + (side * current) @ w2.T + b2
        current = torch.where(total > 0, total, 0.2 * total)
        parts.append(current / current.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return torch.cat(parts, 1)


def made(world, num_layers, width=12):
    graph = world.graph
    model = Ngcf(graph, num_layers, width, seed=4)
    with torch.no_grad():
        for number, layer in enumerate(model.layers):
            layer.bias.fill_(0.1 * (number + 1))  # zero at the start, which would hide it
    table = DenseTable(torch.randn(graph.num_nodes, width, generator=torch.Generator().manual_seed(0)), 0)
    return graph, model, table, edge_sampler(Sampler(negatives="uniform"), graph, None, 5, 0).batch(0, 0)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
def test_equals_the_transcription(world, num_layers):
    graph, model, table, batch = made(world, num_layers)
    assert model.export_width == 12 * (num_layers + 1)
    check_encoder(
        model, table, batch, graph, lambda rows_ND, hop_NN: transcription(layers_of(model, rows_ND.dtype), rows_ND, hop_NN)
    )


def test_gradients_of_the_layers():
    graph, model, table, batch = made(checkerboard(), 2)
    nodes, hop_NN = torch.from_numpy(batch.nodes_V), dense_hop(graph)
    grad_VF = torch.randn(len(nodes), model.export_width, generator=torch.Generator().manual_seed(1))
    expected = []
    for dtype in (torch.float32, torch.float64):
        layers = layers_of(model, dtype)
        final_NF = transcription(layers, table.columns(0, 12).to(dtype), hop_NN.to(dtype))
        expected.append(torch.autograd.grad((final_NF[nodes] * grad_VF).sum(), [leaf for layer in layers for leaf in layer]))
    model.layers.zero_grad()
    encoded_by(model, table, batch).pull(grad_VF, torch.zeros(len(nodes), 12))
    for parameter, yardstick, exact in zip(model.layers.parameters(), *expected, strict=True):
        assert_as_accurate(parameter.grad, yardstick, exact, "layer")


def test_layers_depend_on_the_seed_alone():
    graph = checkerboard().graph
    first, again, other = (Ngcf(graph, 2, 8, seed) for seed in (1, 1, 2))
    for left, same, right in zip(first.layers, again.layers, other.layers, strict=True):
        assert torch.equal(left.weight, same.weight) and not torch.equal(left.weight, right.weight)
        # Glorot: uniform within sqrt(3 / 8), and no two layers alike.
        assert float(left.weight.detach().abs().max()) <= (3 / 8) ** 0.5 and not left.bias.any()
    assert not torch.equal(first.layers[0].weight, first.layers[1].weight)


def test_step():
    sections = {"model": {"name": "ngcf", "layers": 2, "width": 8}, "train": {"batch_size": 12}}
    job, graph = Job.parse(sections, [], "test"), checkerboard().graph
    check_step(lambda: step_of(job, graph), rate=0.02, steps=60, share=0.3)


def test_a_step_trains_the_layers_and_keeps_no_gradient_of_the_one_before():
    sections = {"model": {"name": "ngcf", "layers": 1, "width": 8}, "train": {"batch_size": 12}}
    job, graph = Job.parse(sections, [], "test"), checkerboard().graph
    step = step_of(job, graph)
    batch, before = step.sampler.batch(0, 0), step.encoder.layers[0].weight.detach().clone()
    gradients = []
    for _ in range(2):
        step(batch, 0.0)
        gradients.append(step.encoder.layers[0].weight.grad.clone())
    # At rate 0 only Adam's moments change.
    assert torch.equal(*gradients) and torch.equal(before, step.encoder.layers[0].weight)
    step(batch, 0.01)
    assert not torch.equal(before, step.encoder.layers[0].weight)
