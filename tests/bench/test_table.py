"""The table bench on small graphs: parts, agreement, and a summary that compares slots with torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gcnrec.bench import table as bench
from gcnrec.bench.graphs import synthetic

SIZES = ((60, 40, 400), (90, 60, 500))


pytestmark = pytest.mark.usefixtures("quick_bench")


def task(batches=2):
    return bench.task_of(synthetic(60, 40, 400), 16, 0.25, 32, batches)


def test_rows():
    rows = list(bench.run(width=16, batch_size=32, threads=1, runs=1, sizes=SIZES))
    assert json.loads(json.dumps(rows)) == rows
    parts = [f"table-{part}-{size}" for size in (100, 150) for part in ("read", "update", "step")]
    assert [row["bench"] for row in rows if row.get("summary")] == [*parts, "table"]
    for part in parts:
        timed = {row["variant"]: row for row in rows if row["bench"] == part and not row.get("summary")}
        closing = next(row for row in rows if row["bench"] == part and row.get("summary"))
        assert len(timed) == (5 if "step" in part else 9)
        assert all(row["difference"] <= row["tolerance"] for row in timed.values())
        assert closing["ours"] in ("gcnrec-slots", "gcnrec-slots-bf16") and closing["best_peer"].startswith("torch-")
        assert closing["speedup"] == timed[closing["best_peer"]]["seconds"] / timed[closing["ours"]]["seconds"]
        assert closing["against_dense"] == timed["gcnrec-dense"]["seconds"] / timed[closing["ours"]]["seconds"]
    assert rows[-1]["speedup"] == min(row["speedup"] for row in rows[:-1] if row.get("summary"))
    assert rows[-1]["against_dense"] == min(row["against_dense"] for row in rows[:-1] if row.get("summary"))


@pytest.mark.parametrize("name", bench.CONTENDERS)
def test_every_contender_reads_the_task_and_makes_adams_first_step(name):
    """Adam's first step with no epsilon to speak of: every value moves by the learning rate against the gradient's sign."""
    given = task()
    contender, rows = bench.CONTENDERS[name](given), given.recipe.batches[0].nodes_V
    chosen, start = given.chosen(rows), given.dense()[torch.from_numpy(rows)]
    assert torch.equal(contender.read(rows), start)
    contender.update_of(rows, given.grads[0], 1)()
    exact = (start - given.recipe.optimizer.learning_rate * given.grads[0].sign()) * chosen
    slack = torch.finfo(contender.dtype).eps * exact.abs() + 1e-6
    assert ((contender.read(rows) * chosen - exact).abs() <= slack).all()


def test_chosen_cells_are_those_that_the_slots_store():
    given = task()
    rows = np.array([0, 3, 4, 99])
    assert torch.equal(given.chosen(rows), given.dense()[torch.from_numpy(rows)] != 0)
    assert given.chosen(np.arange(100)).sum(1).eq(4).all()


def test_a_contender_that_disagrees_is_refused(monkeypatch):
    class Off(bench.Ours):
        def read(self, rows_R):
            return super().read(rows_R) + 1e-3

    def dense_but_off(given):
        table = bench.DenseTable(given.dense(), given.recipe.plan.rule.state_width(given.width))
        return Off(given, table, torch.float32)

    monkeypatch.setitem(bench.CONTENDERS, "torch-off", dense_but_off)
    with pytest.raises(RuntimeError, match="'torch-off' must agree with 'gcnrec-dense'"):
        list(bench.measured_part(task(3), "read", 1))
