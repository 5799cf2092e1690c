"""The ceiling of the bus: reads and writes by the GPU's threads, both at once, and its copy engines."""

from __future__ import annotations

from functools import partial

import torch

from gcnrec.cuda import ceiling
from jobs.measure.gpu.bed import SETS, Bed, race, report_timings, row_sets, shuffled
from jobs.measure.gpu.first.facts import link

ROW_BYTES = (128, 256, 512)


def run(bed: Bed) -> None:
    for row_bytes in ROW_BYTES:
        for order in ("ascending", "random"):
            _by_threads(bed, row_bytes, order)
    _sequential(bed)
    _engines(bed)
    bed.report({"bench": "link", **link()})  # now: an idle link may go slower


def _by_threads(bed: Bed, row_bytes: int, order: str) -> None:
    """Reads, writes and both, of rows all over the table; `both` reads and writes different rows on two streams."""
    table_M, moved = bed.table(), bed.sizes.call_bytes
    count = moved // row_bytes
    sets = row_sets(bed, len(table_M) // row_bytes, 2 * count)
    if order == "random":
        sets = [shuffled(rows, seed) for seed, rows in enumerate(sets)]
    evens, odds = [rows[::2].contiguous() for rows in sets], [rows[1::2].contiguous() for rows in sets]

    def read(cap: int, run: int) -> None:
        ceiling.read(table_M, evens[run % SETS], row_bytes, cap)

    def write(cap: int, run: int) -> None:
        ceiling.write(table_M, evens[run % SETS], row_bytes, 0x3F800000 + run, cap)

    def turn(cap: int, run: int) -> None:
        ceiling.turn(table_M, evens[run % SETS], row_bytes, cap)

    def both(cap: int, run: int) -> None:
        writes = partial(ceiling.write, table_M, odds[run % SETS], row_bytes, 0x3F800000 + run, cap)
        bed.both(writes, partial(read, cap, run))

    few = bed.sizes.caps[-6:]
    for kind, work in {"read": read, "write": write, "turn": turn, "both": both}.items():
        caps = bed.sizes.caps if kind == "read" else few
        timings = race(bed, {f"{kind}-{cap}": partial(work, cap) for cap in caps}, runs=5)
        # `turn` and `both` move this many bytes each way
        report_timings(bed, f"ceiling-{kind}", timings, count, moved, row_bytes=row_bytes, order=order, table_bytes=len(table_M))


def _sequential(bed: Bed) -> None:
    """A stretch of the table, from the first byte to the last."""
    table_M, moved, row_bytes = bed.table(), bed.sizes.call_bytes, 512
    count = moved // row_bytes
    places = len(table_M) // moved
    sets = [torch.arange(count, device=bed.device) + count * (run * 7 % places) for run in range(SETS)]

    def read(cap: int, run: int) -> None:
        ceiling.read(table_M, sets[run % SETS], row_bytes, cap)

    timings = race(bed, {f"read-{cap}": partial(read, cap) for cap in bed.sizes.caps[-6:]}, runs=5)
    report_timings(bed, "ceiling-read", timings, count, moved, row_bytes=row_bytes, order="sequential", table_bytes=len(table_M))


def _engines(bed: Bed) -> None:
    """Copies by the copy engines, from and to pinned memory, in one piece."""
    table_M, moved = bed.table(), bed.sizes.call_bytes
    places = len(table_M) // moved
    device_M, other_M = (torch.zeros(moved, dtype=torch.uint8, device=bed.device) for _ in range(2))

    def part(run: int) -> torch.Tensor:
        return table_M[run * 7 % places * moved :][:moved]

    def both(run: int) -> None:
        bed.both(lambda: part(run).copy_(other_M, non_blocking=True), lambda: device_M.copy_(part(run + 3), non_blocking=True))

    works = {
        "host-to-device": lambda run: device_M.copy_(part(run), non_blocking=True),
        "device-to-host": lambda run: part(run).copy_(device_M, non_blocking=True),
        "both": both,
        "device-to-device": lambda run: other_M.copy_(device_M),
    }
    report_timings(bed, "ceiling-engine", race(bed, works), 1, moved, table_bytes=len(table_M))
