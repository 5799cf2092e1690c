"""Steps on a GPU give the same bits in every run: no loss has an operation that adds in an order of its own."""

from __future__ import annotations

from collections import Counter

import no_gpu
import pytest

pytest.importorskip("pydantic", reason="reads jobs")

from built import start_table, step_of

from gcnrec.config import Job
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.testing import checkerboard

ATOMIC = {
    "index_add", "index_add_", "index_put", "index_put_", "index_reduce", "index_reduce_", "scatter_add", "scatter_add_", "put_",
    "embedding_dense_backward", "bincount", "histc", "_cdist_backward", "_pdist_backward", "cumsum", "_unique2", "unique_dim",
    "index_select_backward", "gather_backward", "repeat_interleave", "nll_loss2d_forward", "_segment_reduce_backward",
}  # fmt: skip
"""Operations of torch that on CUDA add floats by atomics or wait for a number (torch.use_deterministic_algorithms)."""
LOSSES = [
    ("softmax", "in_batch"), ("softmax", "uniform"), ("bsl", "in_batch"), ("bsl", "uniform"), ("bpr", "uniform"),
    ("directau", "in_batch"),
]  # fmt: skip


def asked(loss, negatives):
    """What a step asks for until it updates."""
    settings = {"name": loss, "l2": 1e-4, **({"logq": 1.0} if loss == "softmax" else {})}
    job = Job.model_validate(
        {
            "model": {"propagation": "sampled", "layers": 2, "width": 16, "start": "normal"},
            "sampler": {"fanouts": [3, 2], "negatives": negatives},
            "loss": settings,
            "optimizer": {"rule": "adam"},
            "train": {"batch_size": 24},
        }
    )
    graph = checkerboard().graph
    with no_gpu.counted() as counts:
        step = step_of(job, graph, None, PipelinedTable(start_table(job, graph), no_gpu.Device(counts)))
        first, second = (step.prepare(step.sampler.batch(0, number)) for number in range(2))
        step.announce(first)
        with counts:
            _, encoded, *gradients = step._backward(step.announce(second))
            encoded.pull(*gradients)
    return counts


@pytest.mark.parametrize(("loss", "negatives"), LOSSES)
def test_a_loss_adds_in_a_fixed_order(loss, negatives):
    counts = asked(loss, negatives)
    found = Counter({name: count for name, count in counts.dispatches.items() if name in ATOMIC})
    # Nodes of a batch and sources of a hop are all different, and so are the goals of rows of logits: one summand a cell.
    assert found - Counter(index_add_=3, scatter_add_=1 if (loss, negatives) == ("softmax", "in_batch") else 0) == Counter()
    assert counts.copies == {"upload": 1}, "all that the host gives comes at once, from pinned memory"
