"""DGL's own loaders and layers on a dataset folder, and how DGL is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.loaders import dgl as ours
from gcnrec.ops.draws.sample import popularity_table
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.sampler import EdgeSampler

DGL = ours.dgl
ROOT = Path(__file__).parents[2]


def random_graph(users, items, edges, seed=0):
    rng = np.random.default_rng(seed)
    return BipartiteGraph.from_edges(
        rng.integers(0, users, edges).astype(np.int32), rng.integers(0, items, edges).astype(np.int32), users, items
    )


def edge_list(graph):
    return [(user, int(item)) for user in range(graph.num_users) for item in graph.user_items.row(user)]


def test_homogeneous_holds_both_directions_the_first_in_our_order():
    graph = random_graph(7, 9, 30)
    sources, targets = ours.homogeneous(graph).edges(order="eid")
    found = list(zip(sources.tolist(), targets.tolist(), strict=True))
    count, edges = graph.num_edges, edge_list(graph)
    assert found[:count] == [(item + 7, user) for user, item in edges]
    assert found[count:] == sorted([(user, item + 7) for user, item in edges], key=lambda edge: edge[::-1])


def test_bipartite_keeps_numbers_of_each_type():
    graph = random_graph(7, 9, 30)
    made, edges = ours.bipartite(graph), edge_list(graph)
    assert (made.num_nodes("user"), made.num_nodes("item")) == (7, 9)
    users, items = made.edges(etype=ours.USER_ITEM, order="eid")
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == sorted(edges, key=lambda edge: edge[::-1])
    items, users = made.edges(etype=ours.ITEM_USER, order="eid")
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == edges


@settings(max_examples=40)
@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_blocks_hold_what_was_drawn_in_dgls_order(data, fanouts):
    graph = random_graph(data.draw(st.integers(1, 15)), data.draw(st.integers(1, 15)), data.draw(st.integers(0, 80)))
    given_V = data.draw(st.lists(st.integers(0, graph.num_nodes - 1), unique=True, min_size=1, max_size=8))
    nodes_V = np.unique(np.array(given_V))
    sampled = NeighbourSampler(graph, tuple(fanouts), 5, True).sample(nodes_V, int((nodes_V < graph.num_users).sum()), 3)
    blocks = ours.blocks_of(sampled, np.array(given_V))
    assert len(blocks) == len(fanouts)
    assert blocks[-1].dstdata[DGL.NID].tolist() == given_V
    assert sorted(blocks[0].srcdata[DGL.NID].tolist()) == sampled.rows_R.tolist()
    for far, near in pairwise(blocks):
        assert far.dstdata[DGL.NID].tolist() == near.srcdata[DGL.NID].tolist()
    for made, block in zip(blocks[::-1], sampled.blocks, strict=True):
        sources, targets = made.srcdata[DGL.NID], made.dstdata[DGL.NID]
        assert sources[: len(targets)].tolist() == targets.tolist()
        one, other = made.edges()
        found = sorted(zip(targets[other].tolist(), sources[one].tolist(), strict=True))
        of_T, of_S = sampled.rows_R[block.targets_T], sampled.rows_R[block.sources_S]
        assert found == [(of_T[t], of_S[s]) for t in range(len(of_T)) for s in block.csr.row(t)]


def two_layers():
    torch.manual_seed(1)
    from dgl.nn import SAGEConv

    return SAGEConv(4, 4, "mean"), SAGEConv(4, 4, "mean")


def test_with_full_fanouts_sageconv_gives_what_it_gives_on_the_whole_graph():
    graph = random_graph(12, 10, 60)
    one, two = two_layers()
    x_ND, whole = torch.randn(graph.num_nodes, 4), ours.homogeneous(graph)
    expected_ND = two(whole, one(whole, x_ND).relu())
    loader = DGL.dataloading.DataLoader(
        whole, torch.randperm(graph.num_nodes), ours.BlockSampler(NeighbourSampler(graph, (20, 20), 5, True)), batch_size=5
    )
    for inputs, outputs, blocks in quiet(loader):
        found_VD = two(blocks[1], one(blocks[0], x_ND[inputs]).relu())
        torch.testing.assert_close(found_VD, expected_ND[outputs])


def quiet(loader):
    """The batches of DGL's loader, which warns that no cores are reserved for it."""
    with pytest.warns(DGL.base.DGLWarning, match="affinity"):
        return list(loader)


def test_batches_place_the_triples_of_our_sampler_among_the_outputs():
    graph = random_graph(12, 10, 60)
    uniform = popularity_table(graph.item_users.degrees, 0.0)
    sampler = EdgeSampler(graph, None, 16, 3, uniform, True, 7, 1.0, NeighbourSampler(graph, (3, 2), 7, True))
    for batch, expected in zip(ours.batches(sampler, 2), sampler.epoch(2), strict=True):
        nodes_V = batch.blocks[-1].dstdata[DGL.NID]
        assert nodes_V[batch.users_B].tolist() == expected.triples.users_B.tolist()
        assert nodes_V[batch.positives_B].tolist() == (expected.triples.positives_B + 12).tolist()
        assert nodes_V[batch.negatives_BN].tolist() == (expected.triples.negatives_BN + 12).tolist()
        assert sorted(batch.input_nodes.tolist()) == expected.rows_R.tolist() and batch.step == expected.step


def test_our_draws_and_negatives_in_dgls_edge_loader():
    graph = random_graph(12, 10, 60)
    made, edges = ours.homogeneous(graph), {*edge_list(graph)}
    sampler = DGL.dataloading.as_edge_prediction_sampler(
        ours.BlockSampler(NeighbourSampler(graph, (3, 2), 7, True)), negative_sampler=ours.Negatives(graph, 2, 7)
    )
    loader = DGL.dataloading.DataLoader(made, torch.arange(graph.num_edges), sampler, batch_size=8)

    def epoch(seed):
        torch.manual_seed(seed)
        return [
            (inputs.tolist(), node_pairs(positive), node_pairs(negative)) for inputs, positive, negative, blocks in quiet(loader)
        ]

    first = epoch(1)
    assert first == epoch(1) != epoch(2)
    assert {(user, item - 12) for _, pairs, _ in first for item, user in pairs} == edges
    for _, pairs, negatives in first:
        assert [user for _, user in negatives] == [user for _, user in pairs for _ in range(2)]
        assert not {(user, item - 12) for item, user in negatives} & edges


def node_pairs(graph):
    nodes = graph.ndata[DGL.NID]
    return [(int(nodes[source]), int(nodes[target])) for source, target in zip(*graph.edges(order="eid"), strict=True)]


def test_what_cannot_be_asked_for():
    graph = random_graph(12, 10, 60)
    neighbours = NeighbourSampler(graph, (3,), 7, True)
    with pytest.raises(UsageError, match="one without them"):
        ours.BlockSampler(NeighbourSampler(graph, (3,), 7))
    with pytest.raises(UsageError, match="at least one block"):
        ours.BlockSampler(NeighbourSampler(graph, (), 7, True))
    with pytest.raises(UsageError, match="got NoneType"):
        next(ours.batches(EdgeSampler(graph, None, 4, 0, None, False, 1, 1.0), 0))
    whole, sampler = ours.homogeneous(graph), ours.BlockSampler(neighbours)
    with pytest.raises(UsageError, match="exclude"):
        sampler.sample(whole, torch.tensor([1]), exclude_eids=torch.tensor([0]))
    with pytest.raises(UsageError, match="distinct"):
        sampler.sample(whole, torch.tensor([1, 1]))
    with pytest.raises(UsageError, match="must have 22 nodes"):
        sampler.sample(DGL.graph(([0], [1])), torch.tensor([1]))


def run(program, tmp_path, **environment):
    """(stdout, stderr) of a program that runs with `tmp_path` as its home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DGL")}
    kept |= {"HOME": str(tmp_path), **environment}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=kept)
    return done.stdout.strip(), done.stderr.strip()


def test_importing_writes_nothing_and_leaves_the_environment_as_it_was(tmp_path):
    program = "import os, gcnrec.loaders.dgl as ours; print(ours.dgl.backend.backend_name, os.environ.get('DGLBACKEND'))"
    assert run(program, tmp_path) == ("pytorch None", "")
    assert not (tmp_path / ".dgl").exists()


def test_dgl_2_without_a_graphbolt_build_for_this_torch(tmp_path):
    """A package that fails as DGL 2.1 does: it imports names from graphbolt, which asks for a library that is not there."""
    package = tmp_path / "site" / "dgl"
    (package / "graphbolt").mkdir(parents=True)
    (package / "graphbolt" / "__init__.py").write_text("raise FileNotFoundError('no C++ graphbolt library')")
    (package / "__init__.py").write_text(
        "import os, types\nfrom .graphbolt import CSCSamplingGraph\nseen = os.environ['DGLBACKEND']\nNID = '_ID'\n"
        "dataloading = types.SimpleNamespace(BlockSampler=object)\n"
    )
    program = "import os, gcnrec.loaders.dgl as ours; print(ours.dgl.seen, os.environ['DGLBACKEND'])"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "DGLBACKEND": "mxnet"}
    assert run(program, tmp_path, **environment) == ("pytorch mxnet", "")


HIDDEN = """
import sys
from importlib.abc import MetaPathFinder
class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch_geometric":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Finder())
sys.modules["dgl"] = None
from gcnrec.errors import UsageError
try:
    import gcnrec.loaders.{}
except UsageError as problem:
    print(problem)
"""


@pytest.mark.parametrize("module", ["pyg", "dgl"])
def test_an_absent_package_is_one_sentence(tmp_path, module):
    out, err = run(HIDDEN.format(module), tmp_path)
    assert f"pip install '.[{module}]' in a checkout" in out and "\n" not in out and err == ""
