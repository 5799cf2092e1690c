"""Where a job's table is trained: in RAM, on disk, or behind a GPU that reads host memory in place; and what crossed the bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from gcnrec.config import Job
from gcnrec.device import gpu, pipeline_of
from gcnrec.graph import BipartiteGraph
from gcnrec.hotrows import Prefixes, hottest
from gcnrec.memory import scratch_rows
from gcnrec.pipelined import ROW_UNIT, HostTable, PipelinedTable, Traffic
from gcnrec.table import Allocate, StepTable, in_ram


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


def moved(table: StepTable, before: Traffic | None, seconds: float) -> dict[str, float]:
    """Traffic since `before`, for metrics.jsonl. Rows and bytes are those read; as many are written."""
    after = traffic_of(table)
    if before is None or after is None:
        return {}
    rows, nbytes = after.rows - before.rows, after.bytes - before.bytes
    return {
        "rows_read": rows, "bytes_read": nbytes, "lines_read": after.lines - before.lines,
        "gigabytes_per_second": nbytes / seconds / 1e9, "cache_hits": (after.cached_rows - before.cached_rows) / max(rows, 1),
    }  # fmt: skip
