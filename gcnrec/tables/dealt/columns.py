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
from gcnrec.tables.dealt.shards import OnHost
from gcnrec.tables.dealt.spans import bring, fetched, give, sizes_of, stretches, taken
from gcnrec.tables.dealt.table import DealtTable
from gcnrec.tables.dealt.wire import as_dense
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
class ColumnShards(OnHost):
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
        for name, mine_NMC in self._planes(table).items():
            whole_NMD = None if whole is None else self._planes(whole)[name]
            for rows in self._stretches():
                mine = mine_NMC[rows]
                if whole_NMD is None:
                    mine.copy_(taken(world, mine.new_empty(0), mine.numel()).view_as(mine))  # copy: into the share
                else:
                    mine.copy_(whole_NMD[rows, :, own])  # copy: into the share
                    others = [whole_NMD[rows, :, each].reshape(-1) for each in columns[1:]]  # copy: a span
                    give(world, others, self._sizes(mine, columns))
        for rows in self._stretches():
            length = rows.stop - rows.start
            if whole is None:
                table.last_N[rows] = taken(world, table.last_N, length)
            else:
                table.last_N[rows] = whole.last_N[rows]
                give(world, [whole.last_N[rows]] * (world.size - 1), [length] * world.size)
        return table

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        """Rows are updated in all columns at once, so that the leader knows the steps of their last updates itself."""
        columns, own = shares(self.width, world.size), as_dense(local)
        for name, mine_NMC in self._planes(own).items():
            for rows in self._stretches():
                mine = mine_NMC[rows]
                if host is None:
                    bring(world, mine.reshape(-1))
                    continue
                whole = self._planes(as_dense(host))[name][rows]
                came = fetched(world, mine.reshape(-1), self._sizes(mine, columns))
                for each, piece in zip(columns, came, strict=True):
                    whole[:, :, each] = piece.view_as(whole[:, :, each])  # copy: into the whole table
        if host is not None:
            as_dense(host).last_N.copy_(own.last_N)

    def _stretches(self) -> list[slice]:
        return stretches(self.num_rows, 4 * self.width * max(self.moments, 1))

    def _sizes(self, plane_RMC: torch.Tensor, columns: list[slice]) -> list[int]:
        """Floats of each worker's share of rows, of which this worker's are given."""
        return [len(plane_RMC) * plane_RMC.shape[1] * size for size in sizes_of(columns)]

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
