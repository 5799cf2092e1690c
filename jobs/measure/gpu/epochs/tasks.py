"""The graph and the steps that parts train: LightGCN on drawn neighbourhoods, one million nodes on a GPU."""

from __future__ import annotations

from functools import cache

from gcnrec.bench.contenders.epoch_task import Task, task_of
from gcnrec.bench.graphs import synthetic
from jobs.measure.gpu.bed import Bed

WIDTH, BATCH_SIZE, STEPS = 64, 2048, 20
NODES_SHARE, EDGES_PER_NODE = 10, 5
"""`Sizes.nodes` over the nodes of a step's graph: few enough for a table of each way at once."""


def task_on(bed: Bed) -> Task:
    """The same for all parts of a worker."""
    return _task(bed.sizes.nodes // NODES_SHARE)


@cache
def _task(nodes: int) -> Task:
    return task_of(synthetic(nodes // 2, nodes // 2, EDGES_PER_NODE * nodes), WIDTH, min(BATCH_SIZE, nodes // 4), STEPS)
