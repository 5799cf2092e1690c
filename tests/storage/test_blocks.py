"""Scratch in blocks of columns: comes back in rows as it was written, and leaves the disk while it is read."""

from __future__ import annotations

import errno
import math
import os

import pytest
import torch

from gcnrec.errors import DataError
from gcnrec.storage import blocks
from gcnrec.storage.blocks import ColumnBlocks


def filled(folder, rows_ND, columns):
    """Blocks that were written in stretches of 7 rows, the last one first."""
    width = rows_ND.shape[1]
    cut = [(first, min(first + columns, width)) for first in range(0, width, columns)]
    heard = []
    made = ColumnBlocks(folder, len(rows_ND), cut, lambda done, total: heard.append((done, total)))
    for block, (first, last) in enumerate(cut):
        for row in reversed(range(0, len(rows_ND), 7)):
            made.put(block, row, rows_ND[row : row + 7, first:last])
    assert heard[-1] == (rows_ND.numel(), rows_ND.numel())
    return made


@pytest.mark.parametrize("columns", [1, 4, 6, 11])
def test_rows_come_back_as_they_were_written(tmp_path, monkeypatch, columns):
    monkeypatch.setattr(blocks, "_ROWS_AT_ONCE", 10)
    rows_ND = torch.randn(45, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(filled(tmp_path, rows_ND, columns).joined(), rows_ND)
    made = filled(tmp_path, rows_ND, columns)
    taken = [made.take(first, min(first + 13, 45)) for first in range(0, 45, 13)]
    assert torch.equal(torch.cat(taken), rows_ND) and made.total == pytest.approx(float(rows_ND.double().sum()), abs=1e-4)
    assert not list(tmp_path.iterdir())


def test_what_was_taken_leaves_the_disk(tmp_path):
    rows_ND = torch.ones(4096, 8)
    made = filled(tmp_path, rows_ND, 4)
    sizes = [sum(512 * os.fstat(file.descriptor).st_blocks for file in made._files)]
    for first in range(0, 4096, 1024):
        made.take(first, first + 1024)
        sizes.append(sum(512 * os.fstat(file.descriptor).st_blocks for file in made._files))
    if sizes[1] == sizes[0]:
        pytest.skip("this file system makes no holes")
    assert sizes == [131072 - 32768 * part for part in range(5)]


def test_a_number_that_is_not_finite_is_in_the_total(tmp_path):
    rows_ND = torch.zeros(30, 3)
    rows_ND[17, 2] = math.inf
    assert math.isinf(filled(tmp_path, rows_ND, 2).total)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    def full(descriptor, first, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"1,200 bytes of scratch .* No space left on device; free some space"):
        ColumnBlocks(tmp_path, 30, [(0, 6), (6, 10)])
    assert not list(tmp_path.iterdir())
