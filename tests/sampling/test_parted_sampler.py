"""Parts of batches: every edge once an epoch over all parts, and no part depends on which others a worker draws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.config import Sampler
from gcnrec.graph import BipartiteGraph, csr_from_edges
from gcnrec.ops.draws.sample import own_negatives
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.parts import PartedSampler
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.sampling.walk_blocks import WalkSampler
from gcnrec.testing import checkerboard, worlds

IN_BATCH = Sampler()
UNIFORM = Sampler(negatives="uniform", num_negatives=3)
CHECKERS = checkerboard().graph
DISLIKED = csr_from_edges(np.arange(0, 24, 3, dtype=np.int32), np.arange(1, 25, 3, dtype=np.int32) % 24, 24, 24)


def parted(graph, parts, kind=IN_BATCH, size=32, own=None, **changes):
    """The sampler of some parts, by default of all."""
    edges = replace(edge_sampler(kind, graph, None, size, 3), **changes)
    return PartedSampler(edges, parts, tuple(range(parts)) if own is None else own)


def pairs(batch):
    """The edges of a batch's parts, in their order."""
    triples = [part.batch.triples for part in batch.parts]
    return [(u, i) for t in triples for u, i in zip(t.users_B.tolist(), t.positives_B.tolist(), strict=True)]


def same(one, other):
    """Whether two parts hold equal arrays."""
    left, right = one.batch, other.batch
    arrays = ["nodes_V", "users_B", "positives_B", "negatives_BN", "rows_R", "disliked_B"]
    csrs = [(a.csr, b.csr) for a, b in zip(left.blocks, right.blocks, strict=True)]
    topology = [(getattr(a, name), getattr(b, name)) for a, b in csrs for name in ("indptr", "indices")]
    own = [(getattr(left, name), getattr(right, name)) for name in arrays]
    drawn = [(getattr(left.triples, name), getattr(right.triples, name)) for name in left.triples.__dataclass_fields__]
    names = () if one.pooled is None else ("target_B", "shared_K")
    pooled = [(getattr(one.pooled, name), getattr(other.pooled, name)) for name in names]
    return (left.step, left.part, left.num_users) == (right.step, right.part, right.num_users) and all(
        np.array_equal(a, b) if a is not None and b is not None else a is b for a, b in own + drawn + topology + pooled
    )


@pytest.mark.parametrize("kind", [IN_BATCH, UNIFORM], ids=["pool", "drawn"])
@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
def test_every_edge_comes_once_an_epoch_in_the_part_of_its_user(world, parts, kind):
    sampler = parted(world.graph, parts, kind, size=8)
    csr = world.graph.user_items
    expected = sorted(zip(csr.row_numbers().tolist(), csr.indices.tolist(), strict=True))
    for epoch in (0, 3):
        batches = [sampler.batch(epoch, index) for index in range(sampler.steps_per_epoch)]
        assert sorted(edge for batch in batches for edge in pairs(batch)) == expected
        assert [batch.step for batch in batches] == [epoch * len(batches) + index + 1 for index in range(len(batches))]
        for part in range(parts):
            sizes = {len(batch.parts[part].batch.users_B) for batch in batches}
            assert max(sizes) - min(sizes) <= 1
        for batch in batches:
            users = [part.batch.triples.users_B for part in batch.parts]
            assert all((users_B % parts == part).all() for part, users_B in enumerate(users))
            assert batch.num_pairs == sum(map(len, users)) > 0 and batch.num_users == len(np.unique(np.concatenate(users)))
            assert np.array_equal(batch.rows_R, np.unique(np.concatenate([part.batch.rows_R for part in batch.parts])))


@settings(max_examples=30)
@given(
    st.sets(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1),
    st.sampled_from([2, 4, 8, 16]), st.integers(0, 30), st.floats(0.05, 1.0), st.booleans(),
)  # fmt: skip
def test_parts_of_any_graph(edges, parts, more, fraction, drawn):
    """No step is without a pair where a batch has a pair for each part, and each part gives its share of its edges."""
    users, items = (np.array([edge[side] for edge in sorted(edges)], np.int32) for side in (0, 1))
    graph = BipartiteGraph.from_edges(users, items, 10, 7)
    sampler = parted(graph, parts, UNIFORM if drawn else IN_BATCH, size=parts + more, fraction=fraction)
    batches = [sampler.batch(1, index) for index in range(sampler.steps_per_epoch)]
    found = [edge for batch in batches for edge in pairs(batch)]
    assert len(set(found)) == len(found) and set(found) <= edges
    of_parts = [sum(user % parts == part for user, _ in edges) for part in range(parts)]
    assert len(found) == sum(math.ceil(fraction * count) for count in of_parts)
    assert all(batch.num_pairs > 0 for batch in batches)


@pytest.mark.parametrize("case", ["pool", "drawn", "disliked", "neighbours", "neighbours of drawn", "walks", "without positives"])
def test_a_part_is_the_same_whoever_draws_it(case):
    """Workers of 1, 2, 4 and 8 draw the same part, and the same pool."""
    graph, parts = CHECKERS, 8
    neighbours = {
        "neighbours": NeighbourSampler(graph, (3, 2), 0, with_targets=True),
        "neighbours of drawn": NeighbourSampler(graph, (3, 2), 0, with_targets=False),
        "without positives": NeighbourSampler(graph, (24, 2), 0, with_targets=True),
        "walks": WalkSampler(graph, (4, 3), 10, 3, 0.2, 0),
    }.get(case)
    kind = UNIFORM if "drawn" in case else IN_BATCH
    changes = {"neighbours": neighbours, "disliked": DISLIKED if case == "disliked" else None}
    changes["exclude_positives"] = case == "without positives"
    for index in (0, 5):
        whole = parted(graph, parts, kind, **changes).batch(2, index)
        for size in (2, 4, 8):
            for rank in range(size):
                own = tuple(range(rank, parts, size))
                batch = parted(graph, parts, kind, own=own, **changes).batch(2, index)
                assert [part.batch.part for part in batch.parts] == list(own)
                assert (batch.num_pairs, batch.num_users) == (whole.num_pairs, whole.num_users)
                assert all(same(part, whole.parts[part.batch.part]) for part in batch.parts)
                if whole.pool is not None:
                    assert np.array_equal(batch.pool.items_J, whole.pool.items_J)


@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
@pytest.mark.parametrize("parts", [2, 8])
def test_the_pool_has_each_positive_once_where_its_node_belongs(world, parts):
    sampler, num_users = parted(world.graph, parts, size=8), world.num_users
    for index in range(sampler.steps_per_epoch):
        batch = sampler.batch(0, index)
        positives = [item for _, item in pairs(batch)]
        pool = batch.pool
        assert dict(zip(pool.items_J.tolist(), pool.counts_J.tolist(), strict=True)) == {
            item: positives.count(item) for item in positives
        }
        for number, part in enumerate(batch.parts):
            mine, found = pool.items_J[pool.of_part(number)], part.batch
            assert ((mine + num_users) % parts == number).all() and (np.diff(mine) > 0).all()
            assert np.array_equal(pool.items_J[part.pooled.target_B], found.triples.positives_B)
            assert np.array_equal(found.nodes_V[part.pooled.shared_K], mine + num_users)
            assert np.array_equal(found.nodes_V[found.users_B], found.triples.users_B)
            assert set(found.nodes_V) == {*found.triples.users_B.tolist(), *(mine + num_users).tolist()}


def test_drawn_negatives_lie_at_their_places_and_differ_between_parts():
    sampler = parted(CHECKERS, 2, Sampler(negatives="uniform", num_negatives=5, exclude_seen=True))
    batch = sampler.batch(0, 1)
    assert batch.pool is None
    for part in batch.parts:
        found, triples = part.batch, part.batch.triples
        assert part.pooled is None and triples.negatives_BN.shape == (len(triples.users_B), 5)
        assert np.array_equal(found.nodes_V[found.negatives_BN] - CHECKERS.num_users, triples.negatives_BN)
        assert np.array_equal(found.nodes_V[found.positives_B] - CHECKERS.num_users, triples.positives_B)
    drawn = [part.batch.triples.negatives_BN for part in batch.parts]
    assert not np.array_equal(*(each[:10] for each in drawn))
    again = sampler.batch(0, 2)
    assert not np.array_equal(again.parts[0].batch.triples.negatives_BN[:10], drawn[0][:10])


def test_weights_are_those_of_their_edges():
    weights_E = np.arange(CHECKERS.num_edges, dtype=np.float32)
    csr = CHECKERS.user_items
    weight = dict(zip(zip(csr.row_numbers().tolist(), csr.indices.tolist(), strict=True), weights_E.tolist(), strict=True))
    for part in parted(CHECKERS, 4, weights_E=weights_E).batch(0, 2).parts:
        triples = part.batch.triples
        edges = zip(triples.users_B.tolist(), triples.positives_B.tolist(), strict=True)
        assert triples.weights_B.tolist() == [weight[edge] for edge in edges]


def test_disliked_items_are_of_their_users_and_lie_at_their_places():
    found = 0
    for index in range(3):
        for part in parted(CHECKERS, 4, disliked=DISLIKED).batch(0, index).parts:
            batch, triples = part.batch, part.batch.triples
            key = batch.step * 4 + batch.part
            assert np.array_equal(triples.disliked_B, own_negatives(triples.users_B, DISLIKED, 3, key))
            assert np.array_equal(batch.disliked_B >= 0, triples.disliked_B >= 0)
            has_B = triples.disliked_B >= 0
            assert np.array_equal(batch.nodes_V[batch.disliked_B[has_B]] - CHECKERS.num_users, triples.disliked_B[has_B])
            assert all(
                item in DISLIKED.row(user) for user, item in zip(triples.users_B[has_B], triples.disliked_B[has_B], strict=True)
            )
            found += has_B.sum()
    assert found > 3


def test_positives_of_all_parts_are_left_out_of_neighbourhoods():
    """Also of items whose users belong to another part."""
    neighbours = NeighbourSampler(CHECKERS, (64,), 0, with_targets=True)
    batch = parted(CHECKERS, 4, neighbours=neighbours, exclude_positives=True).batch(0, 1)
    positives, num_users, left_out = set(pairs(batch)), CHECKERS.num_users, 0
    known = set(zip(CHECKERS.user_items.row_numbers().tolist(), CHECKERS.user_items.indices.tolist(), strict=True))
    for part in batch.parts:
        found = part.batch
        (block,) = found.blocks
        targets = found.rows_R[block.targets_T][block.csr.row_numbers()]
        sources = found.rows_R[block.sources_S][block.csr.indices]
        drawn = {(min(edge), max(edge) - num_users) for edge in zip(targets.tolist(), sources.tolist(), strict=True)}
        near = {(user, item) for user, item in known if {user, item + num_users} & set(found.nodes_V.tolist())}
        assert drawn == near - positives
        left_out += len(near & positives)
    assert left_out > len(positives)
