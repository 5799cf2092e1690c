"""memory.json: what a trained model costs, counted from what was allocated. All sizes in bytes."""

from __future__ import annotations

import resource
import sys

import torch

from gcnrec.table import Table


def memory_report(table: Table, exported_NF: torch.Tensor) -> dict[str, int]:
    """Values and bytes of a table and of the embeddings that it serves.

    `dense_bytes` is a dense table of the base width with the same rule; `scratch_bytes` what exports write to disk.
    """
    tensors = table.tensors()
    value_bytes = tensors["weights"].nbytes
    state_bytes = sum(tensor.nbytes for name, tensor in tensors.items() if name != "weights")
    return {
        "budget_values": table.num_rows * table.width,
        "values": table.num_values,
        "values_max_seen": table.num_values,
        "value_bytes": value_bytes,
        "index_bytes": 0,
        "state_bytes": state_bytes,
        "peak_table_bytes": value_bytes + state_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
        "scratch_bytes": 0,
        "served_bytes": exported_NF.nbytes,
        "dense_bytes": value_bytes + state_bytes,
    }


def peak_rss_bytes() -> int:
    """The largest resident size that this process has had (getrusage counts KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
