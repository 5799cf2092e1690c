"""memory.json counted by hand."""

from __future__ import annotations

import errno
import os
import resource

import numpy as np
import pytest
import torch

from gcnrec.errors import DataError
from gcnrec.system.limits import peak_rss_bytes
from gcnrec.system.pages import scratch_rows
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import Adam
from gcnrec.tables.slots import SlotTable
from gcnrec.training.finish import memory_report


def test_report_by_hand():
    """10 rows of 33 floats; Adam's state is 66 floats and one step number a row. Padding is not counted."""
    report = memory_report(DenseTable(torch.zeros(10, 33), 66), Adam(0.9, 0.999, 1e-8), 330, 33, 99)
    assert report.pop("peak_rss_bytes") > 1 << 20
    assert report == {
        "budget_values": 330, "values": 330, "values_max_seen": 330,
        "value_bytes": 1320, "index_bytes": 0, "state_bytes": 2640 + 40, "peak_table_bytes": 4000,
        "scratch_bytes": 3960, "served_bytes": 3960, "dense_bytes": 4000,
    }  # fmt: skip


def test_report_of_a_sparse_table_by_hand():
    """Two rows of 3 and 1 values in records of 16 and 8 bytes: 4 * 4 bytes of values in two slabs of 2048 bytes."""
    table = SlotTable(2, 8, 5, (2, 0))
    moments, scalars = np.zeros((2, 4), np.float32), np.zeros((2, 0), np.float32)
    with table.rebuild() as rebuild:
        rebuild.write(SlotBlock(0, np.array([3, 1]), np.array([0, 2, 5, 7], np.uint8), np.ones(4, np.float32), moments, scalars))
    report = memory_report(table, Adam(0.9, 0.999, 1e-8), 5, 4, 8)
    assert (report["values"], report["values_max_seen"], report["budget_values"]) == (4, 4, 5)
    assert report["value_bytes"] == 16 and report["index_bytes"] == 2 * 2048 - 16 + 2 * (4 + 1)
    assert report["peak_table_bytes"] == report["value_bytes"] + report["index_bytes"] + report["state_bytes"]
    assert report["dense_bytes"] == 2 * (4 * 4 + 2 * 4 * 4 + 4)


def test_peak_is_in_bytes_and_never_falls():
    before = peak_rss_bytes()
    block = torch.ones(16 << 20)  # 64 MiB
    assert peak_rss_bytes() >= before
    assert peak_rss_bytes() >= block.nbytes
    assert peak_rss_bytes() >= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_scratch_is_zero_writable_and_leaves_no_file(tmp_path):
    rows = scratch_rows(tmp_path, 100, 7)
    assert rows.shape == (100, 7) and rows.dtype == torch.float32 and not rows.any()
    rows[3] = 2.5
    assert float(rows.sum()) == 7 * 2.5
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    def full(descriptor, first, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"2,800 bytes of scratch .* No space left on device; free some space"):
        scratch_rows(tmp_path, 100, 7)
