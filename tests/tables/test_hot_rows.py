"""Cached prefixes against sets, and against every possible cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.graph import BipartiteGraph
from gcnrec.rows import RowNumbers
from gcnrec.tables import placement
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.hot_rows import Prefixes, hottest


@given(st.integers(0, 9), st.integers(0, 6), st.sets(st.integers(0, 14)))
def test_parts_against_sets(users, items, rows):
    prefixes = Prefixes(9, users, items)
    rows_R = np.array(sorted(rows), np.int64)
    members = {row: place for place, row in enumerate(row for rows in prefixes.ranges for row in rows)}
    assert len(members) == len(prefixes)
    seen = []
    for part in prefixes.parts(rows_R):
        own = rows_R[part.first : part.last].tolist()
        assert own and [members.get(row) for row in own] == [None if part.shift is None else row + part.shift for row in own]
        seen += own
    assert seen == sorted(rows)


@pytest.fixture
def graph():
    """Users of degrees 3, 2, 2, 1 and items of degrees 4, 2, 1, 1."""
    pairs = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 3), (3, 0)]
    users, items = (np.array(side, np.int32) for side in zip(*pairs, strict=True))
    return BipartiteGraph.from_edges(users, items, 4, 4)


@pytest.mark.parametrize(
    ("budget", "users", "items"), [(0, 0, 0), (9, 0, 0), (10, 0, 1), (19, 0, 1), (20, 1, 1), (49, 1, 1), (50, 3, 2), (80, 4, 4)]
)
def test_the_longest_prefixes_within_the_budget(graph, budget, users, items):
    """Ten bytes a row: degrees of at least 4, 3, 2 and 1 are 1, 2, 5 and 8 rows."""
    found = hottest(graph, lambda rows: 10 * len(rows), budget)
    assert (found.users, found.items) == (users, items)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 4), st.data())
def test_a_share_keeps_its_own_of_the_cached_nodes(users, items, workers, data):
    """Shares of all workers together keep each node once, and their users and items are cut where the graph's are."""
    prefixes = Prefixes(6, data.draw(st.integers(0, users)), data.draw(st.integers(0, items)))
    kept = set()
    for worker in range(workers):
        numbers = RowNumbers(workers, worker)
        own = prefixes.among(numbers)
        nodes = [[row * workers + worker for row in rows] for rows in own.ranges]
        assert nodes == [[node for node in each if node % workers == worker] for each in prefixes.ranges]
        assert own.first_item == len([node for node in range(6) if node % workers == worker])
        kept |= {*nodes[0], *nodes[1]}
    assert kept == {node for nodes in prefixes.ranges for node in nodes}


def test_a_worker_caches_as_many_rows_of_its_share_as_fit(graph, monkeypatch, fake_device):
    """Three rows of 16 bytes: of all nodes two of degree 3, of nodes 0, 2, 4 and 6 three of degree 2, of the others two."""
    monkeypatch.setattr(placement, "gpu", lambda: None)
    monkeypatch.setattr(placement, "pipeline_of", lambda *given: fake_device.FakeDevice(0))
    found = []
    for numbers in (RowNumbers(), RowNumbers(2, 0), RowNumbers(2, 1)):
        share = DenseTable(torch.zeros(8 // numbers.stride, 4), 0, numbers=numbers)
        hot = placement.placed(placement.Placement(True, "host", 3 * 16), graph, share).hot
        found.append(hot and (hot.users, hot.items))
    assert found == [(1, 1), (2, 1), (1, 1)]
