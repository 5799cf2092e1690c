"""What a step's rows cost on the bus with nothing else under way, by events on the queues that carry them; and how much compute
stands against it.

Letters: R rows of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from gcnrec.queues import Device
from gcnrec.tables.pipelined import PipelinedTable
from jobs.measure.gpu.bed import Bed

RATIOS = (0.25, 0.5, 0.7, 0.95, 1.5, 2.0, 4.0)
"""Seconds of transfers over seconds of compute; none at the edge of a promise, which noise would cross."""
MOST_PRODUCTS = 4096
"""A product that noise makes look free must not make a step endless."""


@dataclass(frozen=True)
class Transfers:
    """Of a step: seconds on the queue of the reads and on the queue of the writes, and bytes of one direction."""

    read_seconds: float
    write_seconds: float
    bytes: float

    @property
    def seconds(self) -> float:
        """Both directions are under way at once, so the longer one counts."""
        return max(self.read_seconds, self.write_seconds)


def of_table(bed: Bed, queues: Device, table: PipelinedTable, sets: Sequence[NDArray[np.int64]]) -> Transfers:
    """Medians over `sets` but the first, which takes the memory for copies."""
    reads, writes, before = [], [], table.traffic().bytes
    for rows_R in sets:
        bed.finish()
        begun = bed.instant(queues.reads)
        ticket = table.prefetch(rows_R)
        reads.append((begun, bed.instant(queues.reads)))
        rows = table.read(ticket, with_state=True)
        bed.finish()
        begun = bed.instant(queues.writes)
        table.write(rows)
        writes.append((begun, bed.instant(queues.writes)))
    bed.finish()
    read, write = (median([bed.between(*pair) for pair in pairs[1:]]) for pairs in (reads, writes))
    return Transfers(read, write, (table.traffic().bytes - before) / len(sets))


def products_for(transfer: float, bare: float, product: float, ratios: Sequence[float] = RATIOS) -> list[int]:
    """How many products bring compute to `transfer` / ratio seconds a step, each number once, ascending.

    `bare`: seconds of a step without any; `product`: seconds of one. A step that is longer without any has none.
    """
    counts = (round((transfer / ratio - bare) / product) for ratio in ratios)
    return sorted({min(max(0, count), MOST_PRODUCTS) for count in counts})
