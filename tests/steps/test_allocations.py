"""Nothing of the size of the table is allocated in RAM by a step or an exploration of a slot table without propagation or with
sampled neighbourhoods.

NumPy is watched by tracemalloc, torch by a mode that sees every operation's results, and what compiled kernels allocate for
themselves by the resident memory of the process. The bound of the first two is a byte per cell: less than a mask.
"""

from __future__ import annotations

import ctypes
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from built import start_table, step_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gcnrec.bench.graphs import synthetic
from gcnrec.bench.memory import measured
from gcnrec.config import Job
from gcnrec.tables.rules import learning_rate
from gcnrec.training.build import explorer_of, first_table
from gcnrec.training.plan import plan_of

ROWS, WIDTH = 20_000, 64
CELLS = ROWS * WIDTH
GRAPH = synthetic(8_000, 12_000, 40_000)


@dataclass
class Largest(TorchDispatchMode):
    """The most bytes of a storage that an operation made."""

    nbytes: int = 0

    def __post_init__(self):
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self.nbytes = max(self.nbytes, leaf.untyped_storage().nbytes())
        return result


def watched(call):
    """The largest result of a torch operation, and the rise of NumPy's memory, in bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        with Largest() as largest:
            call()
        return largest.nbytes, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _return_freed_memory():
    """Make glibc give freed memory back at once, as by default: a training that ran in this process before lets it keep some."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        assert mallopt is None or mallopt(parameter, 128 << 10)


@pytest.fixture
def parts(threads, tmp_path):
    """Builds a step, its explorer and a function that takes the next step, compiled and warm."""
    threads(1)  # results are the same, and small parallel loops do not wait for busy cores
    _return_freed_memory()

    def build(policy, rule="adam", dtype="float32", propagation="none"):
        sections = {
            "model": {"width": WIDTH, "propagation": propagation, "start": "normal"},
            "table": {"budget": 0.25, "dtype": dtype},
            "sampler": {"negatives": "in_batch", "fanouts": [4]},
            "sparsity": {"policy": policy, "interval": 1 / 625},
            "optimizer": {"rule": rule},
            "train": {"batch_size": 64, "epochs": 2},
        }
        job = Job.parse(sections, [], "test")
        step = step_of(job, GRAPH)
        assert step.sampler.steps_per_epoch == 625 and step.table.num_rows == ROWS
        numbers = iter(range(625))

        def advance():
            step(step.sampler.batch(0, next(numbers)), learning_rate(job.optimizer, 1, 100))

        watched(advance)  # the watch imports on first use too
        return step, explorer_of(plan_of(job, ROWS), step, 2, tmp_path), advance

    return build


@pytest.mark.parametrize(("rule", "dtype"), [("sgd", "float32"), ("adam", "float32"), ("adam_row", "bfloat16")])
def test_a_step_allocates_for_its_batch(parts, rule, dtype):
    step, _, advance = parts("static", rule, dtype=dtype)
    torch_bytes, numpy_bytes = watched(advance)
    tile = 4 * WIDTH * 2 * 64  # the rows of 64 users and 64 items
    assert tile / 2 < torch_bytes <= 2 * tile
    assert numpy_bytes < CELLS
    assert measured(advance).peak_bytes < 4 * CELLS
    assert step.table.num_values <= step.table.max_values


def test_a_sampled_step_allocates_for_its_neighbourhood(parts):
    _, _, advance = parts("static", propagation="sampled")
    torch_bytes, numpy_bytes = watched(advance)
    rows = 4 * WIDTH * (1 + 4) * 2 * 64  # 64 users and 64 items, each with four neighbours
    assert rows / 8 < torch_bytes <= 2 * rows
    assert numpy_bytes < CELLS
    assert measured(advance).peak_bytes < 4 * CELLS


POLICIES = ["set", "rigl", "dsl", "dynamic", "sparserec", "nm"]
SLOW = [pytest.param(policy, "sampled", marks=pytest.mark.slow) for policy in ("set", "dsl", "sparserec", "nm")]
"""The explorer of each policy is the same with and without neighbours; what differs is the gradient, which two tests have."""


@pytest.mark.parametrize(
    ("policy", "propagation"),
    [*((policy, "none") for policy in POLICIES), ("rigl", "sampled"), ("dynamic", "sampled"), *SLOW],
)
def test_an_exploration_allocates_for_its_blocks(parts, policy, propagation):
    step, explorer, advance = parts(policy, propagation=propagation)
    assert explorer.after(step, 1)["grown"] > 0  # compiles
    torch_bytes, numpy_bytes = watched(lambda: explorer.after(step, 2))
    assert torch_bytes < CELLS
    assert numpy_bytes < CELLS
    assert measured(explorer.after, step, 3).peak_bytes < 4 * CELLS
    advance()


def test_the_watch_sees_a_dense_gradient_and_a_mask():
    rows = torch.zeros(ROWS, WIDTH, requires_grad=True)
    torch_bytes, _ = watched(lambda: rows[:2].sum().backward())
    assert torch_bytes >= 4 * CELLS
    assert watched(lambda: np.zeros((ROWS, WIDTH), bool))[1] >= CELLS
    assert watched(lambda: rows.detach().numpy()[0])[1] < CELLS
    assert measured(lambda: np.ones((ROWS, WIDTH), np.float32)).peak_bytes >= 4 * CELLS


def test_a_dense_table_on_disk_starts_from_noise_in_blocks(threads, tmp_path, monkeypatch):
    """It may be larger than RAM; the rows are those of one that starts in RAM."""
    threads(1)
    monkeypatch.setattr("gcnrec.tables.dense.FILLED_ROWS", 100)
    job = Job.parse({"model": {"width": WIDTH, "start": "normal"}, "table": {"placement": "disk"}}, [], "test")
    expected, made = start_table(job, GRAPH), []
    watched(lambda: torch.zeros(1).add(1))  # what a first time imports
    plan = plan_of(job, ROWS)
    tensors, arrays = watched(lambda: made.append(first_table(plan, GRAPH, None, plan.placement.memory(tmp_path))))
    assert tensors < CELLS and arrays < CELLS, f"{tensors:,} and {arrays:,} bytes"
    assert torch.equal(made[0].columns(0, WIDTH), expected.columns(0, WIDTH))
