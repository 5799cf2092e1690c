"""Training steps with the table in host memory, brought in every way, and in the GPU's own memory.

`epoch`: LightGCN steps on drawn neighbourhoods as training runs them, a thread drawing ahead. `epoch-drawn`: the same with
batches drawn beforehand, so that transfers and compute are all there is. `epoch-curve`: read rows, compute, update, write,
with so much compute that transfers take from a quarter of its time to four times as long.
Letters: N rows of the table, R rows of a step, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.contenders.epoch_task import EPSILON, RATE, Ours, Task, ahead, dense, serially, step_of, task_of
from gcnrec.bench.contenders.gathered import Pageable, Pinned, Prefetched
from gcnrec.bench.graphs import synthetic
from gcnrec.device import pipeline_of
from gcnrec.queues import Device
from gcnrec.rows import Ticket
from gcnrec.sampling.sampler import Batch
from gcnrec.steps.step import Step
from gcnrec.tables.dense import DenseTable, StepTable
from gcnrec.tables.hot_rows import Prefixes, hottest
from gcnrec.tables.pipelined import ROW_UNIT, PipelinedTable
from gcnrec.tables.rules import Adam
from jobs.measure.gpu.bed import Bed, Tell, Work, race, spread_rows, told
from jobs.measure.gpu.plain import PlainDevice

SECONDS = 90
WIDTH, BATCH_SIZE, STEPS = 64, 2048, 20
NODES_SHARE, EDGES_PER_NODE = 10, 5
"""One node in so many of `Sizes.nodes`; few enough that every way has a table of its own."""
CACHE_SHARE = 0.1
TOLERANCE = 0.01
"""Losses of all ways may differ by this share, since sums are added in other orders; where rows come one step old, the first."""
RATIOS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.5, 2.0, 4.0)
"""Seconds of transfers over seconds of compute, as far as steps without a product are short enough."""
CURVE_ROWS, CURVE_STEPS, MATRIX = 1 << 17, 12, 1024
MOST_PRODUCTS = 4096
"""A product that noise makes look free must not make a step endless."""


def run(bed: Bed, tell: Tell) -> None:
    queues: Device = pipeline_of(bed.device) if bed.device.type == "cuda" else PlainDevice()
    nodes = bed.sizes.nodes // NODES_SHARE
    task = task_of(synthetic(nodes // 2, nodes // 2, EDGES_PER_NODE * nodes), WIDTH, min(BATCH_SIZE, nodes // 4), STEPS)
    try:
        _curve(bed, tell, task, queues)
        bed.finish()
        _epochs(bed, tell, task, queues)
    finally:
        bed.finish()
        if bed.device.type == "cuda":
            queues.close()


def ways(task: Task, bed: Bed, queues: Device) -> dict[str, Callable[[], StepTable]]:
    """Every way to a table for steps on the device."""
    every = Prefixes(task.graph.num_users, task.graph.num_users, task.graph.num_items)
    return {
        "gcnrec-host-overlap": lambda: PipelinedTable(dense(task), queues),
        "gcnrec-host-serial": lambda: PipelinedTable(dense(task), queues),
        "gcnrec-host-cache": lambda: _cached(task, dense(task), queues),
        "gcnrec-device": lambda: PipelinedTable(dense(task), queues, every),
        "cpu-gather-pageable": lambda: Pageable(dense(task), bed.device),
        "cpu-gather-pinned": lambda: Pinned(dense(task), bed.device),
        "cpu-gather-prefetch": lambda: Prefetched(dense(task), bed.device),
    }


def _cached(task: Task, table: DenseTable, queues: Device) -> PipelinedTable:
    budget = int(CACHE_SHARE * (table.value_bytes + table.state_bytes))
    return PipelinedTable(table, queues, hottest(task.graph, lambda rows_H: ROW_UNIT * sum(table.sizes(rows_H)), budget))


def _epochs(bed: Bed, tell: Tell, task: Task, queues: Device) -> None:
    """Both ways to batches; tables are made anew, so that losses can be compared."""
    step = step_of(task, dense(task))
    batches = list(step.sampler.epoch(0))
    rows = float(np.mean([len(batch.rows_R) for batch in batches]))
    facts = {"nodes": task.graph.num_nodes, "rows_per_step": rows, "steps": len(batches), "width": task.width}
    drawn = {True: partial(announced, batches), False: partial(unannounced, batches)}
    for bench, (early, late) in {"epoch": (ahead, serially), "epoch-drawn": (drawn[True], drawn[False])}.items():
        losses: dict[str, list[float]] = {}
        works: dict[str, Work] = {}
        for name, way in ways(task, bed, queues).items():
            contender = Ours(task, way(), late if name == "gcnrec-host-serial" else early)
            works[name] = partial(_stretch, contender, losses, name)
        timings = race(bed, tell, works, runs=3)
        moved = 2 * len(batches) * rows * 4 * 3 * task.width
        told(tell, bench, timings, task.positives, moved, **facts)
        _require_alike(losses)


def _stretch(contender: Ours, losses: dict[str, list[float]], name: str, run: int) -> None:
    losses.setdefault(name, contender().losses)  # those of the first stretch


def announced(batches: list[Batch], step: Step, epoch: int) -> Iterator[Batch]:
    """The same batches in every epoch, their rows announced one step before."""
    ticket = step.table.prefetch(batches[0].rows_R)
    for batch, later in zip(batches, [*batches[1:], None], strict=True):
        current = replace(batch, step=batch.step + epoch * len(batches), ticket=ticket)
        if later is not None:
            ticket = step.table.prefetch(later.rows_R)
        yield current


def unannounced(batches: list[Batch], step: Step, epoch: int) -> Iterator[Batch]:
    for batch in batches:
        yield replace(batch, step=batch.step + epoch * len(batches))


def _require_alike(losses: dict[str, list[float]]) -> None:
    expected = next(iter(losses.values()))
    for name, found in losses.items():
        if name == "cpu-gather-prefetch":
            found, expected = found[:1], expected[:1]
        if not np.allclose(found, expected, rtol=TOLERANCE, atol=0.0):
            raise RuntimeError(f"{name} trains otherwise: losses {found[:3]} .., expected {expected[:3]} ..")


@dataclass
class Walk:
    """Steps that read rows, compute `products` products of matrices beside, update the rows and write them. `early`: rows are
    announced one step before. One call is `CURVE_STEPS` steps."""

    table: StepTable
    sets: list[NDArray[np.int64]]
    matrix: torch.Tensor
    early: bool
    products: int = 0
    step: int = 0

    def __call__(self, run: int) -> None:
        rule, out = Adam(0.9, 0.999, EPSILON), torch.empty_like(self.matrix)
        later = self._ticket(0)
        for index in range(CURVE_STEPS):
            ticket = later
            if index + 1 < CURVE_STEPS:
                later = self._ticket(index + 1)
            tile_RD = self.table.decode(self.table.read(ticket, with_state=False))
            for _ in range(self.products):
                torch.mm(self.matrix, self.matrix, out=out)
            self.step += 1
            grad = self.table.stored(ticket, tile_RD)
            self.table.write(rule.update(self.table.read(ticket, with_state=True), grad, self.step, RATE))

    def _ticket(self, index: int) -> Ticket:
        rows_R = self.sets[index % len(self.sets)]
        return self.table.prefetch(rows_R) if self.early else Ticket(rows_R)


def _curve(bed: Bed, tell: Tell, task: Task, queues: Device) -> None:
    """Transfers and compute are timed by themselves first; then every way at every ratio that compute can be made long for."""
    num_rows = task.graph.num_nodes
    count = min(CURVE_ROWS, num_rows // 4)
    sets = [spread_rows(bed, num_rows, count, seed).cpu().numpy() for seed in range(CURVE_STEPS)]
    side = min(MATRIX, bed.sizes.matrix)
    matrix = torch.randn(side, side, device=bed.device) / side**0.5
    walks = {
        name: Walk(way(), sets, matrix, early=name != "gcnrec-host-serial")
        for name, way in ways(task, bed, queues).items()
        if name not in ("gcnrec-host-cache", "cpu-gather-pageable")
    }
    facts: dict[str, Any] = {"rows_per_step": count, "steps": CURVE_STEPS, "width": task.width}
    transfer, compute, product = _alone(bed, tell, walks)
    wanted = {min(max(0, round((transfer / ratio - compute) / product)), MOST_PRODUCTS) for ratio in RATIOS}
    for products in sorted(wanted | {0}):
        for walk in walks.values():
            walk.products = products
        timings = race(bed, tell, {name: walk.__call__ for name, walk in walks.items()}, runs=3)
        if "gcnrec-device" not in timings:
            continue
        measured = transfer / timings["gcnrec-device"].wall_seconds
        moved = 2.0 * CURVE_STEPS * count * 4 * 3 * task.width
        told(tell, "epoch-curve", timings, CURVE_STEPS * count, moved, products=products, ratio=measured, **facts)


def _alone(bed: Bed, tell: Tell, walks: dict[str, Walk]) -> tuple[float, float, float]:
    """Seconds of a call: what transfers add where nothing overlaps, compute without a product, a product in every step."""
    walk = walks["gcnrec-device"]
    bare = {name: walks[name].__call__ for name in ("gcnrec-host-serial", "gcnrec-device")}
    timings = race(bed, tell, bare, runs=5)
    walk.products = 16
    longer = race(bed, tell, {"gcnrec-device": walk.__call__}, runs=5)
    walk.products = 0
    compute = timings["gcnrec-device"].wall_seconds
    transfer = max(timings["gcnrec-host-serial"].wall_seconds - compute, 1e-6)
    product = max(longer["gcnrec-device"].wall_seconds - compute, 1e-6) / 16
    return transfer, compute, product
