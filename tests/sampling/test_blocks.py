"""Blocks against a naive construction with sets and dictionaries, and what sampled propagation is on average."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.ops.draws.neighbours import sample_neighbours
from gcnrec.random import DrawKey
from gcnrec.sampling.blocks import NeighbourSampler, without
from gcnrec.testing import checkerboard


def random_graph(users, items, edges, seed=0):
    rng = np.random.default_rng(seed)
    rows, columns = users * rng.random(edges) ** 1.5, items * rng.random(edges) ** 1.5
    return BipartiteGraph.from_edges(rows.astype(np.int32), columns.astype(np.int32), users, items)


def draw(graph, node, fanout, seed, step, hop):
    """The neighbours of one node, drawn alone, as node numbers."""
    users = graph.num_users
    own, csr, first, other = (node, graph.user_items, 0, users) if node < users else (node - users, graph.item_users, users, 0)
    return (sample_neighbours(csr, np.array([own], np.int32), fanout, DrawKey(seed, step, hop, first))[1] + other).tolist()


def naive(graph, nodes, fanouts, seed, step, with_targets):
    """Hops as (targets, {target: drawn}, sources), in node numbers."""
    hops, targets = [], sorted(nodes)
    for hop, fanout in enumerate(fanouts):
        drawn = {target: draw(graph, target, fanout, seed, step, hop) for target in targets}
        sources = sorted({source for own in drawn.values() for source in own} | set(targets if with_targets else ()))
        hops.append((targets, drawn, sources))
        targets = sources
    return hops


@settings(max_examples=40)
@given(st.data(), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans())
def test_equals_the_naive_construction(data, fanouts, with_targets):
    graph = random_graph(data.draw(st.integers(1, 25)), data.draw(st.integers(1, 25)), data.draw(st.integers(0, 120)))
    chosen = data.draw(st.sets(st.integers(0, graph.num_nodes - 1), max_size=10))
    nodes = np.array(sorted(chosen), np.int64)
    sampler = NeighbourSampler(graph, tuple(fanouts), 5, with_targets)
    for step in (1, 2):  # scratch is used again
        sampled = sampler.sample(nodes, int((nodes < graph.num_users).sum()), step)
        hops = naive(graph, chosen, fanouts, 5, step, with_targets)
        assert sampled.rows_R.dtype == np.int64
        assert sampled.rows_R.tolist() == sorted(chosen.union(*(sources for _, _, sources in hops)))
        for block, (targets, drawn, sources) in zip(sampled.blocks, hops, strict=True):
            assert sampled.rows_R[block.targets_T].tolist() == targets
            assert sampled.rows_R[block.sources_S].tolist() == sources
            block.csr.check("block")
            assert (block.csr.rows, block.csr.columns) == (len(targets), len(sources))
            for t, target in enumerate(targets):
                assert [sources[position] for position in block.csr.row(t)] == drawn[target]


@settings(max_examples=40)
@given(st.data(), st.booleans())
def test_edges_that_are_left_out(data, with_targets):
    graph = random_graph(9, 8, data.draw(st.integers(0, 60)))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 7)), max_size=12))
    users, items = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    whole = NeighbourSampler(graph, (4, 3), 2, with_targets).sample(np.arange(17), 9, 1)
    fewer = without(whole, users, items, graph)
    left_out = {(user, item + 9) for user, item in pairs} | {(item + 9, user) for user, item in pairs}
    assert np.array_equal(fewer.rows_R, whole.rows_R)
    for block, before in zip(fewer.blocks, whole.blocks, strict=True):
        assert np.array_equal(block.targets_T, before.targets_T) and np.array_equal(block.sources_S, before.sources_S)
        block.csr.check("block")
        sources = whole.rows_R[block.sources_S]
        for t, target in enumerate(whole.rows_R[block.targets_T].tolist()):
            expected = [s for s in sources[before.csr.row(t)].tolist() if (target, s) not in left_out]
            assert sources[block.csr.row(t)].tolist() == expected


def test_types():
    graph = random_graph(40, 30, 300)
    sampled = NeighbourSampler(graph, (3, 3), 1).sample(np.array([0, 5, 45], np.int64), 2, 1)
    for block in sampled.blocks:
        assert (block.csr.indptr.dtype, block.csr.indices.dtype) == (np.int64, np.int32)
        assert block.targets_T.dtype == block.sources_S.dtype == np.int64


def test_the_first_fanout_is_that_of_the_given_nodes():
    graph = random_graph(60, 50, 2500)
    first, second = NeighbourSampler(graph, (2, 5), 1).sample(np.array([0, 1, 2], np.int64), 3, 1).blocks
    assert set(first.csr.degrees) == {2} and set(second.csr.degrees) == {5}


def test_a_fanout_beyond_every_degree_takes_the_whole_neighbourhood():
    graph = random_graph(30, 20, 200)
    nodes = np.arange(graph.num_nodes)
    block = NeighbourSampler(graph, (64,), 1).sample(nodes, 30, 9).blocks[0]
    assert block.csr.num_edges == 2 * graph.num_edges


def test_nothing_asked_for():
    sampled = NeighbourSampler(random_graph(5, 5, 9), (2, 2), 1).sample(np.empty(0, np.int64), 0, 1)
    assert len(sampled.rows_R) == 0 and all(block.csr.num_edges == 0 for block in sampled.blocks)


def test_threads_and_samplers_do_not_matter(threads):
    graph = random_graph(3000, 2000, 60_000)
    nodes = np.sort(np.random.default_rng(1).choice(5000, 4000, replace=False))
    results = []
    for count in (1, 2):
        threads(count)
        results.append(NeighbourSampler(graph, (20, 20), 3).sample(nodes, int((nodes < 3000).sum()), 4))
    assert np.array_equal(results[0].rows_R, results[1].rows_R)
    for one, two in zip(results[0].blocks, results[1].blocks, strict=True):
        assert np.array_equal(one.csr.indptr, two.csr.indptr) and np.array_equal(one.csr.indices, two.csr.indices)
        assert np.array_equal(one.targets_T, two.targets_T) and np.array_equal(one.sources_S, two.sources_S)


def test_sampled_propagation_is_the_full_one_on_average():
    """Two hops in Horner's form, each drawn sum scaled by degree / drawn: He et al. 2020, eq. 3 and 4, in expectation."""
    graph = random_graph(15, 12, 110, seed=3)
    count = graph.num_nodes
    dense = np.zeros((count, count))
    dense[graph.user_items.row_numbers(), graph.user_items.indices + 15] = 1
    dense += dense.T
    degrees = dense.sum(1)
    scale = 1 / np.sqrt(np.maximum(degrees, 1))
    dense *= scale[:, None] * scale
    rows_N = np.random.default_rng(0).standard_normal(count)
    exact = rows_N + dense @ (rows_N + dense @ rows_N)
    nodes = np.arange(count)
    sampler = NeighbourSampler(graph, (3, 3), 8)
    draws = np.array([horner(sampler.sample(nodes, 15, step), rows_N, degrees, scale) for step in range(4000)])
    # 27 means of 4000 draws, each within five standard errors but once in 1.7 million.
    error = draws.std(0) / np.sqrt(len(draws))
    assert draws.std(0).max() > 0.1 and np.all(np.abs(draws.mean(0) - exact) <= 5 * error + 1e-12)


def horner(sampled, rows_N, degrees, scale):
    value = rows_N[sampled.rows_R[sampled.blocks[-1].sources_S]]
    for block in reversed(sampled.blocks):
        targets, sources = sampled.rows_R[block.targets_T], sampled.rows_R[block.sources_S]
        own, value = value, rows_N[targets].copy()
        for t, target in enumerate(targets):
            row = block.csr.row(t)
            if len(row):
                value[t] += scale[target] * degrees[target] / len(row) * (scale[sources[row]] * own[row]).sum()
    return value


@pytest.mark.parametrize("fanouts", [(0,), (10, 65)])
def test_fanouts_out_of_range_are_refused(fanouts):
    with pytest.raises(UsageError, match=r"must lie in 1 \.\. 64"):
        NeighbourSampler(random_graph(5, 5, 9), fanouts, 1)


def test_steps_of_explorations_of_the_largest_graphs_are_drawn():
    """They count from 2**31 epochs on: with a million steps an epoch, beyond 2**50."""
    graph = checkerboard().graph
    nodes = np.array([0, 1, 30])
    drawn = [NeighbourSampler(graph, (2, 2), 0).sample(nodes, 2, step).rows_R.tolist() for step in (2**51 + 7, 2**51 + 8)]
    assert drawn[0] != drawn[1]
