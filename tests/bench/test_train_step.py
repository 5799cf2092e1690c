"""Every contender of the train-step bench takes the same step; the bench closes with the slower speedup."""

from __future__ import annotations

import json

import pytest
import torch

from gcnrec.bench import train_step
from gcnrec.bench.graphs import graph_inputs
from gcnrec.bench.train_step import CONTENDERS, Ours, exact_gradient, first_gradient, task_of

SIZE = (40, 60, 400)


def task(layers: int, num_batches: int = 1) -> train_step.Task:
    return task_of(graph_inputs(None, 8, SIZE), layers, batch_size=64, num_batches=num_batches)


def contender(name: str, of: train_step.Task):
    if name.startswith("pyg"):
        pytest.importorskip("torch_geometric")
    return CONTENDERS[name](of)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", CONTENDERS)
def test_first_gradient_is_that_of_float64(name, layers):
    of = task(layers)
    exact = torch.from_numpy(exact_gradient(of))
    assert exact.abs().max() > 1e-4
    rounding = 8 * torch.finfo(torch.float32).eps * float(exact.abs().max())  # of sums of a few hundred terms of that size
    torch.testing.assert_close(first_gradient(contender(name, of), of).double(), exact, rtol=0, atol=rounding)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "gcnrec"])
def test_gradients_still_agree_after_three_updates(name):
    # Equal gradients at the fourth step need equal rows, and so equal updates, at the three before.
    of = task(3, num_batches=4)
    ours, peer = Ours(of), contender(name, of)
    for batch in of.recipe.batches:
        expected, found = ours(ours.prepare(batch)), peer(peer.prepare(batch))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-6)


@pytest.fixture
def few_contenders(quick_bench, monkeypatch):
    """Ours and torch: the peers that every installation has. Threads are what they were afterwards."""
    kept = ("gcnrec", "torch-csr", "torch-csr-int32-symmetric", "torch-csr-horner")
    monkeypatch.setattr(train_step, "CONTENDERS", {name: CONTENDERS[name] for name in kept})
    return kept


def test_the_closing_row_is_the_slower_speedup(few_contenders):
    rows = list(train_step.run(width=16, batch_size=250, threads=1, runs=1, size=(200, 150, 3000)))
    assert json.loads(json.dumps(rows)) == rows
    closing, parts = rows[-1], [row for row in rows[:-1] if row.get("summary")]
    assert [row["bench"] for row in parts] == ["train-step-1-layer", "train-step-3-layer"]
    assert closing["bench"] == "train-step" and closing["absent"] == []
    assert closing["speedup"] == min(row["speedup"] for row in parts)
    timed = [row for row in rows if not row.get("summary")]
    assert [row["variant"] for row in timed] == 2 * list(few_contenders)
    assert all(row["units"] == 250 and row["difference"] <= row["tolerance"] for row in timed)


def test_an_absent_peer_voids_the_speedup(few_contenders, monkeypatch):
    def missing(of):
        raise ImportError("no module named peer")

    monkeypatch.setitem(train_step.CONTENDERS, "peer", missing)
    rows = list(train_step.run(width=8, layers=(1,), batch_size=100, threads=1, runs=1, size=(50, 40, 300)))
    assert rows[-1]["speedup"] is None and rows[-1]["absent"] == ["peer"]
