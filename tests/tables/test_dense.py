"""Dense tables: the conformance of every table, line alignment, and what a checkpoint holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.rows import Ticket
from gcnrec.tables.dense import LINE_BYTES, DenseTable, aligned
from gcnrec.testing import check_table


class Forgetful(DenseTable):
    """A broken table: its decoded tile is the table itself."""

    def decode(self, rows):
        return self._weights if len(rows.rows_R) == self.num_rows else self._weights[torch.from_numpy(rows.rows_R)]

    def columns(self, first, last, rows=slice(None)):
        return super().columns(first, last, rows).flip(0)


def test_conformance():
    check_table(DenseTable)


def test_conformance_fails_for_a_broken_table():
    with pytest.raises(AssertionError, match="columns must equal"):
        check_table(Forgetful)


@pytest.mark.parametrize("width", [1, 3, 16, 33, 48, 64, 100])
@pytest.mark.parametrize("rows", [1, 2, 57])
def test_rows_start_on_lines_or_share_them_evenly(rows, width):
    plane = aligned(rows, width)
    assert plane.shape == (rows, width) and plane.dtype == torch.float32
    assert plane.data_ptr() % LINE_BYTES == 0
    pitch_bytes = 4 * plane.stride(0)
    assert pitch_bytes >= 4 * width
    if 4 * width > LINE_BYTES // 2:
        assert pitch_bytes % LINE_BYTES == 0 and pitch_bytes - 4 * width < LINE_BYTES
    else:
        assert LINE_BYTES % pitch_bytes == 0 and pitch_bytes < 2 * 4 * width


@given(st.integers(0, 40), st.integers(0, 130))
def test_aligned_rows_do_not_overlap(rows, width):
    plane = aligned(rows, width)
    expected = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    for row in range(rows):
        plane[row] = torch.from_numpy(expected[row])
    assert np.array_equal(plane.numpy(), expected)


def test_the_callers_rows_are_copied():
    rows = torch.ones(4, 5)
    table = DenseTable(rows, 0)
    rows.zero_()
    assert table.columns(0, 5).eq(1).all()


@given(st.sets(st.integers(0, 8)))
def test_decode_equals_indexing(chosen):
    weights = torch.randn(9, 33, generator=torch.Generator().manual_seed(0))
    table = DenseTable(weights, 3)
    rows_R = np.array(sorted(chosen), np.int64)
    decoded = table.decode(table.read(Ticket(rows_R), with_state=False))
    assert decoded.is_contiguous() and torch.equal(decoded, weights[torch.from_numpy(rows_R)])


def test_sizes_count_values_not_padding():
    table = DenseTable(torch.zeros(10, 33), 34)
    assert (table.num_rows, table.width, table.num_values) == (10, 33, 330)
    assert table.state_bytes == 10 * 34 * 4 + 10 * 4
    tensors = table.tensors()
    assert {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} == {
        "weights": ((10, 33), torch.float32),
        "state": ((10, 34), torch.float32),
        "last": ((10,), torch.int32),
    }
    tensors["weights"].fill_(2.0)
    assert table.columns(32, 33).eq(2).all()
