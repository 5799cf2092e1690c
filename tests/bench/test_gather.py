"""The gather bench on a small table: its rows, what it compares, and that a wrong tile does not count."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gcnrec.bench import gather as bench
from gcnrec.bench.harness import measure
from gcnrec.rows import Ticket

pytestmark = pytest.mark.usefixtures("quick_bench")


def test_rows(monkeypatch):
    monkeypatch.setattr(bench, "device_or_none", lambda: None)
    rows = list(bench.run(threads=1, runs=1, num_rows=500, batch=40))
    assert json.loads(json.dumps(rows)) == rows
    assert [row["bench"] for row in rows] == ["gather-64"] * 6 + ["gather-128"] * 6 + ["gather"]
    assert [row["variant"] for row in rows[:5]] == ["gcnrec", "gcnrec-slots", "torch-index-select", "torch-index", "numpy-take"]
    assert all(row["difference"] == 0 for row in rows if "variant" in row) and rows[0]["units"] == 40
    assert rows[-1]["summary"] and rows[-1]["speedup"] is not None


def test_the_table_is_a_quarter_full_and_both_forms_are_equal():
    task = bench.task_of(300, 64, 50)
    assert (task.dense_ND.count_nonzero(1) == 16).all() and task.slots.num_values == 300 * 16
    assert torch.equal(task.slots.decode(task.slots.read(Ticket(np.arange(300)), with_state=False)), task.dense_ND)
    assert (np.diff(task.rows_R) > 0).all() and len(task.rows_R) == 50


def test_tiles_for_a_device():
    """The same functions as on a GPU, on the only device that is always there."""
    task = bench.task_of(300, 128, 50)
    rows = list(measure("gather-to-device", bench.to_device(task, torch.device("cpu")), 50, bench.difference, 0.0, runs=1))
    assert [row["variant"] for row in rows[:-1]] == ["gcnrec-zero-copy", "torch-index-to-device", "torch-index-select-pinned"]


def test_a_wrong_tile_does_not_count():
    tile = torch.ones(3, 4)
    other = tile.clone()
    other[2, 3] = 0
    assert bench.difference(tile, tile.clone()) == 0 and bench.difference(tile, other) == 1
