"""Blocks of the past: whatever is drawn is older than the pair it is drawn for, in every hop, and nothing older is left out."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from past import edge_times, sampler_of, timed_graph, times_of_nodes

from gcnrec.errors import UsageError
from gcnrec.graph import csr_from_edges
from gcnrec.sampling.dated_blocks import keys_of


def older(graph, times):
    """node -> the ascending times of its edges."""
    found = {node: [] for node in range(graph.num_nodes)}
    for pair, time in edge_times(graph, times).items():
        for node in pair:
            found[node].append(time)
    return {node: sorted(own) for node, own in found.items()}


@settings(max_examples=25)
@given(
    st.integers(1, 50), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans(), st.booleans(), st.integers(0, 10**6)
)
def test_no_neighbour_is_as_new_as_its_pair(edges, fanouts, with_targets, in_batch, seed):
    graph, times = timed_graph(edges=edges, seed=seed)
    known, own_times = edge_times(graph, times), older(graph, times)
    negatives = {"negatives": "in_batch"} if in_batch else {}
    batch = sampler_of(graph, times, tuple(fanouts), with_targets, **negatives).batch(0, 0)
    times_T, targets = times_of_nodes(batch, graph, times), batch.nodes_V
    for hop, (block, fanout) in enumerate(zip(batch.blocks, fanouts, strict=True)):
        sources, found = batch.rows_R[block.sources_S], [set() for _ in block.sources_S]
        assert np.array_equal(batch.rows_R[block.targets_T], targets)
        for t, (target, time) in enumerate(zip(targets.tolist(), times_T, strict=True)):
            drawn = block.csr.row(t).tolist()
            assert all(known[tuple(sorted((target, int(sources[source]))))] < time for source in drawn)
            count = bisect_left(own_times[target], time)
            assert len(set(drawn)) == len(drawn) == min(fanout, count)
            for source in drawn:
                found[source].add(time)
            if with_targets:
                assert sources[block.own_T[t]] == target
                found[block.own_T[t]].add(time)
            else:
                degrees = [bisect_left(own_times[sources[source]], time) for source in drawn]
                here = slice(block.csr.indptr[t], block.csr.indptr[t + 1])
                assert (block.degrees[0][t], block.degrees[1][here].tolist()) == (count, degrees)
        if hop + 1 < len(fanouts):  # a source is one node at one time
            assert all(len(own) == 1 for own in found)
            targets, times_T = sources, [own.pop() for own in found]


def test_rows_are_read_once_and_nothing_else_is():
    graph, times = timed_graph()
    for with_targets in (False, True):
        batch = sampler_of(graph, times, (3, 2), with_targets, size=60).batch(0, 0)
        assert (np.diff(batch.rows_R) > 0).all() and len(batch.rows_R) < len(batch.nodes_V)
        reached = [batch.nodes_V, *(batch.rows_R[block.sources_S] for block in batch.blocks)]
        assert np.array_equal(np.unique(np.concatenate(reached)), batch.rows_R)


def test_items_that_users_dislike_stand_at_the_time_of_the_pair():
    graph, times = timed_graph()
    disliked = csr_from_edges(np.arange(0, 9, 2, dtype=np.int32), np.arange(1, 6, dtype=np.int32), 9, 7)
    batch = sampler_of(graph, times, (3,), size=60, disliked=disliked, negatives="in_batch").batch(0, 0)
    times_V, times_B = times_of_nodes(batch, graph, times), np.array(times_of_nodes(batch, graph, times))[batch.users_B]
    has_B = batch.triples.users_B % 2 == 0
    assert np.array_equal(batch.disliked_B >= 0, has_B) and has_B.any()
    assert [times_V[place] for place in batch.disliked_B[has_B]] == times_B[has_B].tolist()


def test_draws_depend_on_neither_the_batch_nor_the_order():
    """The first hop of each entry is the same in batches of all pairs and of three."""
    graph, times = timed_graph()
    drawn = []
    for size in (60, 3):
        found = {}
        sampler = sampler_of(graph, times, (2,), size=size, negatives="in_batch")
        for batch in sampler.epoch(0):
            times_V = times_of_nodes(batch, graph, times)
            sampled = sampler.neighbours.sample(keys_of(batch.nodes_V, sampler.neighbours.graph.dates(np.array(times_V))), 7)
            (block,) = sampled.blocks
            for t, time in enumerate(times_V):
                found[int(batch.nodes_V[t]), time] = sampled.rows_R[block.sources_S[block.csr.row(t)]].tolist()
        drawn.append(found)
    assert drawn[0] == drawn[1] and any(drawn[0].values())


@pytest.mark.parametrize("fanouts", [(0,), (10, 65)])
def test_fanouts_out_of_range_are_refused(fanouts):
    with pytest.raises(UsageError, match=r"must lie in 1 \.\. 64"):
        sampler_of(*timed_graph(), fanouts)
