"""Pairs that see their own past: exact on the graph before each pair's time where all neighbours are drawn, right on average
where some are; no other date of a row's own item is its negative; a step trains."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from built import start_table
from past import before, sampler_of, timed_graph, times_of_nodes

from gcnrec.config import Job
from gcnrec.graph import History
from gcnrec.models import losses
from gcnrec.models.convolutions import sage_convolutions
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.models.node_encoder import IdDropout, NodeEncoder, NodeLayers
from gcnrec.models.node_inputs import NodeInputs
from gcnrec.models.objective import objective_of
from gcnrec.models.pooling import Means
from gcnrec.rows import Ticket
from gcnrec.sampling.dated_blocks import keys_of
from gcnrec.tables.dense import DenseTable, in_ram
from gcnrec.tables.features.sides import FeatureSides
from gcnrec.testing import assert_as_accurate, check_step, checkerboard, dense_hop, encoded_by, grad_tile, loss_by
from gcnrec.training.build import TrainData, build_step
from gcnrec.training.plan import plan_of

WIDTH = 6


def table_of(graph):
    return DenseTable(torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(5)), 0)


def lightgcn(graph, num_layers):
    def dense(rows_ND, hop_NN):
        layers = [rows_ND]
        for _ in range(num_layers):
            layers.append(hop_NN @ layers[-1])
        return sum(layers) / len(layers)

    return SampledLightGcn(Hop(graph), num_layers, WIDTH), dense


def graphsage(graph, num_layers):
    layers, draw = sage_convolutions(num_layers, WIDTH), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    none = FeatureSides(graph.num_users)
    inputs = NodeInputs(graph, none, WIDTH, True, 0.5)
    parts = NodeLayers(inputs, layers, torch.nn.Identity())
    encoder = NodeEncoder(parts, none, Means(graph), IdDropout(0.0, 0), in_ram)

    def dense(rows_ND, hop_NN):
        mean_NN = (hop_NN > 0).to(rows_ND.dtype)
        mean_NN = mean_NN / mean_NN.sum(1, keepdim=True).clamp_min(1)
        current = rows_ND * torch.from_numpy(inputs.known_N)[:, None]
        for number, layer in enumerate(layers):
            own, left, bias = (
                each.detach().to(rows_ND.dtype) for each in (layer.lin_r.weight, layer.lin_l.weight, layer.lin_l.bias)
            )
            current = current @ own.T + (mean_NN @ current) @ left.T + bias
            current = current if number == num_layers - 1 else torch.relu(current)
        return current

    return encoder, dense


def final_of(batch, graph, times, rows_ND, dense):
    """Each entry of the batch's nodes by the dense model of the graph before its time."""
    times_V = times_of_nodes(batch, graph, times)
    whole = {time: dense(rows_ND, dense_hop(before(graph, times, time)).to(rows_ND.dtype)) for time in set(times_V)}
    return torch.stack([whole[time][node] for node, time in zip(batch.nodes_V.tolist(), times_V, strict=True)])


@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize("model", [lightgcn, graphsage])
def test_equals_the_graph_before_each_pair_where_all_neighbours_are_drawn(model, num_layers):
    graph, times = timed_graph()
    encoder, dense = model(graph, num_layers)
    table, batch = table_of(graph), sampler_of(graph, times, (64,) * num_layers, model is graphsage, size=20).batch(0, 0)
    draw = torch.Generator().manual_seed(1)
    grad_VD, grad_ego_VD = (torch.randn(len(batch.nodes_V), WIDTH, generator=draw) for _ in range(2))
    finals, grads = [], []
    for dtype in (torch.float32, torch.float64):
        leaf_ND = table.columns(0, WIDTH).to(dtype).requires_grad_()
        finals.append(final_of(batch, graph, times, leaf_ND, dense))
        loss = (finals[-1] * grad_VD).sum() + (leaf_ND[torch.from_numpy(batch.nodes_V)] * grad_ego_VD).sum()
        grads.append(torch.autograd.grad(loss, leaf_ND)[0])
    encoded = encoded_by(encoder, table, batch)
    assert_as_accurate(encoded.final_VD, finals[0].detach(), finals[1].detach(), "encode")
    grad = encoded.pull(grad_VD, grad_ego_VD)
    spread_ND = torch.zeros(graph.num_nodes, WIDTH)
    spread_ND[torch.from_numpy(grad.rows_R)] = grad_tile(grad, WIDTH)
    assert_as_accurate(spread_ND, grads[0], grads[1], "pull", float(grads[1].abs().max()) * len(batch.nodes_V) ** 0.5)


def test_the_export_sees_all_edges():
    graph, times = timed_graph()
    step = step_of(job_of({"width": WIDTH}), graph, times)
    exported_NF = torch.empty(graph.num_nodes, WIDTH)
    step.encoder.export(step.table, exported_NF)
    rows_ND, hop_NN = step.table.columns(0, WIDTH).double(), dense_hop(graph)
    assert torch.allclose(exported_NF.double(), (rows_ND + hop_NN @ rows_ND + hop_NN @ hop_NN @ rows_ND) / 3, atol=1e-6)


def test_the_expectation_is_the_graph_before_each_pair():
    graph, times = timed_graph(edges=90, seed=3)
    encoder, dense = lightgcn(graph, 2)
    table, sampler = table_of(graph), sampler_of(graph, times, (3, 2), size=6)
    batch = sampler.batch(0, 0)
    keys_V = keys_of(batch.nodes_V, sampler.neighbours.graph.dates(np.array(times_of_nodes(batch, graph, times))))
    finals = []
    for step in range(600):
        sampled = sampler.neighbours.sample(keys_V, step)
        finals.append(encoded_by(encoder, table, replace(batch, ticket=Ticket(sampled.rows_R), blocks=sampled.blocks)).final_VD)
    drawn = torch.stack(finals).double()
    exact = final_of(batch, graph, times, table.columns(0, WIDTH).double(), dense)
    assert float(drawn.std(0).max()) > 0.05  # something was left out
    # At most 108 means of 600 draws, each within five standard errors but once in 1.7 million.
    assert float(((drawn.mean(0) - exact).abs() / (drawn.std(0) / 600**0.5 + 1e-6)).max()) < 5


def job_of(model, **sections):
    base = {"model": {"propagation": "sampled", "layers": 2, "start": "normal", **model}, "sampler": {"respect_time": True}}
    return Job.parse({**base, "optimizer": {"rule": "adam"}, "train": {"batch_size": 64}, **sections}, [], "test")


def step_of(job, graph, times):
    timed = replace(graph, history=History(graph.user_items, times))
    return build_step(job, plan_of(job, graph.num_nodes), TrainData(timed), start_table(job, graph))


@pytest.mark.parametrize("loss", [{"name": "softmax", "logq": 0.5}, {"name": "bsl", "positive_temperature": 0.9}])
def test_no_other_date_of_its_own_item_is_a_negative(loss):
    graph, times = timed_graph()
    job = job_of({}, loss={"temperature": 0.5, "l2": 0.0, **loss})
    batch = sampler_of(graph, times, (2,), size=40, negatives="in_batch").batch(0, 0)
    items = batch.triples.positives_B.tolist()
    assert len(set(items)) < len(set(batch.positives_B.tolist()))
    final_VD = torch.randn(len(batch.nodes_V), WIDTH, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(final_VD.double(), dim=1)
    scores = (unit[batch.users_B] @ unit[batch.positives_B].T).tolist()
    shares = graph.item_users.degrees / graph.num_edges
    terms, size = [], range(len(items))
    for b in size:
        if loss["name"] == "softmax":
            mass = [math.exp(scores[b][c] / 0.5) / shares[items[c]] ** 0.5 for c in size]
            terms.append(math.log(sum(mass[c] for c in size if items[c] != items[b]) + mass[b]) - math.log(mass[b]))
        else:
            terms.append(math.log(np.mean([math.exp(scores[b][c] / 0.5) for c in size if items[c] != items[b]])))
    if loss["name"] == "softmax":
        expected = np.mean(terms)
    else:  # Wu et al. 2024: the mean over users, each with the log of its mean positive
        users = batch.users_B.tolist()
        mine = [[b for b in size if users[b] == user] for user in sorted(set(users))]
        positive = [math.log(np.mean([math.exp(scores[b][b] / 0.9) for b in own])) for own in mine]
        expected = np.mean([np.mean([terms[b] for b in own]) - 0.9 / 0.5 * up for own, up in zip(mine, positive, strict=True)])
    objective = objective_of(job.loss, job.sampler, graph, False)
    assert float(loss_by(objective, final_VD, final_VD, batch)) == pytest.approx(expected, rel=1e-5)


def test_the_own_negative_weighs_as_other_items_do():
    """Its logit has the log of its weight and of the number of negatives, without the row's own item at other dates."""
    draw = torch.Generator().manual_seed(0)
    users, pool, own = (torch.randn(size, 4, generator=draw) for size in (3, 5, 3))
    items, target = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([1, 4, 0])
    weight = torch.tensor([0.5, 2.0, 1.0])
    found = losses.pool_softmax(
        users,
        losses.Pool(pool, torch.zeros(5), torch.zeros(3), items),
        target,
        0.5,
        None,
        torch.float32,
        losses.Own(own, weight.log()),
    )
    terms = []
    for b, goal in enumerate(target.tolist()):
        mass = (users[b].double() @ pool.double().T / 0.5).exp()
        others = mass[items != items[goal]]
        disliked = weight[b].double() * len(others) * (users[b].double() @ own[b].double() / 0.5).exp()
        terms.append(((mass[goal] + others.sum() + disliked) / mass[goal]).log())
    assert float(found) == pytest.approx(float(sum(terms) / 3), rel=1e-5)


@pytest.mark.parametrize("name", ["lightgcn", "graphsage"])
def test_training_step(name):
    graph = checkerboard().graph
    times = np.random.default_rng(0).integers(0, 50, graph.num_edges)
    check_step(lambda: step_of(job_of({"name": name, "width": 16}), graph, times), 0.02, 20, 0.95)
