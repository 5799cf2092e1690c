"""Steps that read rows, compute, update and write. Transfers take from a quarter of compute's time to four times it.

Transfers are timed alone, by events on their queues. Compute is a step of the peer that has the whole table on the device
(`resident.ResidentRows`), products of matrices included; `ratio` is the one over the other, as measured in the same race.
Letters: N rows of the table, R rows of a step, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.contenders.epoch_task import BETA1, BETA2, EPSILON, RATE, SERIAL, Task, dense, tables_of
from gcnrec.queues import Device
from gcnrec.rows import Ticket
from gcnrec.tables.dense import StepTable
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.rules import Adam
from jobs.measure.gpu.bed import Bed, race, report_timings, rounds, spread_rows
from jobs.measure.gpu.epochs.resident import ResidentRows
from jobs.measure.gpu.epochs.tasks import task_on
from jobs.measure.gpu.epochs.transfers import of_table, products_for
from jobs.measure.gpu.summary import OVERLAP, RESIDENT

HOST_WAYS = (OVERLAP, SERIAL, "cpu-gather-pinned")
"""Of `tables_of`; the resident peer comes to them."""
ROWS, STEPS, MATRIX = 1 << 18, 8, 1024
"""Rows of a step: so many that a step without products is short against a quarter of their transfer."""
TRIED_PRODUCTS = 16


@dataclass
class Compute:
    """Products of a matrix with itself, in place of a model."""

    matrix: torch.Tensor
    products: int = 0

    def __call__(self) -> None:
        out = torch.empty_like(self.matrix)
        for _ in range(self.products):
            torch.mm(self.matrix, self.matrix, out=out)


class Way(Protocol):
    """A way of bringing rows to the device, as a race calls it."""

    def __call__(self, run: int) -> None:
        """`STEPS` steps, and a wait for everything that they began."""
        ...


@dataclass
class Walk:
    """A way of bringing rows to the device. `early`: rows are announced one step before."""

    bed: Bed
    table: StepTable
    sets: list[NDArray[np.int64]]
    compute: Compute
    early: bool
    step: int = 0

    def __call__(self, run: int) -> None:
        rule, later = Adam(BETA1, BETA2, EPSILON), self._ticket(0)
        for index in range(len(self.sets)):
            ticket = later
            if index + 1 < len(self.sets):
                later = self._ticket(index + 1)
            tile_RD = self.table.decode(self.table.read(ticket, with_state=False))
            self.compute()
            self.step += 1
            grad = self.table.stored(ticket, tile_RD)
            self.table.write(rule.update(self.table.read(ticket, with_state=True), grad, self.step, RATE))
        self.bed.finish()  # the last rows are on their way home; a clock that stopped before would leave them out

    def _ticket(self, index: int) -> Ticket:
        rows_R = self.sets[index]
        return self.table.prefetch(rows_R) if self.early else Ticket(rows_R)


@dataclass
class ResidentWalk:
    """The same steps by the resident peer; `sets` lie on the device."""

    bed: Bed
    table: ResidentRows
    sets: list[torch.Tensor]
    compute: Compute

    def __call__(self, run: int) -> None:
        for index_R in self.sets:
            tile_RD = self.table.read(index_R)
            self.compute()
            self.table.update(index_R, tile_RD)
        self.bed.finish()


def run(bed: Bed) -> None:
    """Race all ways at each ratio of transfers to compute. RuntimeError where the host copied rows."""
    task, reasons = task_on(bed), list[str]()
    with closing(bed.queues(reasons.append)) as queues:
        try:
            _curve(bed, task, queues)
        finally:
            bed.finish()
    if reasons:
        raise RuntimeError(f"the host copied rows, so nothing overlapped: {reasons[0]}")


def _curve(bed: Bed, task: Task, queues: Device) -> None:
    count = min(ROWS, task.graph.num_nodes // 4)
    sets = [spread_rows(bed, task.graph.num_nodes, count, seed) for seed in range(STEPS)]
    on_host = [rows.cpu().numpy() for rows in sets]
    side = min(MATRIX, bed.sizes.matrix)
    compute = Compute(torch.randn(side, side, device=bed.device) / side**0.5)
    tables = tables_of(task, bed.device, queues)
    moved = of_table(bed, queues, PipelinedTable(dense(task), queues), on_host)
    ways: dict[str, Callable[[int], None]] = {
        name: Walk(bed, tables[name](), on_host, compute, early=name != SERIAL) for name in HOST_WAYS
    }
    resident = ResidentWalk(bed, ResidentRows(task.start_ND, bed.device), sets, compute)
    facts = {"rows_per_step": count, "steps": STEPS, "width": task.width, **asdict(moved)}
    for products in products_for(moved.seconds, *compute_alone(bed, resident, compute)):
        compute.products = products
        for timings in rounds(bed, {RESIDENT: resident, **ways}, runs=3):
            ratio = moved.seconds * STEPS / timings[RESIDENT].wall_seconds
            report_timings(
                bed, "epoch-curve", timings, STEPS * count, 2 * STEPS * moved.bytes, products=products, ratio=ratio, **facts
            )


def compute_alone(bed: Bed, resident: Callable[[int], None], compute: Compute) -> tuple[float, float]:
    """Seconds of a step of the resident peer without products, and of a product in it."""
    walls = []
    for products in (0, TRIED_PRODUCTS):
        compute.products = products
        walls.append(race(bed, {RESIDENT: resident}, runs=5)[RESIDENT].wall_seconds / STEPS)
    return walls[0], max(walls[1] - walls[0], 1e-7) / TRIED_PRODUCTS
