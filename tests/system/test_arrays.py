"""A walk finds arrays by the fields that lead to them, and says where they lie."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gcnrec.graph import BipartiteGraph
from gcnrec.system.arrays import LEAST_BYTES, arrays_in
from gcnrec.system.pages import scratch_rows


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what a process maps")
def test_arrays_are_listed_once_with_their_size_and_place(tmp_path):
    random = np.random.default_rng(0)
    edges = random.integers(0, 4000, 9000, dtype=np.int32), random.integers(0, 10, 9000, dtype=np.int32)
    BipartiteGraph.from_edges(*edges, 4000, 10).save(tmp_path)
    graph = BipartiteGraph.open(tmp_path, 4000, 10)
    written, count = scratch_rows(tmp_path, 100, 64), graph.num_edges
    written.fill_(1.0)
    root = {"graph": graph, "parts": (written, written[:]), "small": np.zeros(LEAST_BYTES // 8 - 1), "name": "text"}
    root["itself"] = root
    found = {entry.pop("name"): entry for entry in arrays_in(step=root, again=graph, more=torch.ones(3, 4096, dtype=torch.uint8))}
    assert {name: (entry["shape"], entry["dtype"], entry["bytes"], entry["memory"]) for name, entry in found.items()} == {
        "step.graph.user_items.indptr": ([4001], "int64", 8 * 4001, "mapped"),
        "step.graph.user_items.indices": ([count], "int32", 4 * count, "mapped"),
        "step.graph.item_users.indices": ([count], "int32", 4 * count, "mapped"),
        "step.parts.0": ([100, 64], "float32", 25_600, "mapped"),
        "more": ([3, 4096], "uint8", 12_288, "private"),
    }
    assert found["step.parts.0"]["resident_bytes"] == 25_600 and found["more"]["resident_bytes"] == 12_288
    sizes = [entry["bytes"] for entry in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    graph.user_items.degrees  # noqa: B018  (they stay)
    kept = {entry["name"]: entry["memory"] for entry in arrays_in(graph=graph)}
    assert kept["graph.user_items.degrees"] == "private"


def test_addresses_without_memory_are_not_resident():
    (entry,) = arrays_in(rows=torch.empty(1 << 24))
    if "resident_bytes" in entry:
        assert entry["resident_bytes"] < 1 << 20
