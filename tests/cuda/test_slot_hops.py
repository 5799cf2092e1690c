"""Hops over slot rows against the CPU's kernels and float64: rows without slots, without edges and with very many."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import slot_hops as cuda
from gcnrec.cuda.propagate import Csr as DeviceCsr
from gcnrec.cuda.propagate import ScaledCsr
from gcnrec.cuda.slots import Slots
from gcnrec.errors import DataError
from gcnrec.graph import csr_from_edges, transpose
from gcnrec.ops import slots as ops
from gcnrec.rows import RowGrad, Ticket
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable
from gcnrec.testing import assert_as_accurate

ROWS, COLUMNS, FIRST = 30, 700, 5


def graph():
    """Row 0 has every column, row 1 none, row 2 exactly as many as the short rows' kernel takes, others a few."""
    draw = np.random.default_rng(0)
    degrees = np.r_[COLUMNS, 0, 512, draw.integers(0, 40, ROWS - 3)]
    columns = np.concatenate([draw.permutation(COLUMNS)[:degree] for degree in degrees]).astype(np.int32)
    return csr_from_edges(np.repeat(np.arange(ROWS), degrees).astype(np.int32), columns, ROWS, COLUMNS)


CSR = graph()


def long_columns():
    """700 rows; columns of 700, 513, 512, no and 2 edges."""
    degrees = [700, 513, 512, 0, 2]
    rows = np.concatenate([np.arange(degree) for degree in degrees])
    return csr_from_edges(rows.astype(np.int32), np.repeat(np.arange(5), degrees).astype(np.int32), 700, 5)


GRAPHS = {"a long row": CSR, "long columns": long_columns()}


def table_of(width, dtype, csr=CSR):
    draw = np.random.default_rng(width)
    rows = FIRST + csr.columns
    most = min(width, SlotTable(1, width, 1, (0, 0), dtype).max_count)
    counts = np.minimum(draw.integers(0, 30, rows), most)
    counts[:8] = [0, most, 0, 1, most, 0, most, 1]
    columns = np.concatenate([np.sort(draw.permutation(width)[:count]) for count in counts]).astype(np.uint8)
    table = SlotTable(rows, width, len(columns), (0, 0), dtype)
    values = draw.standard_normal(len(columns)).astype(np.float32)
    with table.rebuild() as rebuild:
        rebuild.write(
            SlotBlock(0, counts, columns, values, np.zeros((0, len(columns)), np.float32), np.zeros((rows, 0), np.float32))
        )
    return table


def on_device(table, csr=CSR):
    other = transpose(csr)
    arrays = [torch.from_numpy(np.array(part)) for part in (csr.indptr, csr.indices, other.indptr, other.indices)]
    own = DeviceCsr(*arrays[:2], csr.columns, DeviceCsr(*arrays[2:], csr.rows))
    return own, Slots(*(torch.from_numpy(part) for part in table.slots))


def scales(csr=CSR):
    draw = torch.Generator().manual_seed(0)
    return torch.rand(csr.rows, generator=draw) + 0.1, torch.rand(csr.columns, generator=draw) + 0.1


def exact_hop(csr=CSR):
    """The scaled graph as a dense float64 matrix."""
    dense = np.zeros((csr.rows, csr.columns))
    dense[csr.row_numbers(), csr.indices] = 1.0
    row_scale, column_scale = (part.double().numpy() for part in scales(csr))
    return torch.from_numpy(row_scale[:, None] * dense * column_scale)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", [1, 5, 64, 256])
def test_propagate_rows(host, width, dtype):
    table, rows = table_of(width, dtype), np.array([2, 0, 1, 29, 0, 17, 3], np.int32)
    expected, out = torch.empty(7, width), torch.full((7, width + 2), torch.nan)[:, :width]
    numbers = [part.numpy() for part in scales()]
    ops.propagate_rows(CSR.indptr, CSR.indices, rows, table.slots, FIRST, *numbers, expected.numpy(), 1)
    csr, slots = on_device(table)
    cuda.propagate_rows(ScaledCsr(csr, *scales()), torch.from_numpy(rows), slots, FIRST, out)
    dense = np.empty((COLUMNS, width), np.float32)
    ops.decode(table.slots, np.arange(FIRST, FIRST + COLUMNS), dense)
    exact = exact_hop()[rows.astype(np.int64)] @ torch.from_numpy(dense).double()
    assert_as_accurate(out, expected, exact, "propagate_rows")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", [5, 64, 256])
@pytest.mark.parametrize("name", GRAPHS)
def test_scatter_rows(host, name, width, dtype):
    csr = GRAPHS[name]
    table, rows = table_of(width, dtype, csr), np.r_[0, 1, 2, 17, 29, 29, 30 : csr.rows : 3].astype(np.int32)
    grad = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(1))
    counts = table.counts_N.astype(np.int64)
    at_N, expected, out = np.cumsum(counts) - counts, np.zeros(table.num_values, np.float32), torch.zeros(table.num_values)
    numbers = [part.numpy() for part in scales(csr)]
    graph = (csr.indptr, csr.indices, csr.columns)
    ops.scatter_rows(*graph, grad.numpy(), rows, table.slots, FIRST, *numbers, at_N, expected, 1)
    on_gpu, slots = on_device(table, csr)
    found = RowGrad(Ticket(np.arange(len(counts))), out, torch.from_numpy(at_N))
    cuda.scatter_rows(ScaledCsr(on_gpu, *scales(csr)), grad, torch.from_numpy(rows), slots, FIRST, found)
    dense = torch.zeros(FIRST + csr.columns, width, dtype=torch.float64)
    dense[FIRST:] = exact_hop(csr)[rows.astype(np.int64)].T @ grad.double()
    exact = np.zeros(table.num_values, np.float32)
    ops.pick(table.slots, np.arange(FIRST + csr.columns), dense.float().numpy(), at_N, exact)
    assert_as_accurate(out, torch.from_numpy(expected), torch.from_numpy(exact).double(), "scatter_rows")


def test_what_does_not_fit_is_refused(host):
    csr, slots = on_device(table_of(64, "float32"))
    graph = ScaledCsr(csr, *scales())
    with pytest.raises(DataError, match="expected 2 rows"):
        cuda.propagate_rows(graph, torch.zeros(2, dtype=torch.int32), slots, FIRST, torch.empty(3, 64))
    none = torch.empty(0, dtype=torch.int32)
    cuda.propagate_rows(graph, none, slots, FIRST, torch.empty(0, 64))
    grad = RowGrad(Ticket(np.zeros(1, np.int64)), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    cuda.scatter_rows(graph, torch.empty(0, 64), none, slots, FIRST, grad)
    assert host.launches == []
