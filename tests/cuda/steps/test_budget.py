"""What a training step asks of a GPU: kernels, operations of torch, uploads and waits, counted on a device without content."""

from __future__ import annotations

from dataclasses import replace

import no_gpu
import pytest

pytest.importorskip("pydantic", reason="reads jobs")

from built import start_table, step_of

from gcnrec.config import Job
from gcnrec.device import ops_for
from gcnrec.steps.deferred import Deferred
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.testing import checkerboard

STEPS = 6
"""The last one is counted: by then rows of two batches before are patched, and the loss of the one before is read."""


def counted_step(table, hot):
    """What the last step asks for, its batch announced while the one before trained."""
    job = Job.model_validate(
        {
            "model": {"propagation": "sampled", "layers": 2, "width": 64, "start": "normal"},
            "table": {"budget": 0.5} if table == "slots" else {},
            "sparsity": {"policy": "static"} if table == "slots" else {},
            "sampler": {"fanouts": [10, 10]},
            "loss": {"name": "softmax", "l2": 1e-4},
            "optimizer": {"rule": "adam"},
            "train": {"batch_size": 24},
        }
    )
    graph = checkerboard().graph
    with no_gpu.counted() as counts:
        step = step_of(job, graph, None, PipelinedTable(start_table(job, graph), no_gpu.Device(counts), hot))
        step = replace(step, check=Deferred(ops_for(no_gpu.DEVICE), no_gpu.DEVICE, None))
        batches = [step.prepare(step.sampler.batch(0, number)) for number in range(STEPS + 1)]
        current = step.announce(batches[0])
        for number, later in enumerate(batches[1:]):
            with counts:
                counts.clear()
                coming = step.announce(later)
                told = step.train(current, 0.01)
            assert [loss.step for loss in told] == ([number] if number else [])
            current = coming
    return counts


@pytest.mark.parametrize("hot", [None, Prefixes(24, 5, 7)], ids=["no cache", "a cache"])
@pytest.mark.parametrize(("table", "launches", "dispatches"), [("dense", 13, 100), ("slots", 15, 130)])
def test_a_step_asks_for_no_more_than_its_budget(table, hot, launches, dispatches):
    counts = counted_step(table, hot)
    assert sum(counts.launches.values()) <= launches, counts.launches
    assert sum(counts.dispatches.values()) <= dispatches, counts.dispatches
    assert sum(counts.views.values()) <= 200, counts.views
    assert counts.copies == {"upload": 1, "download": 2}
    assert counts.waits == {}
