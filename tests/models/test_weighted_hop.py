"""LightGCN on a graph with weights: exact and sampled propagation, the union of behaviours, whole runs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from built import step_of

from gcnrec.config import Job, Sampler
from gcnrec.errors import DataError, UsageError
from gcnrec.graph import Behaviour, BipartiteGraph, LaterRows, latest_weight, summed_logarithm, summed_weight
from gcnrec.models.lightgcn import LightGcn
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.models.weighted_hop import WeightedHop
from gcnrec.ops.draws.directions import weighted_sums
from gcnrec.ops.weighted import union_weights
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import check_encoder, checkerboard, encoded_by, write_dataset
from gcnrec.training.build import planned
from gcnrec.training.train import train

USERS, ITEMS, WIDTH = 17, 11, 20
WEIGHTED_NEIGHBOURS = {"model": {"propagation": "sampled"}, "sampler": {"neighbours": "weighted"}}


def weighted_graph():
    """A graph, its weights by edge and as a dense matrix; some nodes have no edge."""
    rng = np.random.default_rng(5)
    matrix = np.where(rng.random((USERS, ITEMS)) < 0.3, rng.integers(1, 9, (USERS, ITEMS)) / 2, 0)
    matrix[3], matrix[:, 4] = 0, 0
    users, items = (numbers.astype(np.int32) for numbers in np.nonzero(matrix))
    return BipartiteGraph.from_edges(users, items, USERS, ITEMS), matrix[users, items].astype(np.float32), matrix


def normalised(matrix):
    """D^-1/2 W D^-1/2 of both sides, float64 (N, N)."""
    whole = np.block([[np.zeros((USERS, USERS)), matrix], [matrix.T, np.zeros((ITEMS, ITEMS))]])
    scale = np.divide(1, np.sqrt(whole.sum(1)), out=np.zeros(len(whole)), where=whole.sum(1) > 0)
    return torch.from_numpy(scale[:, None] * whole * scale)


def mean_of_powers(matrix, num_layers):
    def dense(rows_ND, hop_NN):
        hop_NN = normalised(matrix).to(rows_ND.dtype)
        powers = [torch.linalg.matrix_power(hop_NN, power) @ rows_ND for power in range(num_layers + 1)]
        return sum(powers) / (num_layers + 1)

    return dense


def table_of(graph):
    return DenseTable(torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(0)), 0)


@pytest.mark.parametrize("dense_grad", [True, False])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_exact_propagation(num_layers, dense_grad):
    graph, weights_E, matrix = weighted_graph()
    batch = edge_sampler(Sampler(negatives="uniform"), graph, None, 5, 0).batch(0, 0)
    hop = WeightedHop(graph, union_weights(graph, weights_E))
    model = LightGcn(hop, num_layers, WIDTH, dense_grad)
    check_encoder(model, table_of(graph), batch, graph, mean_of_powers(matrix, num_layers))


def sampled_batch(graph, weights, fanouts, seed):
    neighbours = NeighbourSampler(graph, fanouts, seed, directions=weighted_sums(graph, weights))
    return edge_sampler(Sampler(negatives="uniform"), graph, None, 5, 0, neighbours).batch(0, 0)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_sampled_propagation_is_exact_at_full_fanout(num_layers):
    graph, weights_E, matrix = weighted_graph()
    weights = union_weights(graph, weights_E)
    batch = sampled_batch(graph, weights, (20,) * num_layers, 0)
    model = SampledLightGcn(WeightedHop(graph, weights), num_layers, WIDTH)
    check_encoder(model, table_of(graph), batch, graph, mean_of_powers(matrix, num_layers))


def test_sampled_propagation_is_exact_on_average():
    graph, weights_E, matrix = weighted_graph()
    weights, table = union_weights(graph, weights_E), table_of(graph)
    model, draws = SampledLightGcn(WeightedHop(graph, weights), 2, WIDTH), []
    for seed in range(200):
        batch = sampled_batch(graph, weights, (2, 1), seed)
        draws.append(encoded_by(model, table, batch).final_VD)
    exact_ND = mean_of_powers(matrix, 2)(table.columns(0, WIDTH).double(), None)
    exact_VD, all_SVD = exact_ND[torch.from_numpy(batch.nodes_V)], torch.stack(draws).double()
    # 5 standard errors over some 200 cells: a correct sum fails by chance once in 10,000 seeds, and the seeds are fixed.
    allowed_VD = 5 * all_SVD.std(0) / len(draws) ** 0.5 + 1e-6
    assert bool(((all_SVD.mean(0) - exact_VD).abs() <= allowed_VD).all())


def test_a_pair_of_several_behaviours_weighs_their_sum():
    users, items = np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32)
    target = BipartiteGraph.from_edges(users, items, 2, 3)
    views = BipartiteGraph.from_edges(np.array([0, 1], np.int32), np.array([1, 2], np.int32), 2, 3)
    carts = BipartiteGraph.from_edges(np.array([1], np.int32), np.array([1], np.int32), 2, 3)
    graph = replace(
        target, others=(Behaviour("view", views, weights_E=np.array([0.5, 0.25], np.float32)), Behaviour("cart", carts))
    )
    of_users_E, of_items_E = union_weights(graph, np.array([8, 4, 2], np.float32))
    assert graph.union.user_items.indices.tolist() == [0, 1, 1, 2]
    assert of_users_E.tolist() == [8, 4.5, 3, 0.25] and of_items_E.tolist() == [8, 4.5, 3, 0.25]


@pytest.mark.parametrize(("rule", "repeated"), [
    (latest_weight, 2.5), (summed_weight, 3.5), (summed_logarithm, math.log(math.exp(1) + math.exp(2.5) - 1))
])  # fmt: skip
def test_later_rows_weigh_what_ingestion_gave_them(rule, repeated):
    views = BipartiteGraph.from_edges(np.array([0, 1], np.int32), np.array([1, 2], np.int32), 2, 3)
    later = LaterRows(np.array([0, 0], np.int32), np.array([1, 0], np.int32), None, np.array([2.5, 7], np.float32), rule)
    known = Behaviour("view", views, weights_E=np.array([1, 5], np.float32), later=later).until_test
    assert known.weights_E.tolist() == pytest.approx([7, repeated, 5], rel=1e-6)  # (0, 1) is known with 1, and comes again


def test_later_rows_without_weights_weigh_what_their_behaviour_weighs_on_average():
    views = BipartiteGraph.from_edges(np.array([0, 1], np.int32), np.array([1, 2], np.int32), 2, 3)
    later = LaterRows(np.array([0, 0], np.int32), np.array([0, 1], np.int32), None)
    behaviour = Behaviour("view", views, weights_E=np.array([1, 5], np.float32), later=later)
    assert behaviour.until_test.weights_E.tolist() == [3, 3, 5]  # (0, 1) is known with 1, and comes again


@pytest.mark.parametrize("before, later", [(0.0, 0.0), (0.0, 3.0), (88.0, 1e-3), (1e-6, 2e-6), (2.0, 2.0)])
def test_logarithms_of_sums(before, later):
    exact = math.log1p(math.expm1(np.float32(before)) + math.expm1(np.float32(later)))
    found = summed_logarithm(np.array([before], np.float32), np.array([later], np.float32))
    assert found.dtype == np.float32 and found[0] == pytest.approx(exact, rel=1e-7)


def test_weights_of_zero_are_refused():
    graph, weights_E, _ = weighted_graph()
    weights_E[:2] = 0
    with pytest.raises(DataError, match=f"above 0, and 2 of {len(weights_E)} edges have others; ingest without these rows"):
        WeightedHop(graph, union_weights(graph, weights_E))


@pytest.mark.parametrize("keys", [{}, {"table": {"budget": 0.5}}, {"model": {"propagation": "sampled"}}])
def test_a_run_reads_the_weights(tmp_path, keys):
    world = checkerboard()
    weights_E = np.random.default_rng(0).integers(1, 9, world.graph.num_edges).astype(np.float32)
    dataset = write_dataset(world, tmp_path / "data", weights_E)
    found = []
    for weighs in (True, False):
        sections = {"train": {"epochs": 1, "batch_size": 64}, **keys}
        sections["model"] = {"width": 8, "weighted_graph": weighs, **keys.get("model", {})}
        job = Job.parse(sections, [], "test")
        run = train(job, dataset, tmp_path / f"run-{weighs}")
        found.append(run.embeddings(run.folder).items_IF)
    assert bool(torch.isfinite(found[0]).all()) and not torch.allclose(*found)


def test_a_step_of_a_sparse_table_equals_that_of_a_dense_one_with_its_values():
    graph, weights_E, _ = weighted_graph()
    sections = {"model": {"width": 8, "weighted_graph": True, "start": "normal"}, "optimizer": {"rule": "sgd"}}
    sections |= {"table": {"budget": 0.5}, "sparsity": {"policy": "static"}, "train": {"batch_size": 8}}
    sparse = step_of(Job.parse(sections, [], "test"), graph, weights_E)
    table = sparse.table.drained()
    before_ND, stored_ND = table.columns(0, 8).clone(), table.columns(0, 8) != 0
    dense_job = Job.parse({**sections, "table": {}, "sparsity": {}}, [], "test")
    dense = replace(step_of(dense_job, graph, weights_E), table=DenseTable(before_ND.clone(), 0))
    batch = sparse.sampler.batch(0, 0)
    assert sparse(batch, 0.1) == pytest.approx(dense(batch, 0.1), abs=1e-6)
    expected_ND = torch.where(stored_ND, dense.table.columns(0, 8), 0.0)
    assert torch.allclose(sparse.table.drained().columns(0, 8), expected_ND, atol=1e-6)


@pytest.mark.parametrize("keys", [{"model": {"weighted_graph": True}}, WEIGHTED_NEIGHBOURS])
def test_weights_by_which_nothing_can_count_are_refused_before_there_is_a_run(tmp_path, keys):
    world = checkerboard()
    weights_E = np.ones(world.graph.num_edges, np.float32)
    weights_E[:3] = 0
    dataset = write_dataset(world, tmp_path / "data", weights_E)
    with pytest.raises(DataError, match=f"above 0, and 3 of {len(weights_E)} edges of .*data have others; ingest with other"):
        train(Job.parse(keys, [], "test"), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_is_refused(tmp_path):
    dataset = write_dataset(checkerboard(), tmp_path / "data")
    with pytest.raises(UsageError, match="weighted_graph = true needs weights of interactions, and this dataset has none"):
        planned(Job.parse({"model": {"weighted_graph": True}}, [], "test"), dataset)
    for keys in ({"name": "ngcf"}, {"behaviours": "cascade"}, {"name": "gfcf"}):
        with pytest.raises(UsageError, match="weighted_graph is for model"):
            Job.parse({"model": {"weighted_graph": True, **keys}}, [], "test")
    sections = {"model": {"weighted_graph": True, "propagation": "sampled"}, "sampler": {"neighbours": "weighted"}}
    with pytest.raises(UsageError, match="draws neighbours by weight itself"):
        Job.parse(sections, [], "test")
