"""Steps that workers share, with the GPU's kernels run on the CPU: as with the CPU's own, and the same bits for each number."""

from __future__ import annotations

import numba
import pytest
import torch

pytest.importorskip("pydantic", reason="reads jobs")

from built import start_table, step_of
from fake_world import run_workers
from host_device import HostDevice, kernels_of_the_gpu

from gcnrec.config import Job
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.follower import Follower
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dealt.staged import StagedShards
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.testing import checkerboard
from gcnrec.training.build import parted, shards_of
from gcnrec.training.plan import plan_of

GRAPH = checkerboard().graph
CASES = {
    "dense": {"loss": {"name": "bsl"}},
    "slots": {
        "table": {"budget": 0.5}, "sparsity": {"policy": "static"}, "sampler": {"negatives": "uniform"}, "loss": {"name": "bpr"},
    },
}  # fmt: skip


def job_of(**sections):
    common = {
        "model": {"propagation": "none", "width": 16, "start": "normal"},
        "optimizer": {"rule": "adam"},
        "train": {"batch_size": 40, "parts": 4, "device": "cpu"},
    }
    return Job.parse({**common, **sections}, [], "test")


def behind(shards):
    return StagedShards(shards, torch.device("cpu"), lambda share: PipelinedTable(share, HostDevice()))


def led(world, job, wrapped):
    """On the leader the losses of an epoch and the rows after it; others follow."""
    numba.set_num_threads(1)
    shards, host = wrapped(shards_of(plan_of(job, GRAPH.num_nodes))), None if world.rank else start_table(job, GRAPH)
    table = ExchangedTable(world, shards, host)
    step = parted(step_of(job, GRAPH, table=table), table, world, job.train.parts)
    if world.rank:
        Follower(step).follow()
        return None
    losses = [loss.value for batch in step.batches(0, Waits()) for loss in step.train(batch, 0.02)]
    rows_ND = step.table.drained().columns(0, 16).clone()
    world.close()
    return losses, rows_ND


@pytest.mark.parametrize("case", CASES)
def test_workers_of_gpus_train_as_workers_on_cpus_do(case, host_launcher):
    job = job_of(**CASES[case])
    (losses, rows_ND), *_ = run_workers(1, lambda world: led(world, job, lambda shards: shards))
    with kernels_of_the_gpu(host_launcher):
        one, two = (run_workers(size, lambda world: led(world, job, behind))[0] for size in (1, 2))
    used = {name for name, _, _ in host_launcher.launches}
    for kernel in ("copy_spans", "gcnrec_reduce", "gcnrec_gather", "gcnrec_adam"):
        assert any(kernel in name for name in used), used
    assert one[0] == two[0] and torch.equal(one[1], two[1])
    start_ND, scale = start_table(job, GRAPH).columns(0, 16), float(rows_ND.abs().max())
    assert float((rows_ND - start_ND).abs().max()) > 1e-3 * scale  # something was learnt
    assert one[0] == pytest.approx(losses, rel=1e-4) and torch.allclose(one[1], rows_ND, atol=1e-4 * scale)
