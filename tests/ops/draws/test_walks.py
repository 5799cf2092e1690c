"""Walks against a transcription in Python integers, and on graphs whose visits can be told by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph, csr_from_edges
from gcnrec.ops.draws.walks import Walks, most_visited
from gcnrec.random import DrawKey, Stage, philox4x32

WALK = 2


def world():
    """30 users and 20 items; the last 3 users and 2 items have nothing."""
    rng = np.random.default_rng(5)
    users, items = (27 * rng.random(150) ** 1.5).astype(np.int32), rng.integers(0, 18, 150).astype(np.int32)
    return BipartiteGraph.from_edges(users, items, 30, 20)


def words(node, call, seed, step):
    counter = node, call, step % 2**32, int(Stage.SAMPLE) | WALK << 6 << 8 | (step >> 32) << 16
    return [int(word) for word in philox4x32.py_func(*map(np.uint32, (*counter, seed % 2**32, seed >> 32)))]


def naive(there, back, row, num_walks, length, restart, top, seed, step, first_node):
    visits = Counter()
    for walk in range(num_walks if len(there.row(row)) else 0):
        at = row
        for hop in range(walk * length, (walk + 1) * length):
            if hop > walk * length and words(first_node + row, 2 * hop + 1, seed, step)[0] < int(restart * 2**32):
                at = row
            a, b, c, d = words(first_node + row, 2 * hop, seed, step)
            near = there.row(at)
            far = back.row(near[(a << 32 | b) * len(near) >> 64])
            at = int(far[(c << 32 | d) * len(far) >> 64]) if len(far) else row
            visits[at] += 1
    del visits[row]
    return sorted(sorted(visits.items(), key=lambda pair: (-pair[1], pair[0]))[:top])


@pytest.mark.filterwarnings("ignore:overflow encountered")  # NumPy's scalars tell when Philox wraps around
@pytest.mark.parametrize(("restart", "top"), [(0.0, 3), (0.4, 50)])
def test_equals_the_transcription(restart, top):
    graph = world()
    rows, seed, step = np.array([29, 3, 0, 11, 7], np.int32), 2**35 + 9, 2**33 + 4
    walks, key = Walks(6, 3, restart), DrawKey(seed, step, 0, 100)
    indptr, nodes, counts = most_visited(graph.user_items, graph.item_users, rows, walks, top, key)
    assert (indptr.dtype, nodes.dtype, counts.dtype) == (np.int64, np.int32, np.int32)
    for t, row in enumerate(rows):
        part = slice(indptr[t], indptr[t + 1])
        expected = naive(graph.user_items, graph.item_users, int(row), 6, 3, restart, top, seed, step, 100)
        assert list(zip(nodes[part].tolist(), counts[part].tolist(), strict=True)) == expected


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_an_item_that_leads_nowhere_leads_back(last=29):
    """As new users are folded in: the last one has two items that nobody has, one of them at the end of all, and a known one."""
    graph = world()
    old, seed, step = graph.user_items, 7, 3
    users, items = np.append(old.row_numbers(), [last] * 3).astype(np.int32), np.append(old.indices, [18, 19, 0]).astype(np.int32)
    there, back = csr_from_edges(users, items, 30, 20), graph.item_users
    assert not len(back.row(18)) and not len(back.row(19)) and len(back.row(0))
    walks, key = Walks(20, 3, 0.3), DrawKey(seed, step, 0, 0)
    indptr, nodes, counts = most_visited(there, back, np.array([last], np.int32), walks, 50, key)
    expected = naive(there, back, last, 20, 3, 0.3, 50, seed, step, 0)
    assert expected and list(zip(nodes.tolist(), counts.tolist(), strict=True)) == expected and indptr.tolist() == [0, len(nodes)]


def test_an_only_neighbour_is_visited_half_the_time():
    # Two users share the one item: each hop ends at either of them with chance 1/2, whatever came before.
    graph = BipartiteGraph.from_edges(np.array([0, 1], np.int32), np.zeros(2, np.int32), 2, 1)
    walks, key = Walks(5000, 2, 0.3), DrawKey(1, 1, 0, 0)
    indptr, nodes, counts = most_visited(graph.user_items, graph.item_users, np.array([0], np.int32), walks, 4, key)
    assert (indptr.tolist(), nodes.tolist()) == ([0, 1], [1])
    # Binomial with 10 000 trials: standard deviation 50; five of them.
    assert abs(int(counts[0]) - 5000) < 250


def test_items_walk_too_and_isolated_ones_keep_nothing():
    graph = world()
    rows = np.arange(20, dtype=np.int32)
    indptr, nodes, _ = most_visited(graph.item_users, graph.user_items, rows, Walks(20, 2, 0.1), 5, DrawKey(1, 1, 0, 30))
    sizes = np.diff(indptr)
    assert sizes[18:].tolist() == [0, 0] and sizes[:18].max() == 5 and nodes.max() < 18
    assert not any(row in nodes[indptr[row] : indptr[row + 1]] for row in rows)


def test_a_node_walks_alike_in_any_batch_and_on_any_number_of_threads(threads):
    graph = world()
    results = []
    for count, rows in ((1, np.arange(30)), (2, np.arange(30)), (2, np.array([8]))):
        threads(count)
        walks, key = Walks(10, 3, 0.2), DrawKey(7, 1, 0, 0)
        results.append(most_visited(graph.user_items, graph.item_users, rows.astype(np.int32), walks, 4, key))
    for one, two in zip(results[0], results[1], strict=True):
        assert np.array_equal(one, two)
    own = slice(results[0][0][8], results[0][0][9])
    assert np.array_equal(results[0][1][own], results[2][1]) and np.array_equal(results[0][2][own], results[2][2])


def test_no_nodes():
    graph = world()
    walks, key = Walks(2, 2, 0.0), DrawKey(1, 1, 0, 0)
    indptr, nodes, counts = most_visited(graph.user_items, graph.item_users, np.empty(0, np.int32), walks, 2, key)
    assert (indptr.tolist(), nodes.tolist(), counts.tolist()) == ([0], [], [])


@pytest.mark.parametrize("wrong", [{"num_walks": 0}, {"length": 0}, {"top": 0}, {"restart": 1.0}, {"restart": -0.1}])
def test_walks_that_cannot_be(wrong):
    graph = world()
    asked = {"num_walks": 1, "length": 1, "restart": 0.0, "top": 1, **wrong}
    top = asked.pop("top")
    with pytest.raises(UsageError, match="random walks need"):
        most_visited(graph.user_items, graph.item_users, np.zeros(1, np.int32), Walks(**asked), top, DrawKey(0, 0, 0, 0))
