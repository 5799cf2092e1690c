"""The share that one of several workers has of a job's step, tried without the others: its time, its rows and its traffic.

Letters: W workers, R rows that a worker asks for, J items of the pool, D width, G values of layers and one for each weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.sampling.parts import PartedBatch, PartedSampler
from gcnrec.steps.columns import ColumnsStep
from gcnrec.steps.parted import PartedStep
from gcnrec.training.plan import Plan
from gcnrec.workers.world import Alone, RowsOf, World, gathered


class Echo:
    """Worker 0 of `size` workers, of which the others do what it does: what is sent to a worker comes from that worker.

    So sizes are right, apart from rows of the others that this one cannot know. Values mean nothing, and nothing travels.
    """

    def __init__(self, size: int) -> None:
        self.rank, self.size = 0, size
        self.machines: tuple[int, ...] = (0,) * size
        self.local_rank, self.local_size = 0, size

    def start(self) -> None:
        pass

    def exchange(self, sent: torch.Tensor, outs: Sequence[int], ins: Sequence[int]) -> torch.Tensor:
        """What is sent, or so many of its rows, again and again, where other numbers come."""
        if list(outs) == list(ins):
            return sent
        if not len(sent):
            return sent.new_zeros((sum(ins), *sent.shape[1:]))
        return sent[torch.arange(sum(ins)) % len(sent)]  # copy: as large as what would come

    def borrow(self, rows: Sequence[Sequence[RowsOf]], width: int, ins: Sequence[int]) -> Sequence[torch.Tensor]:
        tiles = [gathered(pieces, width) for pieces in rows]
        return torch.split(self.exchange(torch.cat(tiles), [len(tile) for tile in tiles], ins), list(ins))

    def counts(self, outs: Sequence[int]) -> list[int]:
        return list(outs)

    def connect(self, device: torch.device) -> None:
        pass

    def publish(self, command: Mapping[str, Any]) -> None:
        pass

    def awaited(self) -> NoReturn:
        raise ValueError("worker 0 publishes commands, and was to wait for one")

    def report(self) -> None:
        pass

    def await_reports(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass


def tried_alone(workers: int) -> World:
    """The world of worker 0 where no other is there."""
    return Alone() if workers == 1 else Echo(workers)


def predicted(step: PartedStep | ColumnsStep, plan: Plan) -> dict[str, Any]:
    """What a step costs the worker of `step`, by name, from a drawn batch. `bytes_per_worker`: of the largest share of the table
    and its state; the leader has its share besides `leader_table_bytes`."""
    cost = _of_parts(step, plan) if isinstance(step, PartedStep) else _of_columns(step, plan)
    parts = step.sampler.parts if isinstance(step.sampler, PartedSampler) else 1
    return {"workers": step.world.size, "parts": parts, "leader_table_bytes": plan.table_bytes, **cost}


def _of_parts(step: PartedStep, plan: Plan) -> dict[str, int]:
    """`rows_asked_per_step`: rows that a worker's parts ask owners for, itself among them; a row of two parts counts twice."""
    batch, rows = step.sampler.batch(0, 0), len(range(0, plan.num_rows, step.world.size))
    asked = [part.batch.rows_R for part in batch.parts] if step.table.reads_rows else []
    return {
        "bytes_per_worker": -(-plan.table_bytes * rows // plan.num_rows),  # slots that rows share unevenly apart
        "rows_asked_per_step": sum(map(len, asked)),
        "network_bytes_per_step": bytes_sent(step, batch, asked),
    }


def _of_columns(step: ColumnsStep, plan: Plan) -> dict[str, int]:
    """No row is asked for. Embeddings and rows of the batch's V nodes go to each other worker: 2 V C 4 (W - 1) of C columns."""
    nodes, widest, size = len(step.sampler.batch(0, 0).nodes_V), max(step.table.widths), step.world.size
    floats = widest * plan.table_bytes // 4 - plan.num_rows * widest
    return {
        "bytes_per_worker": 4 * (floats // step.table.whole_width + plan.num_rows),
        "rows_asked_per_step": 0,
        "network_bytes_per_step": 2 * nodes * step.table.width * 4 * (size - 1),
    }


def bytes_sent(step: PartedStep, batch: PartedBatch, asked: Sequence[NDArray[np.int64]]) -> int:
    """Bytes that a worker sends to others in a step, and about as many come, where the others ask it as it asks them.

    Of the R' asked rows that others own, R (1 - 1/W) on average where neighbours are drawn: ids 4 R', rows 4 D R', gradients
    4 D R', of sparse rows about what this worker's own take (`ExchangedTable.bytes_of`). Of the pool: items and their gradients,
    2 J D 4 (W - 1) / W. Of layers: 4 G for each part, to each other worker. Some hundred bytes of counts and of the verdict come
    on top.
    """
    rank, size, width = step.world.rank, step.world.size, step.table.width
    remote = [rows_R[rows_R % size != rank] for rows_R in asked]
    pooled = 0 if batch.pool is None else len(batch.pool.items_J)
    layers = step.encoder.layers
    weights = 0 if layers is None else sum(leaf.numel() + 1 for leaf in layers.parameters())
    rows = sum(4 * len(rows_R) + step.table.bytes_of(rows_R) for rows_R in remote)
    return rows + 2 * pooled * width * 4 * (size - 1) // size + 4 * weights * len(batch.parts) * (size - 1)
