"""The cap on a transfer's grid that disturbs training least: gathers on their own stream during products that fill the GPU."""

from __future__ import annotations

from functools import partial

import torch

from gcnrec.cuda.gather import gather
from jobs.measure.gpu.bed import SETS, Bed, race, report_timings, row_sets
from jobs.measure.gpu.rates.gathers import rows_of

WIDTH = 64
RATIOS = (0.5, 1.0)
"""Time of the gather over the time of the simultaneous products."""


def run(bed: Bed) -> None:
    table_ND = rows_of(bed, WIDTH)
    count = bed.sizes.call_bytes // (4 * WIDTH)
    sets = row_sets(bed, len(table_ND), count)
    out_RD = torch.empty(count, WIDTH, device=bed.device)
    size = bed.sizes.matrix
    left, right = (torch.randn(size, size, device=bed.device).bfloat16() for _ in range(2))
    product = torch.empty_like(left)

    def read(cap: int, run: int) -> None:
        gather(table_ND, sets[run % SETS], out_RD, cap)

    def compute(times: int, run: int) -> None:
        for _ in range(times):
            torch.mm(left, right, out=product)

    def both(cap: int, times: int, run: int) -> None:
        bed.both(partial(read, cap, run), partial(compute, times, run))

    alone = race(bed, {f"gather-{cap}": partial(read, cap) for cap in bed.sizes.caps} | {"product": partial(compute, 1)})
    report_timings(bed, "tuning-alone", alone, count, count * 4 * WIDTH)
    fastest = min(alone[f"gather-{cap}"].seconds for cap in bed.sizes.caps)
    advice = {}
    for ratio in RATIOS:
        times = max(1, round(fastest / ratio / alone["product"].seconds))
        busy = race(bed, {"products": partial(compute, times)}, runs=5)["products"].seconds
        timings = race(bed, {str(cap): partial(both, cap, times) for cap in bed.sizes.caps}, runs=5)
        for name, timing in timings.items():
            own = alone[f"gather-{name}"].seconds
            hidden = (own + busy - timing.seconds) / min(own, busy)
            facts = {"blocks": int(name), "ratio": ratio, "products": times, "products_seconds": busy, "gather_seconds": own}
            report_timings(bed, "tuning", {f"both-{name}": timing}, count, count * 4 * WIDTH, overlap=hidden, **facts)
        advice[ratio] = int(min(timings, key=lambda name: timings[name].seconds))
    by_ratio = {str(ratio): blocks for ratio, blocks in advice.items()}
    bed.report({"bench": "tuning", "variant": "advice", "max_blocks": advice[RATIOS[-1]], "by_ratio": by_ratio})
