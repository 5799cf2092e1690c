"""The kernels that measure the bus: they must really touch what they say, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import ceiling
from gcnrec.errors import DataError

ROWS = torch.tensor([19, 3, 0, 7, 11, 2, 18, 5, 9])


def memory(row_bytes):
    """Twenty rows of random bytes, on an address of 16."""
    buffer = torch.empty(20 * row_bytes + 16, dtype=torch.uint8)
    start = -buffer.data_ptr() % 16
    part = buffer[start : start + 20 * row_bytes]
    return part.copy_(torch.randint(0, 256, part.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


def words(memory_M, row_bytes):
    return memory_M.numpy().view(np.uint32).reshape(-1, row_bytes // 4)


@pytest.mark.parametrize("row_bytes", [16, 64, 128, 256, 512])
def test_read_sees_every_word_once(host, row_bytes):
    own = memory(row_bytes)
    seen = ceiling.read(own, ROWS, row_bytes, max_blocks=2)
    expected = np.bitwise_xor.reduce(words(own, row_bytes)[ROWS.numpy()], axis=None)
    # In a single block, as one fixture has it, the other block's parts stay unwritten.
    first = seen[: ceiling.WARPS] if host.falling else seen
    assert np.bitwise_xor.reduce(first.numpy().view(np.uint32)) == expected


@pytest.mark.parametrize("row_bytes", [16, 128, 512])
def test_write_and_turn_change_their_rows_only(host, row_bytes):
    own, expected = memory(row_bytes), words(memory(row_bytes), row_bytes).copy()
    ceiling.turn(own, ROWS, row_bytes, max_blocks=2)
    expected[ROWS, ::4] = ~expected[ROWS, ::4]
    assert np.array_equal(words(own, row_bytes), expected)
    ceiling.write(own, ROWS[:4], row_bytes, 7, max_blocks=1)
    expected[ROWS[:4]] = np.tile([7, 8, 9, 10], row_bytes // 16)
    assert np.array_equal(words(own, row_bytes), expected)
    assert [grid <= 2 for _, grid, _ in host.launches] == [True, True]


@pytest.mark.parametrize("row_bytes", [0, 8, 48, 1024])
def test_rows_that_no_tile_fits_are_refused(host, row_bytes):
    with pytest.raises(DataError, match="rows must be 16, 32"):
        ceiling.read(memory(16), ROWS, row_bytes, 1)
