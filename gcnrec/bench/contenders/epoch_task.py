"""The task of bench `epoch`, and our contenders: a stretch of LightGCN steps on sampled neighbourhoods.

A step is put together from its parts, not from a job, so that it can be built where pydantic is not installed.
Letters: N nodes of the graph (users, then items), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from gcnrec.bench.contenders.gathered import Pageable, Pinned, Prefetched
from gcnrec.device import ops_for
from gcnrec.graph import BipartiteGraph
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.models.objective import Objective, objective_of
from gcnrec.queues import Device
from gcnrec.random import Stage, generator, normal
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.minibatches import IN_TRAINING, Drawing, Waits, beside_a_gpu
from gcnrec.sampling.sampler import EdgeSampler
from gcnrec.steps.deferred import Deferred
from gcnrec.steps.guards import Check, Immediate
from gcnrec.steps.step import Step, Uploaded
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import DenseTable, StepTable
from gcnrec.tables.hot_rows import Prefixes, hottest
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.rules import Adam
from gcnrec.tables.slots import SlotTable

FANOUTS = (10, 10)
TEMPERATURE, L2 = 0.12, 1e-5
RATE, BETA1, BETA2, EPSILON = 1e-2, 0.9, 0.999, 1e-8
BUDGET = 0.25
"""Share of the values that the slot table stores."""
CACHE_SHARE = 0.1
"""Share of the table's bytes that `gcnrec-host-cache` keeps on the GPU."""
SERIAL = "gcnrec-host-serial"
"""The table of `tables_of` for steps without announced rows."""
_START_SCALE = 0.1


@dataclass(frozen=True)
class Task:
    """The graph, the rows at the start, and `steps` steps of `batch_size` positives, or fewer where the graph has fewer edges."""

    graph: BipartiteGraph
    start_ND: torch.Tensor
    batch_size: int
    steps: int

    @property
    def width(self) -> int:
        return self.start_ND.shape[1]

    @property
    def positives(self) -> int:
        """Positives of a stretch."""
        return min(self.steps * self.batch_size, self.graph.num_edges)


@dataclass(frozen=True)
class Stretch:
    """The losses of a contender's stretch. `whole`: it trains every value of its rows."""

    losses: list[float]
    whole: bool = True

    @property
    def last(self) -> float:
        """Mean loss of the last quarter."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 4) :]))


def task_of(graph: BipartiteGraph, width: int, batch_size: int, steps: int) -> Task:
    """The stretch of `steps` steps from normal rows (N, width), the same for every variant."""
    start_ND = torch.from_numpy(normal(0, Stage.INIT, 0, (graph.num_nodes, width))).mul_(_START_SCALE)
    return Task(graph, start_ND, batch_size, steps)


def difference(expected: Stretch, found: Stretch) -> float:
    """The error of the loss at the first step or after the stretch, the larger one, as a share of the expected fall.

    Draws differ, so this is noise where all is right; a model that does not learn differs by 1. Tables that store a part of
    the values are another model: their loss must fall by at least a quarter as much.
    """
    fell = expected.losses[0] - expected.last
    if not fell > 0:
        return float("inf")
    first, last = abs(found.losses[0] - expected.losses[0]) / fell, abs(found.last - expected.last) / fell
    if found.whole:
        return max(first, last)
    return first if found.losses[0] - found.last >= fell / 4 else float("inf")


def dense(task: Task) -> DenseTable:
    """A dense table with Adam's state that holds the start of `task`."""
    return DenseTable(task.start_ND, _rule().state_width(task.width))


def slots(task: Task) -> SlotTable:
    """`BUDGET` of the start's values: as many columns of every row, one of each group of neighbours, drawn by row."""
    group, num_rows = round(1 / BUDGET), len(task.start_ND)
    count = task.width // group
    columns_NC = np.arange(0, task.width, group) + generator(0, Stage.EXPLORE).integers(0, group, (num_rows, count))
    values_NC = np.take_along_axis(task.start_ND.numpy(), columns_NC, 1)
    moments = _rule().state_width(1)
    table = SlotTable(num_rows, task.width, values_NC.size, (moments, 0))
    state = np.zeros((moments, values_NC.size), np.float32), np.zeros((num_rows, 0), np.float32)
    with table.rebuild() as rebuild:
        counts_N, columns_X = np.full(num_rows, count), columns_NC.astype(np.uint8).reshape(-1)
        rebuild.write(SlotBlock(0, counts_N, columns_X, values_NC.reshape(-1), *state))
    return table


def tables_of(task: Task, device: torch.device, queues: Device) -> dict[str, Callable[[], StepTable]]:
    """Tables for steps on `device`, by every way of bringing rows; on a CPU, which a test may name, nothing is pinned."""
    every = Prefixes(task.graph.num_users, task.graph.num_users, task.graph.num_items)
    return {
        "gcnrec-host-overlap": lambda: PipelinedTable(dense(task), queues),
        SERIAL: lambda: PipelinedTable(dense(task), queues),
        "gcnrec-host-cache": lambda: _cached(task, queues),
        "gcnrec-device": lambda: PipelinedTable(dense(task), queues, every),
        "cpu-gather-pageable": lambda: Pageable(dense(task), device),
        "cpu-gather-pinned": lambda: Pinned(dense(task), device),
        "cpu-gather-prefetch": lambda: Prefetched(dense(task), device),
    }


def _cached(task: Task, queues: Device) -> PipelinedTable:
    table = dense(task)
    budget = int(CACHE_SHARE * (table.value_bytes + table.state_bytes))
    return PipelinedTable(table, queues, hottest(task.graph, lambda rows: table.extent(rows).nbytes, budget))


Batches = Callable[[Step, int], Iterator[Uploaded]]
"""The batches of an epoch, in order."""


def ahead(step: Step, epoch: int) -> Iterator[Uploaded]:
    """Batches drawn and prepared by a thread, their rows announced to the table, as in training."""
    return step.batches(epoch, Waits())


def serially(step: Step, epoch: int) -> Iterator[Uploaded]:
    """Batches drawn on demand with all cores; nothing is announced."""
    return (step.upload(step.prepare(batch)) for batch in step.sampler.epoch(epoch))


class Ours:
    """`gcnrec.steps.step.Step` on `table`. A call trains the next stretch: an epoch of as many edges, in a fresh order."""

    def __init__(self, task: Task, table: StepTable, batches: Batches = ahead, objective: Objective | None = None) -> None:
        self._step = step_of(task, table, objective)
        self._batches, self._epoch = batches, 0
        self._whole = not isinstance(table, SlotTable)

    def __call__(self) -> Stretch:
        known = [self._step.train(batch, RATE) for batch in self._batches(self._step, self._epoch)]
        losses = [loss.value for loss in chain(*known, self._step.check.settled())]
        self._epoch += 1
        if torch.cuda.is_available() and not isinstance(self._step.table, DenseTable | SlotTable):
            torch.cuda.synchronize()  # synchronize: the clock stops after all work of the table's device
        return Stretch(losses, self._whole)


def on_device(task: Task, device: torch.device, queues: Device) -> dict[str, Callable[[], Callable[[], Stretch]]]:
    """The stretch on `device`, with every table of `tables_of`."""
    tables = tables_of(task, device, queues)
    return {name: partial(_ours, task, table, serially if name == SERIAL else ahead) for name, table in tables.items()}


def _ours(task: Task, table: Callable[[], StepTable], batches: Batches) -> Ours:
    return Ours(task, table(), batches)


def step_of(task: Task, table: StepTable, objective: Objective | None = None) -> Step:
    """LightGCN with a hop for each of `FANOUTS`, softmax in the batch of cosines, lazy Adam."""
    graph = task.graph
    # half an edge less than the stretch has: rounding must not add an edge, and with it a step
    fraction = (task.positives - 0.5) / graph.num_edges
    sampler = EdgeSampler(graph, None, task.batch_size, 0, None, False, 0, fraction, NeighbourSampler(graph, FANOUTS, seed=0))
    encoder = SampledLightGcn(Hop(graph), len(FANOUTS), task.width)
    check, drawing = pace_of(table.device, None)
    return Step(sampler, encoder, table, _rule(), objective or softmax(graph), None, check=check, drawing=drawing)


def pace_of(device: torch.device, layer_optimizer: torch.optim.Optimizer | None) -> tuple[Check, Drawing]:
    """How steps are checked and on which cores batches are drawn, as training on `device` has it."""
    if device.type == "cuda":
        return Deferred(ops_for(device), device, layer_optimizer), beside_a_gpu()
    return Immediate(), IN_TRAINING


def softmax(graph: BipartiteGraph) -> Objective:
    """In-batch softmax of cosines, the loss of every variant."""
    loss = SimpleNamespace(
        name="softmax", score="cosine", temperature=TEMPERATURE, logq=0.0, precision="float32", l2=L2, negative_weight=None
    )
    sampler = SimpleNamespace(negatives="in_batch")
    return objective_of(cast(Any, loss), cast(Any, sampler), graph, weighted=False)


def _rule() -> Adam:
    return Adam(BETA1, BETA2, EPSILON)
