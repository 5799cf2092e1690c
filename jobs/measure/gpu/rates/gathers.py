"""Reads of dense rows: by the GPU's threads from pinned memory, and in every other way that brings rows to a GPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from gcnrec.cuda import ceiling
from gcnrec.cuda.gather import gather
from gcnrec.ops import gather as on_cores
from jobs.measure.gpu.bed import SETS, Bed, Work, fill, race, report_timings, row_sets, shuffled
from jobs.measure.gpu.rates.lines import lines

WIDTHS = (64, 128)
ADOPTED_WIDTH = 100
"""Rows of 400 bytes, one after the other: they start anywhere in a line."""
BATCHES = 6
"""Batches of a repetition of the loader: its thread is ahead by one."""
HIT_SHARE, CACHED_SHARE = 0.6, 0.1


def run(bed: Bed) -> None:
    fill(bed, bed.table())
    for width in WIDTHS:
        table_ND = rows_of(bed, width)
        count = bed.sizes.call_bytes // (4 * width)
        rising = row_sets(bed, len(table_ND), count)
        best = _caps(bed, table_ND, rising, "ascending")
        _caps(bed, table_ND, [shuffled(rows, seed) for seed, rows in enumerate(rising)], "random")
        _peers(bed, table_ND, rising, best)
        _cached(bed, table_ND, count, best)
        small = row_sets(bed, len(table_ND), max(1, count // 64))
        _caps(bed, table_ND, small, "ascending")
    table_ND = rows_of(bed, ADOPTED_WIDTH)
    count = bed.sizes.call_bytes // (4 * ADOPTED_WIDTH)
    _caps(bed, table_ND, row_sets(bed, len(table_ND), count), "ascending")


def rows_of(bed: Bed, width: int) -> torch.Tensor:
    """The whole table as float32 rows of `width`."""
    floats = bed.table().view(torch.float32)
    return floats[: len(floats) // width * width].view(-1, width)


def _caps(bed: Bed, table_ND: torch.Tensor, sets: list[torch.Tensor], order: str) -> int:
    """Our gather at every cap, and the ceiling on the same rows; returns the best cap."""
    width, count = table_ND.shape[1], len(sets[0])
    out_RD = torch.full((count, width), torch.nan, device=bed.device)
    table_M, row_bytes = bed.table(), 4 * width

    def ours(cap: int, run: int) -> None:
        gather(table_ND, sets[run % SETS], out_RD, cap)

    def bare(cap: int, run: int) -> None:
        ceiling.read(table_M, sets[run % SETS], row_bytes, cap)

    works: dict[str, Work] = {f"gcnrec-zero-copy-{cap}": partial(ours, cap) for cap in bed.sizes.caps}
    if row_bytes & (row_bytes - 1) == 0:
        works |= {f"ceiling-read-{cap}": partial(bare, cap) for cap in bed.sizes.caps[-6:]}
    timings = race(bed, works)
    touched = lines(sets[0].cpu().numpy() * row_bytes, np.full(count, row_bytes))
    facts = {"width": width, "order": order, "lines_per_row": touched / count, "table_bytes": len(table_M)}
    report_timings(bed, "gather", timings, count, count * row_bytes, **facts)
    gather(table_ND, sets[0], out_RD, bed.sizes.caps[-1])
    _require_equal(out_RD, table_ND, sets[0])
    return min(bed.sizes.caps, key=lambda cap: timings[f"gcnrec-zero-copy-{cap}"].seconds)


def _require_equal(out_RD: torch.Tensor, table_ND: torch.Tensor, rows_R: torch.Tensor) -> None:
    """The bits of some rows, so that a fast kernel that reads the wrong ones does not pass."""
    some = slice(0, None, max(1, len(rows_R) // 4096))
    expected = table_ND[rows_R[some].cpu()]
    if not torch.equal(out_RD[some].cpu().view(torch.int32), expected.view(torch.int32)):
        raise RuntimeError(f"the gather of {tuple(out_RD.shape)} rows at full size is wrong")


def _peers(bed: Bed, table_ND: torch.Tensor, sets: list[torch.Tensor], cap: int) -> None:
    width, count, places = table_ND.shape[1], len(sets[0]), len(table_ND)
    on_host = [rows.cpu() for rows in sets]
    out_RD = torch.empty(count, width, device=bed.device)
    buffer_RD = bed.host(torch.zeros(count, width))
    resident = min(places, 16 * count)
    resident_ND = torch.randn(resident, width, device=bed.device)
    resident_sets = row_sets(bed, resident, count)

    def pinned(fetch: Callable[[torch.Tensor, torch.Tensor], object], run: int) -> None:
        fetch(on_host[run % SETS], buffer_RD)
        out_RD.copy_(buffer_RD, non_blocking=True)

    def by_torch(rows_R: torch.Tensor, into_RD: torch.Tensor) -> None:
        torch.index_select(table_ND, 0, rows_R, out=into_RD)

    def by_numba(rows_R: torch.Tensor, into_RD: torch.Tensor) -> None:
        on_cores.gather(table_ND, rows_R.numpy(), into_RD)

    works: dict[str, Work] = {
        "gcnrec-zero-copy": lambda run: gather(table_ND, sets[run % SETS], out_RD, cap),
        "gcnrec-on-device": lambda run: gather(resident_ND, resident_sets[run % SETS], out_RD),
        "torch-on-device": lambda run: torch.index_select(resident_ND, 0, resident_sets[run % SETS], out=out_RD),
        "torch-index-pageable": lambda run: table_ND[on_host[run % SETS]].to(bed.device),
        "torch-index-select-pinned": partial(pinned, by_torch),
        "numba-pinned": partial(pinned, by_numba),
    }
    timings = race(bed, works, runs=7)
    report_timings(bed, "gather-peers", timings, count, count * 4 * width, width=width, blocks=cap)
    for name, fetch in {"torch": by_torch, "numba": by_numba}.items():
        timings = race(bed, {f"{name}-pinned-loader": _loader(bed, on_host, out_RD, fetch)}, runs=3)
        report_timings(bed, "gather-peers", timings, BATCHES * count, BATCHES * count * 4 * width, width=width, batches=BATCHES)


def _loader(bed: Bed, on_host: list[torch.Tensor], out_RD: torch.Tensor, fetch: Callable[..., object]) -> Work:
    """A thread gathers batch t + 1 into one pinned buffer while batch t is copied from the other."""
    buffers = [bed.host(torch.zeros(out_RD.shape)) for _ in range(2)]

    def work(run: int) -> None:
        free = [bed.mark(), bed.mark()]

        def prepare(batch: int) -> torch.Tensor:
            free[batch % 2]()
            fetch(on_host[(run + batch) % SETS], buffers[batch % 2])
            return buffers[batch % 2]

        with ThreadPoolExecutor(1) as thread:
            ready = thread.submit(prepare, 0)
            for batch in range(BATCHES):
                buffer_RD = ready.result()
                out_RD.copy_(buffer_RD, non_blocking=True)
                free[batch % 2] = bed.mark()
                if batch + 1 < BATCHES:
                    ready = thread.submit(prepare, batch + 1)

    return work


def _cached(bed: Bed, table_ND: torch.Tensor, count: int, cap: int) -> None:
    """A prefix of the rows kept on the device, as a cache of the most popular holds them: ascending rows split in two."""
    width, cached = table_ND.shape[1], max(2 * count, int(CACHED_SHARE * len(table_ND)))
    hits = int(HIT_SHARE * count)
    misses = [cached + rows for rows in row_sets(bed, len(table_ND) - cached, count - hits)]
    sets = [torch.cat(parts) for parts in zip(row_sets(bed, cached, hits), misses, strict=True)]
    cache_HD = table_ND[:cached].to(bed.device)
    out_RD = torch.empty(count, width, device=bed.device)

    def split(run: int) -> None:
        rows_R = sets[run % SETS]
        gather(table_ND, rows_R[hits:], out_RD[hits:], cap)
        gather(cache_HD, rows_R[:hits], out_RD[:hits])

    works: dict[str, Work] = {
        "gcnrec-zero-copy": lambda run: gather(table_ND, sets[run % SETS], out_RD, cap),
        "gcnrec-zero-copy-cache": split,
    }
    timings = race(bed, works)
    facts = {"width": width, "hit_share": hits / count, "cache_bytes": cached * 4 * width, "blocks": cap}
    report_timings(bed, "gather-cache", timings, count, count * 4 * width, **facts)
    split(0)
    _require_equal(out_RD, table_ND, sets[0])
