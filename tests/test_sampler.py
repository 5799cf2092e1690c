"""Batches: every edge once an epoch, fixed by (seed, epoch), negatives by their shares and never seen ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.config import Sampler
from gcnrec.graph import BipartiteGraph
from gcnrec.sampler import edge_sampler
from gcnrec.testing import check_sampler, checkerboard, worlds

IN_BATCH = Sampler()
KINDS = {
    "in_batch": IN_BATCH,
    "uniform": Sampler(negatives="uniform", num_negatives=3),
    "popularity": Sampler(negatives="popularity", num_negatives=2, exclude_seen=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_conformance(world, kind, batch_size):
    check_sampler(edge_sampler(KINDS[kind], world.graph, None, batch_size, seed=3))


@settings(max_examples=40)
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1), st.integers(1, 30), st.integers(0, 2**63))
def test_conformance_on_any_graph(edges, batch_size, seed):
    users, items = (np.array([edge[side] for edge in sorted(edges)], np.int32) for side in (0, 1))
    check_sampler(edge_sampler(IN_BATCH, BipartiteGraph.from_edges(users, items, 10, 7), None, batch_size, seed))


def positives(seed, epoch):
    batches = edge_sampler(IN_BATCH, checkerboard().graph, None, 32, seed).epoch(epoch)
    return [(u, i) for b in batches for u, i in zip(b.triples.users_B.tolist(), b.triples.positives_B.tolist(), strict=True)]


def test_orders_differ_by_seed_and_epoch():
    orders = [positives(0, 0), positives(1, 0), positives(0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] and orders[0] != orders[2]
    assert orders[0] == positives(0, 0)


def test_in_batch_draws_no_negatives():
    batch = edge_sampler(IN_BATCH, checkerboard().graph, None, 32, 0).batch(0, 0)
    assert batch.triples.negatives_BN.shape == (len(batch.users_B), 0)
    assert len(batch.nodes_V) == len({*batch.triples.users_B}) + len({*batch.triples.positives_B})


def test_negatives_are_in_range_and_never_seen():
    world = checkerboard()
    sampler = edge_sampler(Sampler(negatives="uniform", num_negatives=5, exclude_seen=True), world.graph, None, 64, 0)
    seen = {*world.train}
    for batch in sampler.epoch(0):
        items = batch.triples.negatives_BN
        assert items.min() >= 0 and items.max() < world.num_items
        # 10 of 24 items are seen: all 32 draws of an entry are seen ones with chance 7e-13.
        assert not [1 for user, row in zip(batch.triples.users_B, items, strict=True) for item in row if (user, item) in seen]


@pytest.mark.parametrize(("kind", "power"), [("uniform", 0.0), ("popularity", 0.75)])
def test_negatives_follow_popularity(kind, power):
    """Chi-square with 7 degrees of freedom exceeds 24.3 for one seed in 1000; the seed is fixed."""
    degrees = np.array([256, 128, 64, 32, 16, 8, 4, 2])
    users = np.concatenate([np.arange(degree) for degree in degrees]).astype(np.int32)
    graph = BipartiteGraph.from_edges(users, np.repeat(np.arange(8), degrees).astype(np.int32), 256, 8)
    sampler = edge_sampler(Sampler(negatives=kind, num_negatives=20, popularity_power=0.75), graph, None, 200, 5)
    drawn = np.concatenate([batch.triples.negatives_BN.ravel() for epoch in range(3) for batch in sampler.epoch(epoch)])
    expected = len(drawn) * degrees**power / (degrees**power).sum()
    assert ((np.bincount(drawn, minlength=8) - expected) ** 2 / expected).sum() < 24.3


def test_negatives_change_from_epoch_to_epoch():
    sampler = edge_sampler(KINDS["uniform"], checkerboard().graph, None, 10_000, 0)
    first, second = sampler.batch(0, 0).triples.negatives_BN, sampler.batch(1, 0).triples.negatives_BN
    # Two independent draws of 24 items agree in 1 of 24.
    assert (first == second).mean() < 0.15


def test_weights_follow_their_edges():
    graph = checkerboard().graph
    csr = graph.user_items
    weights = (100.0 * csr.row_numbers() + csr.indices).astype(np.float32)
    for batch in edge_sampler(IN_BATCH, graph, weights, 50, 1).epoch(0):
        assert np.array_equal(batch.triples.weights_B, 100.0 * batch.triples.users_B + batch.triples.positives_B)
