"""A table that the leader, worker 0, has whole, and that all workers train: each has a share of it as a table of its own.

The leader's whole table is what starts, is explored, saved and exported (`drained`). What others trained comes to it when it is
asked for. A table that is written whole, by a start, an exploration or a checkpoint, is dealt out again.
"""

from __future__ import annotations

import torch

from gcnrec.rows import Rows
from gcnrec.tables.dealt.shards import Shards
from gcnrec.tables.dense import StepTable, Table
from gcnrec.tables.pipelined import HostTable
from gcnrec.workers.world import World


class DealtTable:
    """`local` is this worker's share, and without other workers the whole table. `host` is the whole table, None on followers."""

    def __init__(self, world: World, shards: Shards, host: HostTable | None) -> None:
        self._world, self._shards, self._host = world, shards, host
        self._seen, self._dirty = -1, False
        self.local: StepTable = shards.empty() if host is None or world.size > 1 else shards.whole(host)

    @property
    def num_rows(self) -> int:
        return self._shards.num_rows

    @property
    def device(self) -> torch.device:
        return self._shards.device

    def write(self, rows: Rows) -> None:
        """Make updated rows of the share its content."""
        self.local.write(rows)
        self._dirty = True

    @property
    def stale(self) -> bool:
        """Whether the leader's table was written whole since it was dealt out."""
        return self._host is not None and self._world.size > 1 and self._host.changes != self._seen

    def deal(self) -> None:
        """Give every worker its share and the state of it, out of the leader's table. All workers call it together."""
        if self._world.size > 1:
            self.close()  # or the old share and the new one would be in memory
            self.local = self._shards.dealt(self._world, self._host)
        self._mark_seen()

    def close(self) -> None:
        """Give back what a device holds of this worker's share."""
        self._shards.close(self.local)
        self.local = self._shards.empty()

    def collect(self) -> None:
        """Bring all shares and their state back to the leader's table. All workers call it together."""
        if self._world.size > 1:
            self._shards.collected(self._world, self.local, self._host)
        self._mark_seen()

    def _mark_seen(self) -> None:
        self._seen, self._dirty = -1 if self._host is None else self._host.changes, False

    def drained(self) -> Table:
        """The leader's table, with every update in it."""
        if self._host is None:
            raise ValueError("only the leader has the whole table")
        if self._dirty and self._world.size > 1 and not self.stale:
            self._world.publish({"do": "collect"})
            self.collect()
        return self._host.drained() if self._world.size > 1 else self.local.drained()
