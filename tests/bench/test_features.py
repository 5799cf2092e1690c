"""The features bench on small tables: its rows, and that every variant reads what was asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gcnrec.bench import features as bench

pytestmark = pytest.mark.usefixtures("quick_bench")


def test_rows(monkeypatch):
    assert bench.COLUMNS == (100, 300, 602, 1024)
    monkeypatch.setattr(bench, "COLUMNS", (7, 100))
    rows = list(bench.run(threads=1, runs=1, num_rows=300, batch=40))
    assert json.loads(json.dumps(rows)) == rows
    assert [row["bench"] for row in rows] == ["features-7"] * 6 + ["features-100"] * 6 + ["features"]
    assert {row["units"] for row in rows if "units" in row} == {40} and rows[-1]["speedup"] is not None


@pytest.mark.parametrize("columns", [7, 64])
def test_every_variant_reads_the_rows(columns):
    task = bench.task_of(50, columns, 20)
    assert len(task.index_R) == 20 and (np.diff(task.index_R) > 0).all()
    expected = torch.from_numpy(np.stack([task.rows_NF[row] for row in task.index_R]))
    tiles = {variant.name: variant.run(variant.setup()) for variant in bench.variants(task)}
    assert all(torch.equal(tile, expected) for tile in tiles.values())
    assert [*tiles] == ["gcnrec", "gcnrec-adopted", "numpy-index", "numpy-take", "torch-index-select"]
