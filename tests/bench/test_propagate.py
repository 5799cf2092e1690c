"""The propagate bench on a small graph: rows, agreement, and a summary that is the worse direction."""

from __future__ import annotations

import json

import pytest

from gcnrec.bench import propagate as bench
from gcnrec.bench.graphs import synthetic
from gcnrec.graph import BipartiteGraph


@pytest.fixture
def few_contenders(quick_bench, monkeypatch):
    """Ours, SciPy and torch: the peers that every installation has."""
    kept = ("gcnrec", "scipy-csr", "torch-csr", "torch-csr-int32-symmetric", "torch-coo")
    monkeypatch.setattr(bench, "CONTENDERS", {name: bench.CONTENDERS[name] for name in kept})
    return kept


def test_rows(few_contenders):
    rows = list(bench.run(width=16, threads=1, runs=1, size=(200, 150, 3000)))
    assert json.loads(json.dumps(rows)) == rows
    for direction in ("forward", "backward"):
        timed = [row for row in rows if row["bench"] == f"propagate-{direction}" and not row.get("summary")]
        assert [row["variant"] for row in timed] == list(few_contenders)
        assert all(row["units"] == 6000 and row["difference"] <= row["tolerance"] for row in timed)
    last = rows[-1]
    assert last["bench"] == "propagate" and last["summary"] and last["ours"] == "gcnrec"
    assert last["speedup"] == min(row["speedup"] for row in rows[:-1] if row.get("summary"))


def test_absent_peer_voids_the_speedup(few_contenders, monkeypatch):
    def missing(given, threads):
        raise ImportError("no module named peer")

    monkeypatch.setitem(bench.CONTENDERS, "peer", missing)
    assert list(bench.run(width=8, threads=1, runs=1, size=(50, 40, 300)))[-1]["speedup"] is None


def test_synthetic_graph_has_the_size_asked_for():
    graph = synthetic(500, 300, 6000)
    assert isinstance(graph, BipartiteGraph)
    assert (graph.num_users, graph.num_items, graph.num_edges) == (500, 300, 6000)
    graph.user_items.check("user_items")
    graph.item_users.check("item_users")
