"""Subgraphs in which every node draws once, against a construction with lists; rows of a table by a type's own numbers."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.loaders.subgraph import Subgraphs
from gcnrec.loaders.table_rows import TableRows
from gcnrec.ops.draws.neighbours import sample_neighbours
from gcnrec.random import DrawKey
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import Sgd


def random_graph(users, items, edges, seed=0):
    rng = np.random.default_rng(seed)
    return BipartiteGraph.from_edges(
        rng.integers(0, users, edges).astype(np.int32), rng.integers(0, items, edges).astype(np.int32), users, items
    )


def draw(graph, node, fanout, seed, step, hop):
    """The neighbours of (is_item, number), drawn alone."""
    is_item, number = node
    csr, first = (graph.item_users, graph.num_users) if is_item else (graph.user_items, 0)
    drawn = sample_neighbours(csr, np.array([number], np.int32), fanout, DrawKey(seed, step, hop, first))[1]
    return [(not is_item, int(other)) for other in drawn]


def naive(graph, seeds, fanouts, seed, step):
    """All nodes in the order in which they are met, the number met per level, and edges (from, to) per hop."""
    met, levels, edges = list(seeds), [list(seeds)], []
    for hop, fanout in enumerate(fanouts):
        edges.append([(other, node) for node in levels[-1] for other in draw(graph, node, fanout, seed, step, hop)])
        levels.append(sorted({other for other, _ in edges[-1]} - {*met}))
        met += levels[-1]
    return met, levels, edges


@settings(max_examples=40)
@given(st.data(), st.lists(st.integers(1, 5), max_size=3))
def test_equals_the_naive_construction(data, fanouts):
    graph = random_graph(data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)), data.draw(st.integers(0, 90)))
    users = data.draw(st.lists(st.integers(0, graph.num_users - 1), unique=True, max_size=6))
    items = data.draw(st.lists(st.integers(0, graph.num_items - 1), unique=True, max_size=6))
    subgraphs = Subgraphs(graph, tuple(fanouts), 5)
    for step in (1, 2**40 + 3):  # scratch is used again
        sides = subgraphs.sample(np.array(users, np.int32), np.array(items, np.int32), step)
        seeds = [(False, user) for user in users] + [(True, item) for item in items]
        met, levels, edges = naive(graph, seeds, fanouts, 5, step)
        for is_item, side in enumerate(sides):
            own = [number for kind, number in met if kind == is_item]
            assert side.numbers_V.tolist() == own
            assert side.met == [sum(kind == is_item for kind, _ in level) for level in levels]
            drawn = [[edge for edge in hop if edge[1][0] == is_item] for hop in edges]
            assert side.drawn == [len(hop) for hop in drawn]
            others = sides[1 - is_item].numbers_V
            found = list(zip(others[side.sources_X].tolist(), side.numbers_V[side.targets_X].tolist(), strict=True))
            assert found == [(source[1], target[1]) for hop in drawn for source, target in hop]
            assert (np.diff(side.targets_X) >= 0).all()


def test_seeds_must_be_distinct_and_in_range():
    subgraphs = Subgraphs(random_graph(4, 5, 9), (2,), 1)
    none = np.empty(0, np.int32)
    with pytest.raises(UsageError, match="distinct"):
        subgraphs.sample(np.array([1, 1], np.int32), none, 1)
    with pytest.raises(UsageError, match=r"user numbers must lie in 0 \.\. 3, got 4 \.\. 4"):
        subgraphs.sample(np.array([4], np.int32), none, 1)
    with pytest.raises(UsageError, match="item numbers"):
        subgraphs.sample(none, np.array([-1], np.int32), 1)
    assert subgraphs.sample(np.array([1], np.int32), none, 1)[0].met[0] == 1  # scratch was cleared
    with pytest.raises(UsageError, match="fanout"):
        Subgraphs(random_graph(4, 5, 9), (65,), 1)


def test_a_forked_process_is_told_so_and_a_spawned_one_draws(monkeypatch):
    subgraphs, seeds = Subgraphs(random_graph(4, 5, 9), (2,), 1), (np.array([1], np.int32), np.array([2], np.int32))
    here = subgraphs.sample(*seeds, 3)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(UsageError, match="spawn"):
        subgraphs.sample(*seeds, 3)
    there = pickle.loads(pickle.dumps(subgraphs)).sample(*seeds, 3)
    assert [side.numbers_V.tolist() for side in there] == [side.numbers_V.tolist() for side in here]


def test_rows_of_a_table_by_their_own_numbers():
    weights_ND = torch.arange(12.0).view(6, 2)
    rows = TableRows(DenseTable(weights_ND, 0), 2, 3)
    assert rows.shape == (3, 2)
    assert rows.read(np.array([2, 0, 2])).tolist() == [[8.0, 9.0], [4.0, 5.0], [8.0, 9.0]]
    rows.update(Sgd(), np.array([2, 0, 2]), torch.tensor([[1.0, 0.0], [2.0, 4.0], [1.0, 6.0]]), step=1, rate=0.5)
    assert rows.read(np.arange(3)).tolist() == [[3.0, 3.0], [6.0, 7.0], [7.0, 6.0]]  # 4 - 1, 5 - 2; 8 - 1, 9 - 3
    with pytest.raises(UsageError, match=r"0 \.\. 2, got 3"):
        rows.read(np.array([3]))
