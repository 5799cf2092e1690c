"""Reads of pinned memory in ordinary pages and in huge pages that all cores touched first, as tables take it."""

from __future__ import annotations

import time
from functools import partial

import torch

from gcnrec.cuda.gather import gather
from gcnrec.cuda.hostmemory import HostMemory, adopt, allocate
from jobs.measure.gpu.bed import GIB, SETS, Bed, Work, race, report_timings, row_sets, shuffled

WIDTH = 64
MOST_BYTES = 8 * GIB
"""More than a GPU's and an IOMMU's tables of addresses cover in small pages."""


def run(bed: Bed) -> None:
    """The same reads of both memories, one after the other: both at once would be twice the memory."""
    for name, take in {"ordinary pages": _ordinary, "huge pages": allocate}.items():
        begun = time.perf_counter()
        memory = take(min(MOST_BYTES, bed.sizes.table_bytes))
        touched = time.perf_counter()
        with bed.registered(memory):
            facts = {"touch_seconds": touched - begun, "register_seconds": time.perf_counter() - touched}
            _reads(bed, name, torch.from_numpy(memory.content).view(torch.float32).view(-1, WIDTH), facts)
            bed.finish()  # before the memory is given back
        del memory


def _ordinary(nbytes: int) -> HostMemory:
    """As a program of torch takes it, in pages as the system gives them."""
    return adopt(torch.zeros(nbytes, dtype=torch.uint8))


def _reads(bed: Bed, name: str, table_ND: torch.Tensor, facts: dict[str, float]) -> None:
    count = bed.sizes.call_bytes // (4 * WIDTH)
    rising = row_sets(bed, len(table_ND), count)
    orders = {"ascending": rising, "random": [shuffled(rows, seed) for seed, rows in enumerate(rising)]}
    out_RD = torch.empty(count, WIDTH, device=bed.device)

    def read(sets: list[torch.Tensor], cap: int, run: int) -> None:
        gather(table_ND, sets[run % SETS], out_RD, cap)

    for order, sets in orders.items():
        works: dict[str, Work] = {f"{name}-{cap}": partial(read, sets, cap) for cap in bed.sizes.caps[1::3]}
        report_timings(bed, "pages", race(bed, works, runs=5), count, count * 4 * WIDTH, order=order, memory=name, **facts)
