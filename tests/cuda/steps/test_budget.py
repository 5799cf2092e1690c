"""What a training step asks of a GPU: kernels, operations of torch, uploads and waits, counted on a device without content."""

from __future__ import annotations

import pytest

pytest.importorskip("pydantic", reason="reads jobs")

import no_gpu

from gcnrec.tables.hot_rows import Prefixes

STEPS = 6
"""The last one is counted: by then rows of two batches before are patched, and the loss of the one before is read."""
JOBS = {
    "dense": {},
    "slots": {"table": {"budget": 0.5}, "sparsity": {"policy": "static"}},
    "graphsage": {"model": {"name": "graphsage", "inputs": "both"}},
}


def counted_step(name, hot):
    """What the last step asks for, its batch announced while the one before trained."""
    with no_gpu.counted() as counts:
        step = no_gpu.step_behind(counts, hot, **JOBS[name])
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


CASES = [("dense", 13, 100, 200), ("slots", 15, 130, 200), ("graphsage", 16, 180, 300)]


@pytest.mark.parametrize("hot", [None, Prefixes(24, 5, 7)], ids=["no cache", "a cache"])
@pytest.mark.parametrize(("name", "launches", "dispatches", "views"), CASES)
def test_a_step_asks_for_no_more_than_its_budget(name, hot, launches, dispatches, views):
    counts = counted_step(name, hot)
    assert sum(counts.launches.values()) <= launches, counts.launches
    assert sum(counts.dispatches.values()) <= dispatches, counts.dispatches
    assert sum(counts.views.values()) <= views, counts.views
    assert counts.copies == {"upload": 1, "download": 2}
    assert counts.waits == {}
