"""The sample bench on a small graph: rows, and results that must not count."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from gcnrec.bench import sample as bench
from gcnrec.bench import sample_large
from gcnrec.bench.graphs import synthetic


@pytest.fixture
def few_contenders(quick_bench, monkeypatch):
    """Ours and torch: what every installation has."""
    kept = ("gcnrec", "torch")
    monkeypatch.setattr(bench, "CONTENDERS", {name: bench.CONTENDERS[name] for name in kept})
    monkeypatch.setattr(bench, "_BATCHES", 2)
    return kept


def test_rows(few_contenders, monkeypatch):
    monkeypatch.setattr(bench, "BATCH_SIZE", 500)
    rows = list(bench.run(threads=1, runs=1, size=(4000, 3000, 40_000)))
    assert json.loads(json.dumps(rows)) == rows
    assert [row["variant"] for row in rows[:-1]] == list(few_contenders)
    assert all(row["difference"] <= row["tolerance"] for row in rows[:-1])
    # Two batches of 500 nodes: one to ten edges each in the first hop, more in the second.
    assert 2 * 500 < rows[0]["units"] < 2 * 500 * 110
    assert rows[-1]["summary"] and rows[-1]["ours"] == "gcnrec" and rows[-1]["best_peer"] == "torch"


def test_large_rows_on_a_small_graph(few_contenders, monkeypatch):
    monkeypatch.setattr(sample_large, "_BATCHES", 1)
    rows = list(sample_large.run(threads=1, runs=1, size=(4000, 3000, 40_000)))
    assert {row["bench"] for row in rows} == {"sample-large"} and rows[-1]["speedup"] is not None


def test_power_law_graph_is_one_of_the_size_asked_for():
    graph = sample_large.power_law(5000, 2000, 60_000)
    assert (graph.num_users, graph.num_items) == (5000, 2000)
    assert 60_000 <= graph.num_edges < 62_000
    graph.user_items.check("user_items")
    graph.item_users.check("item_users")
    assert graph.user_items.degrees[0] > 5 * np.median(graph.user_items.degrees)


@pytest.fixture
def drawn():
    """(inputs, torch's draws as hops) of one batch."""
    graph = synthetic(300, 200, 4000)
    given = bench.SampleInputs(graph, [np.arange(0, 500, 5)])
    result = bench.CONTENDERS["torch"](given, 1)()
    return given, result.read(result.batches[0])


def distance(given, hops):
    edges = sum(len(hop.sources_X) for hop in hops)
    return bench._difference(given, edges, None, bench.Drawn([hops], list))


def test_right_draws_count(drawn):
    assert distance(*drawn) == 0


def wrong_edge(hop):
    sources = hop.sources_X.copy()
    sources[0] = hop.targets_T[0]  # nobody is their own neighbour
    return replace(hop, sources_X=sources)


def twice_the_same(hop):
    sources = hop.sources_X.copy()
    first = int(np.argmax(hop.counts_T > 1))
    at = int(hop.counts_T[:first].sum())
    sources[at + 1] = sources[at]
    return replace(hop, sources_X=sources)


def too_few(hop):
    counts = hop.counts_T.copy()
    counts[0] -= 1
    return replace(hop, counts_T=counts, sources_X=hop.sources_X[1:])


def other_targets(hop):
    return replace(hop, targets_T=hop.targets_T[::-1] + 1)


@pytest.mark.parametrize("spoil", [wrong_edge, twice_the_same, too_few, other_targets])
@pytest.mark.parametrize("which", [0, 1])
def test_wrong_draws_do_not(drawn, spoil, which):
    given, hops = drawn
    hops[which] = spoil(hops[which])
    assert distance(given, hops) == float("inf")


def test_dgl_counts(drawn):
    pytest.importorskip("dgl")
    result = bench.CONTENDERS["dgl-neighborsampler"](drawn[0], 1)()
    assert distance(drawn[0], result.read(result.batches[0])) == 0
