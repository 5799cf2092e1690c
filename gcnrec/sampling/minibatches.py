"""Batches of an epoch, drawn ahead by a thread while earlier ones train, and announced to the table one step before.

A batch depends on (seed, epoch, index) alone, so drawing ahead changes nothing but the time.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numba

from gcnrec.sampling.sampler import Batch, EdgeSampler
from gcnrec.tables.dense import StepTable

AHEAD = 2
"""Batches drawn ahead of the current one: rows of the next are read while the one after is drawn."""


@dataclass
class Waits:
    """Seconds that training stood still for batches that were not drawn yet."""

    seconds: float = 0.0


def minibatches(sampler: EdgeSampler, epoch: int, table: StepTable, waits: Waits, first: int = 0) -> Generator[Batch]:
    """The batches `first` (0, 1, ...) and later of `epoch` in order. Before one is handed out, the next's rows are prefetched.

    The thread ends with the epoch, or when the iterator is closed.
    """
    steps = sampler.steps_per_epoch
    with ThreadPoolExecutor(1, "gcnrec-sampler", numba.set_num_threads, (1,)) as thread:  # training has the other cores
        drawn: list[Future[Batch]] = []
        announced: list[Batch] = []
        try:
            for index in range(first, steps):
                for ahead in range(index + len(announced) + len(drawn), min(index + AHEAD + 1, steps)):
                    drawn.append(thread.submit(sampler.batch, epoch, ahead))
                while len(announced) < min(2, steps - index):
                    announced.append(_announced(drawn.pop(0), table, waits))
                yield announced.pop(0)
        finally:
            for future in drawn:
                future.cancel()


def _announced(future: Future[Batch], table: StepTable, waits: Waits) -> Batch:
    """The drawn batch, its rows on their way."""
    begun = time.perf_counter()
    batch = future.result()
    waits.seconds += time.perf_counter() - begun
    return replace(batch, ticket=table.prefetch(batch.rows_R))
