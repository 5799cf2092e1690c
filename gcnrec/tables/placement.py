"""Where a job's table is trained: in RAM, on disk, or behind a GPU that reads host memory in place; and what crossed the bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from gcnrec.config import Job
from gcnrec.device import gpu, pipeline_of
from gcnrec.graph import BipartiteGraph
from gcnrec.system.mapped_scratch import scratch_rows
from gcnrec.tables.dense import Allocate, StepTable, in_ram
from gcnrec.tables.hot_rows import Prefixes, hottest
from gcnrec.tables.pipelined import ROW_UNIT, HostTable, PipelinedTable, Traffic


def uses_gpu(job: Job) -> bool:
    """Whether the job trains on a GPU here: it must where it says so, and does where it can."""
    able = job.trains_on_gpu and torch.cuda.is_available() and find_spec("cupy") is not None
    return job.train.device == "cuda" or (job.train.device == "auto" and able)


def memory_of(job: Job, folder: Path) -> Allocate:
    """RAM, or nameless files in the run folder: scratch, never the checkpoint."""
    return (lambda length: scratch_rows(folder, 1, length)[0]) if job.table.placement == "disk" else in_ram


def placed(job: Job, graph: BipartiteGraph, table: HostTable, tell: Callable[[str], object] | None = None) -> StepTable:
    """The table behind the GPU's queues, or itself where the CPU trains. `tell` hears why rows are not read in place."""
    if uses_gpu(job):
        hot = Prefixes(graph.num_users, graph.num_users, graph.num_items)
        if job.table.placement != "device":
            hot = hottest(graph, lambda rows_H: ROW_UNIT * sum(table.sizes(rows_H)), job.table.cache_bytes)
        device = pipeline_of(gpu(), job.train.transfer_blocks, job.table.placement == "disk", tell)
        return PipelinedTable(table, device, hot)
    return table


def traffic_of(table: StepTable) -> Traffic | None:
    """What crossed the bus so far; None where tables are trained in place."""
    return replace(table.traffic()) if isinstance(table, PipelinedTable) else None


def traffic_since(table: StepTable, before: Traffic | None, earlier: Traffic | None) -> Traffic | None:
    """What crossed the bus since `before`, added to `earlier`; None where tables are trained in place."""
    after = traffic_of(table)
    if before is None or after is None:
        return None
    sums = {name: value - asdict(before)[name] for name, value in asdict(after).items()}
    return Traffic(**{name: value + (asdict(earlier)[name] if earlier else 0) for name, value in sums.items()})


def moved(traffic: Traffic | None, seconds: float) -> dict[str, float]:
    """Traffic of so many seconds, for metrics.jsonl. Rows and bytes are those read; as many are written."""
    if traffic is None:
        return {}
    return {
        "rows_read": traffic.rows, "bytes_read": traffic.bytes, "lines_read": traffic.lines,
        "gigabytes_per_second": traffic.bytes / seconds / 1e9, "cache_hits": traffic.cached_rows / max(traffic.rows, 1),
    }  # fmt: skip
