"""A dense table whose columns are dealt out to workers: each has its columns of all rows, and of their state.

A share has whole lines of 16 columns, the last one the rest of the width. Kernels of propagation fuse products and sums of whole
lines (`gcnrec.ops.lanes`) and round each of them in what is left of a row: cut elsewhere, a column's bits would depend on its
share. A line is also what a read of a row costs at least, so that narrower shares would be no faster.
Letters: N rows, W workers, D width, C columns of a share, M moments (floats of state of a value).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.rows import RowGrad, Rows, Ticket
from gcnrec.tables.dealt.shards import as_dense, from_leader, to_leader
from gcnrec.tables.dealt.table import DealtTable
from gcnrec.tables.dense import DenseTable, StepTable
from gcnrec.tables.pipelined import HostTable
from gcnrec.workers.world import World

LINE = 16
"""Columns of a line of the CPU's cache, and of the widest vector."""


def most_workers(width: int) -> int:
    """How many workers can have columns of rows so wide."""
    return -(-width // LINE)


def shares(width: int, size: int) -> list[slice]:
    """The columns of each of `size` workers, in their order, from even shares of the lines; the last share may be narrower."""
    lines = most_workers(width)
    cuts = [min(LINE * (worker * lines // size), width) for worker in range(size + 1)]
    return [slice(first, last) for first, last in pairwise(cuts)]


@dataclass(frozen=True)
class ColumnShards:
    """Rows of `width` values with `moments` floats of state each, moment after moment: of Adam [m | v]."""

    num_rows: int
    width: int
    moments: int

    def empty(self) -> DenseTable:
        return DenseTable(torch.empty(0, 0), 0)

    def dealt(self, world: World, host: HostTable | None) -> DenseTable:
        columns, whole = shares(self.width, world.size), None if host is None else as_dense(host)
        own = columns[world.rank]
        width = own.stop - own.start
        table = DenseTable(torch.zeros(1, 1).expand(self.num_rows, width), self.moments * width)
        last = None if whole is None else whole.last_N.repeat(world.size)  # copy: one for each worker
        mine = {"last": from_leader(world, last, torch.empty(0, dtype=torch.int32), [self.num_rows] * world.size)}
        for name, plane_NMC in self._planes(table).items():
            sent = None
            if whole is not None:
                whole_NMD = self._planes(whole)[name]
                sent = torch.cat([whole_NMD[:, :, each].reshape(-1) for each in columns])  # copy: the whole plane
            came = from_leader(world, sent, torch.empty(0), self._sizes(plane_NMC, columns))
            mine[name] = came.view_as(plane_NMC).flatten(1)
        table.restore({**table.tensors(), **mine})
        return table

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        """Rows are updated in all columns at once, so that the leader knows the steps of their last updates itself."""
        columns, own = shares(self.width, world.size), as_dense(local)
        for name, plane_NMC in self._planes(own).items():
            sizes = self._sizes(plane_NMC, columns)
            came = to_leader(world, plane_NMC.reshape(-1), sizes)
            if host is not None:
                whole_NMD = self._planes(as_dense(host))[name]
                for each, piece in zip(columns, torch.split(came, sizes), strict=True):
                    whole_NMD[:, :, each] = piece.view_as(whole_NMD[:, :, each])  # copy: into the whole table
        if host is not None:
            as_dense(host).last_N.copy_(own.last_N)

    def _sizes(self, plane_NMC: torch.Tensor, columns: list[slice]) -> list[int]:
        """Floats of each worker's share of a plane, of which this worker's is given."""
        return [len(plane_NMC) * plane_NMC.shape[1] * (each.stop - each.start) for each in columns]

    def _planes(self, table: DenseTable) -> dict[str, torch.Tensor]:
        """Views of weights and state by moment and column, float32 (N, 1, C) and (N, M, C); of a rule without state no state."""
        tensors, moments = table.tensors(), {"weights": 1, "state": self.moments}
        return {name: tensors[name].unflatten(1, (each, table.width)) for name, each in moments.items() if each}


class ColumnsTable(DealtTable):
    """A `StepTable` of this worker's columns; its `width` is theirs. The leader's `drained` has all columns.

    `columns`: which columns of the `whole_width` it has. `widths`: how many each worker has.
    """

    def __init__(self, world: World, shards: ColumnShards, host: HostTable | None) -> None:
        super().__init__(world, shards, host)
        every = shares(shards.width, world.size)
        self.columns, self.whole_width = every[world.rank], shards.width
        self.widths = [each.stop - each.start for each in every]

    @property
    def width(self) -> int:
        return self.columns.stop - self.columns.start

    def announcing(self) -> AbstractContextManager[Any]:
        return self.local.announcing()

    def prefetch(self, rows_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> Ticket:
        return self.local.prefetch(rows_R, index_R)

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        return self.local.read(ticket, with_state)

    def decode(self, rows: Rows) -> torch.Tensor:
        return self.local.decode(rows)

    def stored(self, ticket: Ticket, tile_RC: torch.Tensor) -> RowGrad:
        return self.local.stored(ticket, tile_RC)
