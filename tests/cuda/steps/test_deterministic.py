"""Steps on a GPU give the same bits in every run: no loss or model has an operation that adds in an order of its own."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("pydantic", reason="reads jobs")

import no_gpu

ATOMIC = {
    "index_add", "index_add_", "index_put", "index_put_", "index_reduce", "index_reduce_", "scatter_add", "scatter_add_", "put_",
    "embedding_dense_backward", "bincount", "histc", "_cdist_backward", "_pdist_backward", "cumsum", "_unique2", "unique_dim",
    "index_select_backward", "gather_backward", "repeat_interleave", "nll_loss2d_forward", "_segment_reduce_backward",
}  # fmt: skip
"""Operations of torch that on CUDA add floats by atomics or wait for a number (torch.use_deterministic_algorithms)."""
CASES = [
    ("softmax", "in_batch", "lightgcn"), ("softmax", "uniform", "lightgcn"), ("bsl", "in_batch", "lightgcn"),
    ("bsl", "uniform", "lightgcn"), ("bpr", "uniform", "lightgcn"), ("directau", "in_batch", "lightgcn"),
    ("softmax", "in_batch", "graphsage"), ("bsl", "uniform", "graphsage"), ("softmax", "in_batch", "pinsage"),
]  # fmt: skip


MODELS = {
    "lightgcn": {},
    "graphsage": {"name": "graphsage", "inputs": "both"},
    "pinsage": {"name": "pinsage", "inputs": "both"},
}


ALL_DIFFERENT = {
    "lightgcn": {"index_add_": 3}, "graphsage": {"index_add_": 1, "index_add": 2}, "pinsage": {"index_add_": 1, "index_add": 2}
}  # fmt: skip
"""Sums at nodes of a batch, sources of a hop and targets of a layer, one summand a cell; so are those at goals of logits."""


def asked(loss, negatives, model):
    """What a step asks for until it updates."""
    settings = {"name": loss, **({"logq": 1.0} if loss == "softmax" else {})}
    with no_gpu.counted() as counts:
        step = no_gpu.step_behind(counts, loss=settings, sampler={"negatives": negatives}, model=MODELS[model])
        first, second = (step.prepare(step.sampler.batch(0, number)) for number in range(2))
        step.announce(first)
        with counts:
            _, encoded, *gradients = step._backward(step.announce(second))
            encoded.pull(*gradients)
    return counts


@pytest.mark.parametrize(("loss", "negatives", "model"), CASES)
def test_a_step_adds_in_a_fixed_order(loss, negatives, model):
    counts = asked(loss, negatives, model)
    found = Counter({name: count for name, count in counts.dispatches.items() if name in ATOMIC})
    goals = {"scatter_add_": 1 if (loss, negatives) == ("softmax", "in_batch") else 0}
    assert found - Counter(ALL_DIFFERENT[model]) - Counter(goals) == Counter()
    assert counts.copies == {"upload": 1}, "all that the host gives comes at once, from pinned memory"
