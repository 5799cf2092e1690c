"""`dynamic`: our policy of dynamic sparse learning. See `gcnrec.sparsity.published` for the others and for what a policy is.

Letters: N rows, R rows of a block, D width, M moments, X chosen cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.sparsity.exchange import Change, Newborn, exchange_in_rows, nothing_known
from gcnrec.sparsity.first_support import Keys, magnitude_keys
from gcnrec.sparsity.policy import Gradients, Moment, steepest
from gcnrec.sparsity.row_counts import check_room, even_counts, full_records, power_counts
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable


@dataclass(frozen=True)
class Dynamic:
    """Ours. Users get `user_share` of the values, evenly (None: as any row): their items' rows reach them through the graph,
    and rows of their own mostly learn their interactions by heart. All other rows get slots in proportion to degree**`power`.

    The first support is the largest entries of the start (a rotated spectrum). Then every row exchanges its smallest slots for
    the cells with the steepest mean gradient over `batches` fresh batches, the share falling as half a cosine to zero at
    `stop`. Grown cells start with a warm optimizer state."""

    user_share: float | None
    power: float
    least: int
    ratio: float
    stop: float
    batches: int
    dtype: str

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int16]:
        check_room(graph.num_nodes, table.max_values, table.max_count)
        num_users = graph.num_users
        degrees_N = np.empty(graph.num_nodes, np.int32)
        for side, csr in ((degrees_N[:num_users], graph.user_items), (degrees_N[num_users:], graph.item_users)):
            np.subtract(csr.indptr[1:], csr.indptr[:-1], out=side, casting="same_kind")
        if self.user_share is None:
            counts_N = power_counts(degrees_N, table.max_values, self.least, table.max_count, self.power)
        else:
            room = table.max_count * num_users, table.max_count * graph.num_items
            users = min(max(int(self.user_share * table.max_values), table.max_values - room[1]), room[0])
            shares = users, min(table.max_values - users, room[1])
            items_I = power_counts(degrees_N[num_users:], shares[1], self.least, table.max_count, self.power)
            counts_N = np.concatenate([even_counts(num_users, shares[0], table.max_count), items_I])
        return full_records(counts_N, self.dtype, table.max_count)

    def first_keys(self, seed: int) -> Keys:
        return magnitude_keys

    def share(self, moment: Moment) -> float:
        """Share of every row's slots that an exploration exchanges."""
        return 0.5 * self.ratio * (1.0 + math.cos(math.pi * moment.progress / self.stop))

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        return exchange_in_rows(table, self.share(moment), steepest(gradients), warm(gradients))


def warm(gradients: Gradients | None) -> Newborn:
    """Grown cells start at zero with the first moment that their mean gradient would have brought about, and the mean second
    moment of their row, or their own square if larger: never a second moment near zero, which would make Adam overshoot."""
    assert gradients is not None  # asked for by `batches`

    def newborn(block: SlotBlock, rows: NDArray[np.int64], columns: NDArray[np.uint8]) -> NDArray[np.float32]:
        born = nothing_known(block, rows, columns)
        steep = gradients.tile(block.first, block.first + len(block.counts_R))[rows, columns]
        if len(born) > 1:
            born[1] = steep
        if len(born) > 2:
            sums_R = np.bincount(block.rows_X, block.moments_MX[1], minlength=len(block.counts_R))
            means_R = (sums_R / np.maximum(np.bincount(block.rows_X, minlength=len(sums_R)), 1)).astype(np.float32)
            born[2] = np.maximum(means_R[rows], np.square(steep))
        return born

    return newborn
