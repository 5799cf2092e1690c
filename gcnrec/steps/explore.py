"""Exploration during training: gradients of every cell over fresh batches, the policy's exchange, and what became of it.

Gradients of whole rows lie in scratch on disk (reported as scratch_bytes), never in RAM in one piece.
Letters: N nodes, R rows that have a gradient, V nodes of a batch, D width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.rows import Ticket
from gcnrec.sparsity.policy import Moment, Policy
from gcnrec.steps.protocol import DrawnBatch, TrainingStep
from gcnrec.system.pages import scratch_rows
from gcnrec.tables.slots import SlotTable

FRESH = 1 << 31
"""Explorations draw their batches as epochs from this number on, which no training reaches."""
WATCHED_ROWS = 1024
"""Rows whose cells are watched for having been active at any time."""


@dataclass(frozen=True)
class RowGradients:
    """Mean gradients of rows `rows_R` (ascending), in scratch; every other row has none."""

    rows_R: NDArray[np.int64]
    grad_RD: torch.Tensor
    batches: int

    def tile(self, first: int, last: int) -> NDArray[np.float32]:
        tile_RD = np.zeros((last - first, self.grad_RD.shape[1]), np.float32)
        low, high = np.searchsorted(self.rows_R, [first, last])
        tile_RD[self.rows_R[low:high] - first] = self.grad_RD[low:high].numpy() / np.float32(self.batches)
        return tile_RD


class Explorer:
    """Runs a policy on schedule and watches which cells were ever active, on a fixed sample of rows.

    `every` steps lie between explorations and `total` in the whole training; scratch goes to `folder`.
    """

    def __init__(
        self, policy: Policy, table: SlotTable, deciles_N: NDArray[np.uint8], every: int, total: int, folder: Path
    ) -> None:
        self._policy, self._every, self._total, self._folder = policy, every, total, folder
        self._table, self._deciles_N = table, deciles_N
        self._sample = np.unique(np.linspace(0, table.num_rows - 1, WATCHED_ROWS).astype(np.int64))
        self._ever_active = torch.zeros(len(self._sample), table.width, dtype=torch.uint8)
        self._watch()

    def is_due(self, number: int) -> bool:
        """Whether it is time to explore after training step `number` (1 ..)."""
        return number % self._every == 0 and number / self._total < self._policy.stop

    def after(self, step: TrainingStep, number: int) -> dict[str, Any]:
        """Explore after training step `number`: a metrics.jsonl record of what changed."""
        begun, table = time.perf_counter(), self._table
        moment = Moment(number / self._total, number // self._every - 1)
        batches = fresh_batches(step, moment.number, self._policy.batches)
        gradients = mean_gradients(step, batches, self._folder) if batches else None
        step.table.drained()
        table.hold(_block_bytes(table))
        change = self._policy.explore(table, moment, gradients)
        table.hold(0)
        self._watch()
        return {
            "event": "explore", "step": number, "pruned": change.pruned, "grown": change.grown, "regrown": change.regrown,
            "values": table.num_values, "ever_active": float(self._ever_active.float().mean()),
            "slots_per_row_by_decile": self.slots_by_decile(), "seconds": round(time.perf_counter() - begun, 3),
            "scratch_bytes": 0 if gradients is None else gradients.grad_RD.nbytes,
        }  # fmt: skip

    def slots_by_decile(self) -> list[float]:
        """Mean slots of a row, by decile of the nodes' degree; the first holds the most popular."""
        counts_N, deciles_N = self._table.counts_N, self._deciles_N
        # One decile at a time: bincount would make 16 bytes a row.
        own = [counts_N[deciles_N == decile] for decile in range(10)]
        return [round(float(each.mean()), 3) if len(each) else 0.0 for each in own]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"ever_active": self._ever_active}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self._ever_active.copy_(tensors["ever_active"])

    def _watch(self) -> None:
        # The "gradient" at the slots of rows that hold their own column numbers is the slots' columns.
        numbers_RD = torch.arange(self._table.width, dtype=torch.float32).repeat(len(self._sample), 1)
        columns_X = self._table.stored(Ticket(self._sample), numbers_RD).values_X.long()
        counts_R = torch.from_numpy(self._table.counts_N[self._sample].astype(np.int64))
        self._ever_active[torch.repeat_interleave(torch.arange(len(counts_R)), counts_R), columns_X] = 1


def degree_deciles(graph: BipartiteGraph) -> NDArray[np.uint8]:
    """The decile of each node among its side by degree, 0 .. 9, uint8 (N): a byte a row stays as long as the table."""
    return np.concatenate([_deciles(graph.num_users), _deciles(graph.num_items)])


def _deciles(count: int) -> NDArray[np.uint8]:
    """Deciles of one side, whose numbers go by falling degree."""
    ends = -(-np.arange(11) * count // 10)
    return np.repeat(np.arange(10, dtype=np.uint8), np.diff(ends))


def _block_bytes(table: SlotTable) -> int:
    """What an exchange holds at a time: scores, keys and marks of a block's cells, and a few copies of its slots."""
    rows = max((last - first for first, last in table.blocks()), default=0)
    return rows * (13 * table.width + 4 * 30 * table.num_values // max(table.num_rows, 1))


def fresh_batches(step: TrainingStep, number: int, count: int) -> list[DrawnBatch]:
    """`count` batches of an order that training does not use."""
    per_epoch = step.sampler.steps_per_epoch
    return [step.fresh(FRESH + number * count + index // per_epoch, index % per_epoch) for index in range(count)]


def mean_gradients(step: TrainingStep, batches: list[DrawnBatch], folder: Path) -> RowGradients:
    """The mean gradient of the loss over `batches` with respect to every cell of every row that they reach."""
    if step.encoder.every_node:
        rows_R = np.arange(step.table.num_rows)
    else:
        rows_R = np.unique(np.concatenate([batch.rows_R for batch in batches]))
    grad_RD = scratch_rows(folder, len(rows_R), step.table.width)
    for batch in batches:
        step.add_gradient(batch, rows_R, grad_RD)
    return RowGradients(rows_R, grad_RD, len(batches))
