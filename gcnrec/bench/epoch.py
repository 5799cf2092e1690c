"""Bench `epoch`: a stretch of training steps as a user meets them, from drawing a batch to the table's updated rows.

LightGCN with two hops of ten drawn neighbours, softmax in the batch, lazy Adam. Every contender draws for itself, so results
are compared by what training comes to: the loss of the first step, and the loss that the stretch ends with, may differ by
`TOLERANCE` of what the first contender's loss fell by. Units are positives; every repetition continues the previous one.
With a GPU a second part trains tables in host memory, read in place or gathered by the CPU and copied, and a table in the
GPU's own memory; drawing is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numba
import torch

from gcnrec.bench.contenders.epoch_task import Ours, Stretch, Task, dense, difference, serially, slots, task_of
from gcnrec.bench.contenders.gathered import Pageable, Pinned, Prefetched
from gcnrec.bench.gather import device_or_none
from gcnrec.bench.graphs import GOWALLA, graph_of
from gcnrec.bench.harness import Row, Variant, measure, overall, rest, summary
from gcnrec.device import pipeline_of
from gcnrec.queues import Device
from gcnrec.system.machine import available_cores
from gcnrec.tables.hot_rows import Prefixes, hottest
from gcnrec.tables.pipelined import ROW_UNIT, PipelinedTable

TOLERANCE = 0.25
"""Of the fall of the loss in a stretch. A batch has a noise of a few hundredths; a contender that learns nothing differs by 1."""
CACHE_SHARE = 0.1
"""Share of the table's bytes that `gcnrec-host-cache` keeps on the GPU."""

Contender = Callable[[], Stretch]


def run(
    dataset: Path | None = None,
    width: int = 64,
    batch_size: int = 2048,
    steps: int = 40,
    threads: int | None = None,
    runs: int = 5,
    size: tuple[int, int, int] = GOWALLA,
) -> Iterator[Row]:
    """Rows of all contenders, on a dataset folder or (None) on a synthetic graph of `size`, and the closing row.

    The speedup leaves `gcnrec-slots` out: it trains a quarter of the values.
    """
    threads = threads or available_cores()
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    task = task_of(graph_of(dataset, size), width, batch_size, steps)
    parts, device = {"epoch": on_host(task, threads)}, device_or_none()
    if device is not None:
        parts["epoch-gpu"] = on_device(task, device, pipeline_of(device))
    summaries = []
    for name, builds in parts.items():
        variants = [Variant(contender, build, _go, rest) for contender, build in builds.items()]
        *rows, closing = measure(name, variants, task.positives, difference, TOLERANCE, runs=runs, warmup=1)
        yield from rows
        whole = [row for row in rows if row["variant"] not in ("gcnrec-slots", "gcnrec-device")]
        summaries.append(summary(name, whole, closing["absent"], void=closing["speedup"] is None))
        yield summaries[-1]
    yield overall("epoch", summaries)


def on_host(task: Task, threads: int) -> dict[str, Callable[[], Contender]]:
    """All of them required."""
    from gcnrec.bench.contenders import epoch_peers as peers

    return {
        "gcnrec": lambda: Ours(task, dense(task)),
        "gcnrec-serial": lambda: Ours(task, dense(task), serially),
        "gcnrec-slots": lambda: Ours(task, slots(task)),
        "dgl-neighborsampler": partial(peers.dgl, task, threads),
        "torch": partial(peers.torch_only, task, threads),
    }


def on_device(task: Task, device: torch.device, queues: Device) -> dict[str, Callable[[], Contender]]:
    """The same step on `device`, the rows brought in every way; for a CPU, which a test may name, nothing is pinned."""
    every = Prefixes(task.graph.num_users, task.graph.num_users, task.graph.num_items)
    return {
        "gcnrec-host-overlap": lambda: Ours(task, PipelinedTable(dense(task), queues)),
        "gcnrec-host-serial": lambda: Ours(task, PipelinedTable(dense(task), queues), serially),
        "gcnrec-host-cache": lambda: Ours(task, _cached(task, queues)),
        "gcnrec-device": lambda: Ours(task, PipelinedTable(dense(task), queues, every)),
        "cpu-gather-pageable": lambda: Ours(task, Pageable(dense(task), device)),
        "cpu-gather-pinned": lambda: Ours(task, Pinned(dense(task), device)),
        "cpu-gather-prefetch": lambda: Ours(task, Prefetched(dense(task), device)),
    }


def _cached(task: Task, queues: Device) -> PipelinedTable:
    table = dense(task)
    budget = int(CACHE_SHARE * (table.value_bytes + table.state_bytes))
    return PipelinedTable(table, queues, hottest(task.graph, lambda rows_H: ROW_UNIT * sum(table.sizes(rows_H)), budget))


def _go(contender: Contender) -> Stretch:
    return contender()
