"""Memory that is counted: scratch on disk for whole node matrices, and memory.json. All sizes in bytes."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from pathlib import Path

import torch

from gcnrec.errors import DataError
from gcnrec.system.pages import map_rows
from gcnrec.tables.dense import Table
from gcnrec.tables.rules import Rule


def scratch_rows(folder: Path, rows: int, width: int) -> torch.Tensor:
    """Float32 (rows, width) in a nameless file of `folder`, memory-mapped: it takes disk, and RAM only as far as there is some.

    The file vanishes with the last reference. Its blocks are reserved first: a full disk is a DataError here, where writing
    into the map would end the process.
    """
    size = max(4, 4 * rows * width)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return map_rows(file, rows, width)
    except OSError as problem:
        raise DataError(
            f"{size:,} bytes of scratch cannot be had in {folder}: {problem.strerror or problem}; "
            "free some space or put the run on another disk"
        ) from None


def scratch_values(folder: Path, length: int) -> torch.Tensor:
    """`length` float32 values of scratch, as `scratch_rows` gives them."""
    return scratch_rows(folder, 1, length)[0]


def memory_report(table: Table, rule: Rule, budget: int, base_width: int, export_width: int) -> dict[str, int]:
    """Values and bytes of a table and of the embeddings that it serves.

    `dense_bytes` is a dense table of the base width with the same rule; `scratch_bytes` what exports write to disk.
    `peak_table_bytes` counts table, state and what explorations hold, as allocated.
    """
    return {
        "budget_values": budget,
        "values": table.num_values,
        "values_max_seen": table.max_values_seen,
        "value_bytes": table.value_bytes,
        "index_bytes": table.index_bytes,
        "state_bytes": table.state_bytes,
        "peak_table_bytes": table.peak_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
        "scratch_bytes": 4 * table.num_rows * export_width,
        "served_bytes": 4 * table.num_rows * export_width,
        "dense_bytes": table.num_rows * 4 * (base_width + rule.state_width(base_width) + 1),
    }


def peak_rss_bytes() -> int:
    """The largest resident size that this process has had (getrusage counts KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
