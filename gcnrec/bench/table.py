"""Bench `table`: reads, updates and whole steps of slot tables, of dense tables and of what torch has for the same.

Every variant holds the same chosen cells of the same rows (a share of each row, drawn at random; zero elsewhere) and meets the
same batches of Gowalla's recipe, at Gowalla's number of rows and at a million. Three parts at each size: `read`, the rows of
a batch as a dense tile; `update`, their gradient applied by Adam to values and state; `step`, one training step of matrix
factorisation from the table's rows to the table's rows. Dense tables also move the cells that were not chosen.
Before timing, the chosen cells must agree with the dense table's, after the first repetition, beyond one unit in the last
place of the stored type, by the norm of the errors over the norm of the values.
Letters: N rows, R rows of a batch, D width, X chosen cells of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.contenders import table_peers as peers
from gcnrec.bench.contenders.recipe import recipe_of
from gcnrec.bench.contenders.table_task import Contender, Task
from gcnrec.bench.graphs import GOWALLA, graph_of
from gcnrec.bench.harness import Row, Variant, measure, overall, rest, summary, use_threads
from gcnrec.config import Model, Optimizer
from gcnrec.graph import BipartiteGraph
from gcnrec.random import Stage, normal
from gcnrec.rows import Ticket
from gcnrec.sampling.sampler import Batch
from gcnrec.sparsity.first_support import fill, random_keys
from gcnrec.sparsity.row_counts import even_counts
from gcnrec.tables.dense import DenseTable, Table
from gcnrec.tables.slots import SlotTable

MILLION = (421_495, 578_505, 4_000_000)
"""Users, items and interactions of the second size, a million rows."""
TOLERANCES = {"read": 0.0, "update": 1e-6, "step": 1e-4}
"""A step's gradients are sums, whose rounding Adam's first division enlarges."""
_WARMUP = 2
_SCALE = 0.1


class Ours:
    """A table and its rule, as `gcnrec.steps.step` calls them."""

    def __init__(self, task: Task, table: Table, dtype: torch.dtype) -> None:
        self.dtype, self._table, self._step = dtype, table, task.recipe.step_on(table)
        self._rule, self._rate = task.recipe.plan.rule, task.recipe.optimizer.learning_rate

    def read(self, rows_R: NDArray[np.int64]) -> torch.Tensor:
        return self._table.decode(self._table.read(Ticket(rows_R), with_state=False))

    def update_of(self, rows_R: NDArray[np.int64], grad_RD: torch.Tensor, step: int) -> Callable[[], None]:
        return partial(self._update, rows_R, grad_RD, step)

    def step_of(self, batch: Batch) -> Callable[[], Any] | None:
        return partial(self._step, batch, self._rate)

    def _update(self, rows_R: NDArray[np.int64], grad_RD: torch.Tensor, step: int) -> None:
        ticket = Ticket(rows_R)
        grad = self._table.stored(ticket, grad_RD)
        self._table.write(self._rule.update(self._table.read(ticket, with_state=True), grad, step, self._rate))


def run(
    dataset: Path | None = None,
    width: int = 64,
    share: float = 0.25,
    batch_size: int = 2048,
    threads: int | None = None,
    runs: int = 15,
    sizes: Sequence[tuple[int, int, int]] = (GOWALLA, MILLION),
) -> Iterator[Row]:
    """Rows for every size and part, and one closing row, the smallest speedup. Units are rows, for `step` positives.

    `dataset` takes the place of the first size. A summary compares slots with torch; `against_dense` in it is the dense
    table's seconds divided by the seconds of the faster slots.
    """
    use_threads(threads)
    summaries = []
    for index, size in enumerate(sizes):
        task = task_of(graph_of(None if index else dataset, size), width, share, batch_size, _WARMUP + runs)
        for part in TOLERANCES:
            rows = list(measured_part(task, part, runs))
            summaries.append(rows[-1])
            yield from rows
        del task
    yield {**overall("table", summaries), "against_dense": min(row["against_dense"] for row in summaries)}


def task_of(graph: BipartiteGraph, width: int, share: float, batch_size: int, num_batches: int) -> Task:
    """`share` of the cells of every row, values that bfloat16 holds exactly, and as many batches of matrix factorisation.

    Adam's epsilon is next to nothing, so that it does not show that torch's SparseAdam adds it elsewhere.
    """
    optimizer = Optimizer(rule="adam", learning_rate=1e-3, epsilon=1e-12)
    recipe = recipe_of(graph, Model(width=width, propagation="none", start="normal"), optimizer, batch_size, num_batches)
    budget = int(share * graph.num_nodes * width)
    start = SlotTable(graph.num_nodes, width, budget, (0, 0))
    fill(start, even_counts(graph.num_nodes, budget, start.max_count), partial(_start_rows, width), random_keys(0), None)
    shapes = [(batch.step, (len(batch.nodes_V), width)) for batch in recipe.batches]
    grads = [torch.from_numpy(normal(1, Stage.INIT, step, shape)).clone() for step, shape in shapes]
    return Task(recipe, graph, budget, start.tensors(), grads)


def measured_part(task: Task, part: str, runs: int) -> Iterator[Row]:
    """Rows of one part at one size, then its summary."""
    without_steps = [name for name in CONTENDERS if not name.startswith("gcnrec") and name not in peers.WITH_STEPS]
    builds = {name: build for name, build in CONTENDERS.items() if part != "step" or name not in without_steps}
    variants = [Variant(name, partial(_Lane, part, task, build), _Lane.go, _Lane.ready) for name, build in builds.items()]
    batches = task.recipe.batches
    units = len(batches[0].users_B) if part == "step" else round(np.mean([len(batch.nodes_V) for batch in batches]))
    name = f"table-{part}-{task.graph.num_nodes}"
    *rows, _ = measure(name, variants, units, difference, TOLERANCES[part], runs=runs, warmup=_WARMUP)
    yield from rows
    seconds = {row["variant"]: row["seconds"] for row in rows}
    closing = summary(name, [row for row in rows if row["variant"] != "gcnrec-dense"], [])
    yield {**closing, "against_dense": seconds["gcnrec-dense"] / seconds[closing["ours"]]}


def difference(expected: _Lane, found: _Lane) -> float:
    """Norm of the errors at the chosen cells beyond one unit in the last place, over the norm of what is expected."""
    exact_RD, tile_RD = expected.chosen_cells(), found.chosen_cells()
    place_RD = torch.finfo(found.contender.dtype).eps * exact_RD.abs()
    if found.part == "read":
        place_RD.zero_()
    beyond_RD = ((tile_RD - exact_RD).abs() - place_RD).clamp_min(0)
    return float(beyond_RD.norm() / exact_RD.norm())


class _Lane:
    """A contender on its way through the batches, one repetition each."""

    def __init__(self, part: str, task: Task, build: Callable[[Task], Contender]) -> None:
        self.part, self.contender, self._task = part, build(task), task
        self._number = -1
        self._tile_RD = torch.empty(0)
        self._next: Callable[[], Any] = self.ready

    def ready(self) -> None:
        """Prepare the next repetition, untimed."""
        self._number += 1
        batch, grad_RD = self._task.recipe.batches[self._number], self._task.grads[self._number]
        if self.part == "read":
            self._next = partial(self.contender.read, batch.nodes_V)
        elif self.part == "update":
            self._next = self.contender.update_of(batch.nodes_V, grad_RD, batch.step)
        else:
            step = self.contender.step_of(batch)
            assert step is not None  # others do not take part
            self._next = step
        rest(self)

    def go(self) -> _Lane:
        outcome = self._next()
        if self.part == "read":
            self._tile_RD = outcome
        return self

    def chosen_cells(self) -> torch.Tensor:
        """Values of the last batch's rows (part `read`: of the tile) at the chosen cells, zero elsewhere."""
        rows_R = self._task.recipe.batches[self._number].nodes_V
        tile_RD = self._tile_RD if self.part == "read" else self.contender.read(rows_R)
        return tile_RD * self._task.chosen(rows_R)


def _dense(task: Task) -> Contender:
    return Ours(task, DenseTable(task.dense(), task.recipe.plan.rule.state_width(task.width)), torch.float32)


def _slots(dtype: str, task: Task) -> Contender:
    moments, size = task.recipe.plan.rule.state_width(1), len(task.cells["columns"])
    table = SlotTable(task.graph.num_nodes, task.width, task.budget, (moments, 0), dtype)
    state = {"values": task.cells["values"].to(getattr(torch, dtype)), "moments": torch.zeros(moments, size)}
    table.restore({**task.cells, **state})
    return Ours(task, table, getattr(torch, dtype))


CONTENDERS: dict[str, Callable[[Task], Contender]] = {
    "gcnrec-dense": _dense,
    "gcnrec-slots": partial(_slots, "float32"),
    "gcnrec-slots-bf16": partial(_slots, "bfloat16"),
    "torch-embedding": peers.Embedding,
    "torch-embedding-bag": peers.EmbeddingBag,
    "torch-csr": peers.CsrByPlaces,
    "torch-csr-product": peers.CsrByProduct,
    "torch-coo": peers.Coo,
    "torch-dense-masked": peers.Masked,
}
"""The dense table comes first, and the others must agree with it."""


def _start_rows(width: int, first: int, last: int) -> torch.Tensor:
    rows_RD = torch.from_numpy(normal(0, Stage.INIT, first, (last - first, width)))
    return rows_RD.mul_(_SCALE).bfloat16().float()
