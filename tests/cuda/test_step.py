"""Whole training steps with the GPU's kernels, run on the CPU, against the same steps with the CPU's own."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

pytest.importorskip("pydantic", reason="reads jobs")

from built import start_table, step_of

from gcnrec import device
from gcnrec.config import Job
from gcnrec.cuda import module
from gcnrec.cuda.ops import CudaOps
from gcnrec.cuda.spans import copy_pairs, patch
from gcnrec.ops import cpu
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.deferred import Deferred
from gcnrec.steps.guards import Immediate
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.testing import checkerboard


class HostOps(CudaOps):
    """The GPU's functions where the GPU's memory is the host's."""

    def __init__(self):
        super().__init__(torch.device("cpu"))

    def pack(self, arrays):
        return arrays

    def upload(self, packed):
        return tuple(torch.from_numpy(array) for array in packed)

    def sent(self, tensors):
        return cpu.Here([float(tensor) for tensor in tensors])


class Now:
    """A queue whose work is done when it is given."""

    def mark(self):
        return self

    def finish(self):
        """Done already."""

    def after(self, mark):
        """Done already."""


class HostDevice:
    """Transfers by the GPU's kernel, one after the other."""

    def __init__(self):
        self.compute = self.reads = self.writes = Now()

    def adopt(self, memory, length):
        """Every memory is the host's."""

    def within(self, queue):
        return nullcontext()

    def place(self, values):
        return torch.from_numpy(values)

    def empty(self, length, like):
        return torch.empty(length, dtype=like.dtype)

    def resident(self, values):
        return values.clone()

    def copy(self, queue, pairs):
        copy_pairs(pairs, max_blocks=3, by_target=queue is self.writes)

    def patch(self, earlier_E, later_L, pairs):
        patch(earlier_E, later_L, pairs)


@contextmanager
def kernels_of_the_gpu(launcher):
    """What asks for the CPU's kernels gets the GPU's."""
    launcher.launches.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "launch", launcher.launch)
        patch.setattr(cpu, "CpuOps", HostOps)
        device.ops_for.cache_clear()
        yield
    device.ops_for.cache_clear()


def job_of(propagation, rule, budget, dtype="float32", loss="softmax", neighbours="uniform"):
    return Job.model_validate(
        {
            "model": {"propagation": propagation, "layers": 2, "width": 16, "start": "normal"},
            "table": {"budget": budget, "dtype": dtype},
            "sparsity": {"policy": "static"} if budget < 1 else {},
            "sampler": {"fanouts": [3, 2], "negatives": "in_batch" if loss == "softmax" else "uniform", "neighbours": neighbours},
            "loss": {"name": loss},
            "optimizer": {"rule": rule},
            "train": {"batch_size": 40},
        }
    )


def immediately(table):
    return Immediate()


def deferred(table):
    return Deferred(device.ops_for(table.device), table.device, None)


def trained(job, wrapped, check):
    """The losses of an epoch, each batch announced while the one before trains, and the rows after it."""
    graph = checkerboard().graph
    table = start_table(job, graph)
    weights_E = np.linspace(0.5, 2.0, graph.num_edges, dtype=np.float32) if job.sampler.neighbours == "weighted" else None
    step = step_of(job, graph, weights_E, wrapped(table))
    step = replace(step, check=check(step.table))
    told = [step.train(batch, 0.02) for batch in step.batches(0, Waits())]
    losses = [loss.value for loss in chain(*told, step.check.settled())]
    rows_ND = step.table.drained().columns(0, 16).clone()
    return losses, rows_ND


CASES = [
    ("sampled", "adam", 1.0), ("sampled", "adam", 0.5), ("none", "sgd", 1.0, "float32", "bsl"),
    ("none", "adam_row", 0.5, "float32", "directau"),
    ("sampled", "adagrad_row", 0.5), ("sampled", "adam", 0.5, "bfloat16"), ("none", "adam", 1.0, "float32", "bpr"),
    ("sampled", "adam", 0.5, "float32", "softmax", "weighted"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_trains_as_the_cpu_does(case, host_launcher):
    job = job_of(*case)
    losses, rows_ND = trained(job, lambda table: table, immediately)
    with kernels_of_the_gpu(host_launcher):
        again, others_ND = trained(job, lambda table: PipelinedTable(table, HostDevice()), deferred)
    used = {name for name, _, _ in host_launcher.launches}
    assert any("copy_spans" in name for name in used) and any(name.startswith(f"gcnrec_{case[1]}") for name in used)
    # bfloat16 rounds at random, and a last bit in a gradient can turn a rounding.
    tolerance = 2e-2 if "bfloat16" in case else 1e-4
    start_ND = start_table(job, checkerboard().graph).columns(0, 16)
    assert float((rows_ND - start_ND).abs().max()) > 10 * tolerance * float(rows_ND.abs().max())  # something was learnt
    assert again == pytest.approx(losses, rel=tolerance)
    assert torch.allclose(others_ND, rows_ND, atol=tolerance * float(rows_ND.abs().max()))
