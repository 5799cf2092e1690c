"""Bench `scale`: what a step costs when several workers of this machine take it, and what rows cost that workers share.

    strong   the same batch, in as many parts as the largest number of workers, whose losses must be equal bit for bit
    weak     a part of the same size for each worker, so that the batch grows with their number
    rows     lookup, gradient and row-wise Adagrad of shared rows, against TorchRec in an environment of its own

Workers train sampled LightGCN, each on one thread. Wall seconds mean something only where each has a core to itself; CPU seconds,
of all threads of a worker, and bytes that workers send to each other do anywhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcnrec.bench.contenders import scale_rows
from gcnrec.bench.contenders.scale_rows import RowsTask
from gcnrec.bench.contenders.scale_task import Cost, Lane, cost_of
from gcnrec.bench.graphs import GOWALLA
from gcnrec.bench.harness import Row, overall, summary
from gcnrec.errors import UsageError

WORKERS = (1, 2)
TOLERANCE = 1e-5
"""Of rows after all updates of both contenders, as a share of the largest value: their sums have other orders."""
_MOST_WORKERS = 64
LEFT_OUT = "TorchRec is left out: name the Python of an environment that has it by --torchrec-python"


def run(
    dataset: Path | None = None,
    workers: Sequence[int] = WORKERS,
    torchrec: Path | None = None,
    batch_size: int = 8192,
    steps: int = 8,
    rounds: int = 3,
    size: tuple[int, int, int] = GOWALLA,
) -> Iterator[Row]:
    """Rows of all lanes, of which rounds alternate, and the closing row.

    `dataset` is a dataset folder; None is a synthetic graph of `size`. `torchrec` is the Python that has the peer; without it the
    closing row has no speedup, and says so. Raises UsageError for numbers of workers that no parts have.
    """
    lanes = lanes_of(workers, Lane(1, 1, batch_size, steps, 64, 1, None if dataset is None else str(dataset.resolve()), size))
    found: dict[str, list[Cost]] = {name: [] for name in lanes}
    for _ in range(rounds):
        for name, lane in lanes.items():
            found[name].append(cost_of(lane))
    require_equal({name: costs[0].losses for name, costs in found.items() if "strong" in name})
    rows = [row_of("scale", name, costs, lanes[name].batch_size) for name, costs in found.items()]
    yield from rows
    if torchrec is None or max(workers) == 1:
        yield {**summary("scale", rows, []), "left_out": LEFT_OUT}
        return
    *exchanged, closing = of_rows(RowsTask(max(workers), sum(size[:2]), 50_000, 64, 1, steps), torchrec, rounds)
    yield from exchanged
    yield closing
    yield overall("scale", [closing])


def lanes_of(workers: Sequence[int], one: Lane) -> dict[str, Lane]:
    """Lanes by name; `one` is that of a single worker. The strong ones have as many parts as the largest number of workers."""
    allowed = [1 << power for power in range(_MOST_WORKERS.bit_length())]
    if not workers or sorted(set(workers)) != list(workers) or not set(workers) <= set(allowed):
        raise UsageError(
            f"--workers must be powers of two up to {_MOST_WORKERS}, ascending, got {list(workers)}; for example 1,2"
        )
    most = max(workers)
    strong = {f"gcnrec-strong-{each}": replace(one, workers=each, parts=most) for each in workers}
    weak = {f"gcnrec-weak-{each}": replace(one, workers=each, parts=each, batch_size=one.batch_size * each) for each in workers}
    return strong | weak


def require_equal(losses: dict[str, list[float]]) -> None:
    """RuntimeError unless lanes of the same batches, in the same parts, have the same losses."""
    (first, expected), *others = losses.items()
    for name, found in others:
        if found != expected:
            raise RuntimeError(f"bench scale: the losses of {name!r} must equal those of {first!r}: {found} against {expected}")


def row_of(bench: str, name: str, costs: Sequence[Cost], units: int) -> Row:
    """Medians over rounds; CPU seconds of the worker with most, and of all together; bytes that all send in a step."""
    seconds = statistics.median(cost.seconds for cost in costs)
    return {
        "bench": bench,
        "variant": name,
        "seconds": seconds,
        "runs": len(costs),
        "units": units,
        "rate": units / seconds,
        "peak_bytes": 0,
        "workers": len(costs[0].cpu_W),
        "cpu_seconds_a_worker": statistics.median(max(cost.cpu_W) for cost in costs),
        "cpu_seconds": statistics.median(sum(cost.cpu_W) for cost in costs),
        "bytes_exchanged": statistics.median(sum(cost.bytes_W) for cost in costs),
    }


def of_rows(task: RowsTask, torchrec: Path, rounds: int) -> list[Row]:
    """A row of each contender, and the summary by wall seconds, with the CPU seconds of a worker compared as well."""
    ours, peers, differences = [], [], []
    for _ in range(rounds):
        own, peer = scale_rows.ours(task), scale_rows.of_torchrec(task, torchrec)
        differences.append(scale_rows.difference(own, peer))
        ours.append(own.cost)
        peers.append(peer.cost)
    if not max(differences) <= TOLERANCE:
        raise RuntimeError(f"bench scale: rows of TorchRec must agree within {TOLERANCE:g}, differ by {max(differences):g}")
    agreed: dict[str, Any] = {"difference": max(differences), "tolerance": TOLERANCE}
    names = {"gcnrec-rows": ours, "torchrec-row-wise": peers}
    rows = [{**row_of("scale-rows", name, costs, task.asked), **agreed} for name, costs in names.items()]
    rows[1]["bytes_exchanged"] = None  # it does not count them
    by_cpu = rows[1]["cpu_seconds_a_worker"] / rows[0]["cpu_seconds_a_worker"]
    return [*rows, {**summary("scale-rows", rows, []), "cpu_speedup": by_cpu}]
