"""Edges in the order of time against sorted lists, and draws from the past against Floyd's algorithm in Python integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.closed_forms.known_first import pending
from gcnrec.config import Model
from gcnrec.errors import UsageError
from gcnrec.graph import Behaviour, BipartiteGraph, History, LaterRows
from gcnrec.ops.draws.dated import dated, edge_times, pair_times
from gcnrec.random import DATED, DrawKey, Stage, philox4x32


def graph_of(edges):
    users, items = (np.array([edge[side] for edge in edges], np.int32) for side in (0, 1))
    return BipartiteGraph.from_edges(users, items, 9, 7)


def times_of(graph, edges):
    """`edges`: (user, item) -> time, in the order of the graph."""
    csr = graph.user_items
    pairs = zip(csr.row_numbers().tolist(), csr.indices.tolist(), strict=True)
    return np.array([edges[pair] for pair in pairs], np.int64)


EDGES = st.dictionaries(st.tuples(st.integers(0, 8), st.integers(0, 6)), st.integers(-3, 4), max_size=50)


@settings(max_examples=50)
@given(EDGES, st.integers(-5, 6))
def test_rows_are_in_the_order_of_time(edges, time):
    graph = graph_of(edges)
    past = dated(graph, times_of(graph, edges))
    times = sorted(set(edges.values()))
    assert past.times.tolist() == times
    for side, csr in enumerate((past.user_items, past.item_users)):
        rows = np.arange(len(csr.indptr) - 1, dtype=np.int32)
        counts = csr.counts(rows, np.full(len(rows), past.dates(np.array([time]))[0], np.int32))
        for row in rows.tolist():
            own = sorted((times.index(when), pair[1 - side]) for pair, when in edges.items() if pair[side] == row)
            here = slice(csr.indptr[row], csr.indptr[row + 1])
            assert list(zip(csr.dates_E[here].tolist(), csr.columns_E[here].tolist(), strict=True)) == own
            assert counts[row] == sum(when < time for pair, when in edges.items() if pair[side] == row)


def naive(past, node, date, fanout, seed, step, hop):
    """Floyd 1987 with the draws that the module's docstring lays down, from `past`, columns in the order of time."""
    chosen = []
    for k in range(min(fanout, len(past))):
        top = len(past) - min(fanout, len(past)) + k
        counter = (
            node,
            k // 2 + 32 * (date % 2**27),
            step % 2**32,
            int(Stage.SAMPLE) | (hop | DATED << 6) << 8 | (step >> 32) << 16,
        )
        words = philox4x32.py_func(*map(np.uint32, (*counter, seed % 2**32, seed >> 32)))
        high, low = map(int, words[2 * (k % 2) : 2 * (k % 2) + 2])
        position = (high << 32 | low) * (top + 1) >> 64
        chosen.append(top if position in chosen else position)
    return sorted(past[position] for position in chosen) if len(past) > fanout else sorted(past)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # NumPy's scalars tell when Philox wraps around
@pytest.mark.parametrize("fanout", [1, 2, 7, 64])
@pytest.mark.parametrize(("seed", "step", "hop"), [(0, 1, 0), (2**40 + 5, 2**33 + 17, 2)])
def test_draws_equal_the_transcription(fanout, seed, step, hop):
    draw = np.random.default_rng(1)
    rows, columns = draw.integers(0, 6, 500).astype(np.int32), draw.integers(0, 90, 500).astype(np.int32)
    graph = BipartiteGraph.from_edges(rows, columns, 6, 90)
    csr = dated(graph, draw.integers(0, 40, graph.num_edges)).user_items
    targets, dates = np.repeat(np.arange(6), 9).astype(np.int32), np.tile(np.arange(0, 45, 5), 6).astype(np.int32)
    indptr, drawn = csr.draw(targets, dates, csr.counts(targets, dates), fanout, DrawKey(seed, step, hop, 1000))
    assert (indptr.dtype, drawn.dtype) == (np.int64, np.int32)
    for t, (row, date) in enumerate(zip(targets.tolist(), dates.tolist(), strict=True)):
        here = slice(csr.indptr[row], csr.indptr[row + 1])
        past = csr.columns_E[here][csr.dates_E[here] < date].tolist()
        assert drawn[indptr[t] : indptr[t + 1]].tolist() == naive(past, 1000 + row, date, fanout, seed, step, hop)


def test_a_node_draws_anew_at_another_date():
    graph = BipartiteGraph.from_edges(np.zeros(60, np.int32), np.arange(60, dtype=np.int32), 1, 60)
    csr = dated(graph, np.r_[np.zeros(59), 1].astype(np.int64)).user_items
    rows, dates = np.zeros(2, np.int32), np.array([1, 1], np.int32)
    counts = csr.counts(rows, dates)
    _, once = csr.draw(rows, dates, counts, 5, DrawKey(0, 1, 0, 0))
    _, later = csr.draw(rows, dates + np.int32(1), counts, 5, DrawKey(0, 1, 0, 0))
    assert once[:5].tolist() == once[5:].tolist() and set(later.tolist()) != set(once.tolist())


def test_a_fanout_out_of_range_is_refused():
    csr = dated(graph_of({(0, 0): 1}), np.ones(1, np.int64)).user_items
    with pytest.raises(UsageError, match=r"must lie in 1 \.\. 64, got 65"):
        csr.draw(np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int64), 65, DrawKey(0, 1, 0, 0))


@settings(max_examples=30)
@given(st.lists(EDGES.filter(bool), min_size=1, max_size=3), EDGES)
def test_an_edge_has_its_earliest_time_in_any_behaviour_or_refit(behaviours, later):
    graphs = [graph_of(edges) for edges in behaviours]
    times = [times_of(graph, edges) for graph, edges in zip(graphs, behaviours, strict=True)]
    others = tuple(Behaviour(str(n), graph, own) for n, (graph, own) in enumerate(zip(graphs[1:], times[1:], strict=True)))
    rows = [np.array([pair[side] for pair in later], np.int32) for side in (0, 1)]
    added = LaterRows(*rows, np.array(list(later.values()), np.int64)) if later else None
    both = {pair: min(edges[pair] for edges in (behaviours[0], later) if pair in edges) for pair in behaviours[0] | later}
    graph = replace(graph_of(both), others=others, history=History(graphs[0].user_items, times[0], None, added))
    assert pair_times(graph).tolist() == times_of(graph, both).tolist()
    parts = [both, *behaviours[1:]]
    earliest = {pair: min(edges[pair] for edges in parts if pair in edges) for part in parts for pair in part}
    assert edge_times(graph).tolist() == times_of(graph.union, earliest).tolist()


def test_a_refit_reads_the_earliest_time_of_another_behaviour_and_pending_the_newest():
    before, later = {(0, 0): 5, (0, 1): 3, (1, 2): 4}, {(0, 0): 9, (0, 2): 7}
    views, bought = graph_of(before), graph_of({(8, 6): 1})
    rows = LaterRows(np.zeros(2, np.int32), np.array([0, 2], np.int32), np.array([9, 7]))
    known = Behaviour("view", views, times_of(views, before), later=rows).until_test
    graph = replace(bought, others=(known,), history=History(bought.user_items, np.ones(1, np.int64)))
    assert edge_times(graph).tolist() == times_of(graph.union, {**later, **before, (8, 6): 1}).tolist()
    assert known.times_E is not None and known.times_E.tolist() == times_of(known.graph, {**before, **later}).tolist()
    scores_I = pending.fit(graph, Model(), 0).prepare(np.zeros(1, np.int32))[0, :3]
    assert scores_I.argsort(descending=True).tolist() == [0, 2, 1]


def test_edges_without_times_have_no_past():
    graph = graph_of({(0, 0): 1})
    with pytest.raises(ValueError, match="history of this graph has no times"):
        edge_times(graph)
    timed = replace(graph, history=History(graph.user_items, np.ones(1, np.int64)), others=(Behaviour("views", graph),))
    with pytest.raises(ValueError, match="'views' has no times"):
        edge_times(timed)
