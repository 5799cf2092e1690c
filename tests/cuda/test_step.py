"""Whole training steps with the GPU's kernels, run on the CPU, against the same steps with the CPU's own."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

pytest.importorskip("pydantic", reason="reads jobs")

from built import start_table, step_of
from host_device import HostDevice, kernels_of_the_gpu

from gcnrec import device
from gcnrec.config import Job
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.deferred import Deferred
from gcnrec.steps.guards import Immediate
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.testing import checkerboard


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
