"""Bench `epoch`: a stretch of training steps, from drawing a batch to the table's updated rows.

LightGCN with two hops of ten drawn neighbours, softmax in the batch, lazy Adam. Every contender draws its own batches, so
results are compared by losses: at the first step and at the end of the stretch, they may differ by `TOLERANCE` of the fall of
the first contender's loss. Units are positives; every repetition continues the previous one.
With a GPU a second part trains tables in host memory, read in place or gathered by the CPU and copied, and a table in the
GPU's own memory; drawing is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gcnrec.bench.contenders import epoch_peers as peers
from gcnrec.bench.contenders.epoch_task import Ours, Stretch, Task, dense, difference, on_device, serially, slots, task_of
from gcnrec.bench.gather import device_or_none
from gcnrec.bench.graphs import GOWALLA, graph_of
from gcnrec.bench.harness import Row, in_parts, measure, summary, use_threads, variants_of
from gcnrec.device import pipeline_of

TOLERANCE = 0.25
"""Of the fall of the loss in a stretch. A batch has a noise of a few hundredths; a contender that learns nothing differs by 1."""

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
    threads = use_threads(threads)
    task = task_of(graph_of(dataset, size), width, batch_size, steps)
    parts, device = {"epoch": on_host(task, threads)}, device_or_none()
    if device is not None:
        parts["epoch-gpu"] = on_device(task, device, pipeline_of(device))

    def part(name: str) -> Iterator[Row]:
        *rows, closing = measure(name, variants_of(parts[name]), task.positives, difference, TOLERANCE, runs=runs, warmup=1)
        yield from rows
        whole = [row for row in rows if row["variant"] not in ("gcnrec-slots", "gcnrec-device")]
        yield summary(name, whole, closing["absent"])

    yield from in_parts("epoch", map(part, parts))


def on_host(task: Task, threads: int) -> dict[str, Callable[[], Contender]]:
    """All of them required."""
    return {
        "gcnrec": lambda: Ours(task, dense(task)),
        "gcnrec-serial": lambda: Ours(task, dense(task), serially),
        "gcnrec-slots": lambda: Ours(task, slots(task)),
        "dgl-neighborsampler": partial(peers.dgl, task, threads),
        "torch": partial(peers.torch_only, task, threads),
    }
