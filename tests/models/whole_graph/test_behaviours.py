"""Propagation over several behaviours, by cascade and by learnt weights, against dense transcriptions and their autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from built import step_of

from gcnrec.config import Job, Sampler
from gcnrec.errors import UsageError
from gcnrec.graph import Behaviour, BipartiteGraph
from gcnrec.models.whole_graph.behaviour_weights import BehaviourWeights
from gcnrec.models.whole_graph.cascade import Cascade
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import assert_as_accurate, check_encoder, check_step, checkerboard, dense_hop, encoded_by, write_dataset
from gcnrec.training.build import planned

USERS, ITEMS, WIDTH = 17, 11, 12


def drawn_graph(seed, share):
    users, items = np.nonzero(np.random.default_rng(seed).random((USERS, ITEMS)) < share)
    return BipartiteGraph.from_edges(users.astype(np.int32), items.astype(np.int32), USERS, ITEMS)


def shop():
    """Purchases, with views and fewer carts; some users and items lack some behaviours."""
    others = Behaviour("view", drawn_graph(1, 0.3)), Behaviour("cart", drawn_graph(2, 0.1))
    return replace(drawn_graph(0, 0.2), others=others)


def made(model, graph):
    table = DenseTable(torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(0)), 0)
    return model, table, edge_sampler(Sampler(negatives="uniform"), graph, None, 5, 0).batch(0, 0)


def hops_of(graph, dtype):
    """Dense matrices of views, carts and purchases."""
    return [dense_hop(each).to(dtype) for each in (*(other.graph for other in graph.others), graph)]


def cascaded(rows_ND, hops, num_layers):
    """The residual form, by powers of each matrix."""
    for hop_NN in hops:
        powers = [torch.linalg.matrix_power(hop_NN, power + 1) @ rows_ND for power in range(num_layers)]
        rows_ND = rows_ND + sum(powers) / max(num_layers, 1)
    return rows_ND


def weighted(rows_ND, hops, logits_2B, num_layers):
    """Rows of each side by their own softmax; `logits_2B` has the target first, `hops` have it last."""
    shares_2B = logits_2B.softmax(1)
    sides = torch.cat([shares_2B[0].repeat(USERS, 1), shares_2B[1].repeat(ITEMS, 1)])
    source, total = rows_ND, rows_ND
    for _ in range(num_layers):
        source = sum(sides[:, [number]] * (hop_NN @ source) for number, hop_NN in enumerate([hops[-1], *hops[:-1]]))
        total = total + source
    return total / (num_layers + 1)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_cascade_equals_the_transcription(num_layers):
    graph = shop()
    model, table, batch = made(Cascade(graph, num_layers, WIDTH), graph)
    check_encoder(
        model, table, batch, graph, lambda rows_ND, hop_NN: cascaded(rows_ND, hops_of(graph, rows_ND.dtype), num_layers)
    )


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_learnt_weights_equal_the_transcription(num_layers):
    graph = shop()
    model, table, batch = made(BehaviourWeights(graph, num_layers, WIDTH), graph)
    logits_2B = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.weights.logits_2B.copy_(logits_2B)

    def dense(rows_ND, hop_NN):
        return weighted(rows_ND, hops_of(graph, rows_ND.dtype), logits_2B.to(rows_ND.dtype), num_layers)

    check_encoder(model, table, batch, graph, dense)


def test_gradients_of_the_weights():
    graph = shop()
    model, table, batch = made(BehaviourWeights(graph, 2, WIDTH), graph)
    nodes = torch.from_numpy(batch.nodes_V)
    grad_VD = torch.randn(len(nodes), WIDTH, generator=torch.Generator().manual_seed(1))
    expected = []
    for dtype in (torch.float32, torch.float64):
        leaf_2B = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
        final_ND = weighted(table.columns(0, WIDTH).to(dtype), hops_of(graph, dtype), leaf_2B, 2)
        expected.append(torch.autograd.grad((final_ND[nodes] * grad_VD).sum(), leaf_2B)[0])
    encoded_by(model, table, batch).pull(grad_VD, torch.zeros(len(nodes), WIDTH))
    assert_as_accurate(model.weights.logits_2B.grad, *expected, "logits")


@pytest.mark.parametrize("behaviours", ["weighted", "cascade"])
def test_step(behaviours):
    sections = {"model": {"behaviours": behaviours, "width": 8}, "train": {"batch_size": 12}}
    job, graph = Job.parse(sections, [], "test"), shop()
    check_step(lambda: step_of(job, graph), rate=0.02, steps=60, share=0.3)


def test_weights_leave_a_behaviour_that_says_nothing():
    """Views are drawn without a reason, and carts are the purchases themselves: users' weights move from views to carts."""
    graph = checkerboard().graph
    noise = np.random.default_rng(0).random((graph.num_users, graph.num_items)) < 0.5
    users, items = (numbers.astype(np.int32) for numbers in np.nonzero(noise))
    views = BipartiteGraph.from_edges(users, items, graph.num_users, graph.num_items)
    graph = replace(graph, others=(Behaviour("view", views), Behaviour("cart", replace(graph))))
    sections = {"model": {"behaviours": "weighted", "width": 8, "start": "normal"}, "train": {"batch_size": 32}}
    step = step_of(Job.parse(sections, [], "test"), graph)
    for epoch in range(10):
        for batch in step.sampler.epoch(epoch):
            step(batch, 0.02)
    purchases, views_share, carts = step.encoder.weights.logits_2B.detach().softmax(1).T
    assert (views_share < carts).all() and (views_share < purchases).all()


def test_one_behaviour_is_refused(tmp_path):
    dataset = write_dataset(checkerboard(), tmp_path / "data")
    job = Job.parse({"model": {"behaviours": "cascade"}}, [], "test")
    with pytest.raises(UsageError, match="needs several behaviours, and this dataset has one"):
        planned(job, dataset)


def test_no_layer_is_refused():
    with pytest.raises(UsageError, match=r"'weighted' needs hops of propagation; set model\.layers to 1 or more"):
        Job.parse({"model": {"behaviours": "weighted", "layers": 0}}, [], "test")


@pytest.mark.parametrize("model", [{"name": "ngcf"}, {"propagation": "sampled"}, {"name": "graphsage"}, {"name": "gfcf"}])
def test_other_models_are_refused(model):
    with pytest.raises(UsageError, match="is for lightgcn with model\\.propagation = 'full'"):
        Job.parse({"model": {"behaviours": "weighted", **model}}, [], "test")
