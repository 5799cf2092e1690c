"""Training steps with the table in host memory, brought in every way, and in the GPU's own memory.

`epoch`: LightGCN steps on drawn neighbourhoods as training runs them, a thread drawing ahead. `epoch-drawn`: the same with
batches drawn beforehand, so that transfers and compute are all there is. `epoch-curve`: read rows, compute, update, write,
with so much compute that transfers take from a quarter of its time to four times as long.
Letters: N rows of the table, R rows of a step, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.contenders.epoch_task import (
    EPSILON,
    RATE,
    SERIAL,
    Ours,
    Task,
    ahead,
    dense,
    serially,
    step_of,
    tables_of,
    task_of,
)
from gcnrec.bench.graphs import synthetic
from gcnrec.device import pipeline_of
from gcnrec.queues import Device
from gcnrec.rows import Ticket
from gcnrec.sampling.sampler import Batch
from gcnrec.steps.step import Step
from gcnrec.tables.dense import StepTable
from gcnrec.tables.rules import Adam
from jobs.measure.gpu.bed import Bed, Work, race, report_timings, spread_rows
from jobs.measure.gpu.plain import PlainDevice

SECONDS = 90
WIDTH, BATCH_SIZE, STEPS = 64, 2048, 20
NODES_SHARE, EDGES_PER_NODE = 10, 5
"""`Sizes.nodes` over the nodes of a step's graph: few enough for a table of each way at once."""
TOLERANCE = 0.01
"""Losses of all ways may differ by this share, since sums are added in other orders; where rows come one step old, the first."""
RATIOS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.5, 2.0, 4.0)
"""Seconds of transfers over seconds of compute, as far as steps without a product are short enough."""
CURVE_ROWS, CURVE_STEPS, MATRIX = 1 << 17, 12, 1024
MOST_PRODUCTS = 4096
"""A product that noise makes look free must not make a step endless."""


def run(bed: Bed) -> None:
    queues: Device = pipeline_of(bed.device) if bed.device.type == "cuda" else PlainDevice()
    nodes = bed.sizes.nodes // NODES_SHARE
    task = task_of(synthetic(nodes // 2, nodes // 2, EDGES_PER_NODE * nodes), WIDTH, min(BATCH_SIZE, nodes // 4), STEPS)
    try:
        _curve(bed, task, queues)
        bed.finish()
        _epochs(bed, task, queues)
    finally:
        bed.finish()
        if bed.device.type == "cuda":
            queues.close()


def _epochs(bed: Bed, task: Task, queues: Device) -> None:
    """Steps on batches drawn in time and drawn beforehand; tables are new, so that losses can be compared."""
    step = step_of(task, dense(task))
    batches = list(step.sampler.epoch(0))
    rows = float(np.mean([len(batch.rows_R) for batch in batches]))
    facts = {"nodes": task.graph.num_nodes, "rows_per_step": rows, "steps": len(batches), "width": task.width}
    drawn = partial(announced, batches), partial(unannounced, batches)
    for bench, (early, late) in {"epoch": (ahead, serially), "epoch-drawn": drawn}.items():
        losses: dict[str, list[float]] = {}
        works: dict[str, Work] = {}
        for name, table in tables_of(task, bed.device, queues).items():
            contender = Ours(task, table(), late if name == SERIAL else early)
            works[name] = partial(_stretch, contender, losses, name)
        timings = race(bed, works, runs=3)
        moved = 2 * len(batches) * rows * 4 * 3 * task.width
        report_timings(bed, bench, timings, task.positives, moved, **facts)
        _require_alike(losses)


def _stretch(contender: Ours, losses: dict[str, list[float]], name: str, run: int) -> None:
    losses.setdefault(name, contender().losses)  # of the first stretch


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
            raise RuntimeError(f"{name} must have the losses {expected[:3]} .. in its first steps, got {found[:3]} ..")


@dataclass
class Walk:
    """Steps that read rows, compute `products` products of matrices, update the rows and write them. `early`: rows are
    announced one step before. A call is `CURVE_STEPS` steps."""

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


def _curve(bed: Bed, task: Task, queues: Device) -> None:
    """Time transfers and compute alone, then every table at every ratio that products can reach."""
    num_rows = task.graph.num_nodes
    count = min(CURVE_ROWS, num_rows // 4)
    sets = [spread_rows(bed, num_rows, count, seed).cpu().numpy() for seed in range(CURVE_STEPS)]
    side = min(MATRIX, bed.sizes.matrix)
    matrix = torch.randn(side, side, device=bed.device) / side**0.5
    walks = {
        name: Walk(table(), sets, matrix, early=name != SERIAL)
        for name, table in tables_of(task, bed.device, queues).items()
        if name not in ("gcnrec-host-cache", "cpu-gather-pageable")
    }
    facts: dict[str, Any] = {"rows_per_step": count, "steps": CURVE_STEPS, "width": task.width}
    transfer, compute, product = _alone(bed, walks)
    wanted = {min(max(0, round((transfer / ratio - compute) / product)), MOST_PRODUCTS) for ratio in RATIOS}
    for products in sorted(wanted | {0}):
        for walk in walks.values():
            walk.products = products
        timings = race(bed, {name: walk.__call__ for name, walk in walks.items()}, runs=3)
        if "gcnrec-device" not in timings:
            continue
        measured = transfer / timings["gcnrec-device"].wall_seconds
        moved = 2.0 * CURVE_STEPS * count * 4 * 3 * task.width
        report_timings(bed, "epoch-curve", timings, CURVE_STEPS * count, moved, products=products, ratio=measured, **facts)


def _alone(bed: Bed, walks: dict[str, Walk]) -> tuple[float, float, float]:
    """Seconds of a call: what transfers add where nothing overlaps, compute without a product, a product in every step."""
    walk = walks["gcnrec-device"]
    bare = {name: walks[name].__call__ for name in (SERIAL, "gcnrec-device")}
    timings = race(bed, bare, runs=5)
    walk.products = 16
    longer = race(bed, {"gcnrec-device": walk.__call__}, runs=5)
    walk.products = 0
    compute = timings["gcnrec-device"].wall_seconds
    transfer = max(timings[SERIAL].wall_seconds - compute, 1e-6)
    product = max(longer["gcnrec-device"].wall_seconds - compute, 1e-6) / 16
    return transfer, compute, product
