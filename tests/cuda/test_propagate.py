"""Products with the graph against the CPU's kernels and float64, on graphs of every awkward shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import propagate as cuda
from gcnrec.errors import DataError
from gcnrec.graph import Csr, csr_from_edges, transpose
from gcnrec.ops import propagate as ops
from gcnrec.testing import assert_as_accurate


def random_csr(rows, columns, edges):
    draw = np.random.default_rng(0)
    skewed = (rows * draw.random(edges) ** 3).astype(np.int32)
    return csr_from_edges(skewed, draw.integers(0, columns, edges).astype(np.int32), rows, columns)


def star(columns):
    return Csr(np.array([0, columns], np.int64), np.arange(columns, dtype=np.int32), columns)


def far_row():
    """Seventy rows: row 40 has 1100 edges, row 41 has 1024, others one."""
    lengths = np.ones(70, np.int64)
    lengths[40:42] = 1100, 1024
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return Csr(indptr, np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]), 1100)


GRAPHS = {
    "a long row far behind": far_row(),
    "skewed, with empty rows": random_csr(60, 45, 500),
    "star": star(2100),
    "star seen from its leaves": transpose(star(100)),
    "no edges": Csr(np.zeros(8, np.int64), np.zeros(0, np.int32), 5),
    "no rows": Csr(np.zeros(1, np.int64), np.zeros(0, np.int32), 5),
}


def long_columns():
    """1600 rows; columns of 1600, 1025, 1024 and 100 edges, and of 1100, all of them from row 500 on."""
    rows = [np.arange(1600), np.arange(0, 1025), np.arange(1, 1025), np.arange(0, 500, 5), np.arange(500, 1600)]
    columns = np.repeat(np.arange(5), [len(part) for part in rows])
    return csr_from_edges(np.concatenate(rows).astype(np.int32), columns.astype(np.int32), 1600, 5)


SCATTERED = {**GRAPHS, "long columns": long_columns()}


def on_device(csr):
    other = transpose(csr)
    tensors = [torch.from_numpy(np.array(part)) for part in (csr.indptr, csr.indices, other.indptr, other.indices)]
    return cuda.Csr(*tensors[:2], csr.columns, cuda.Csr(*tensors[2:], csr.rows))


def inputs(csr, width):
    draw = torch.Generator().manual_seed(width)
    return (
        torch.randn(csr.columns, width, generator=draw),
        torch.rand(csr.rows, generator=draw) + 0.1,
        torch.rand(csr.columns, generator=draw) + 0.1,
    )


def scaled(csr, row_scale, column_scale):
    """The scaled graph as a dense float64 matrix."""
    dense = np.zeros((csr.rows, csr.columns))
    dense[csr.row_numbers(), csr.indices] = 1.0
    return row_scale.double().numpy()[:, None] * dense * column_scale.double().numpy()


def exact_product(csr, source, row_scale, column_scale):
    return torch.from_numpy(scaled(csr, row_scale, column_scale)) @ source.double()


@pytest.mark.parametrize("width", [1, 3, 16, 64, 72, 130])
@pytest.mark.parametrize("name", GRAPHS)
def test_propagate(host, name, width):
    csr = GRAPHS[name]
    values = inputs(csr, width)
    found, yardstick = cuda.propagate(on_device(csr), *values), ops.propagate(csr, *values)
    assert_as_accurate(found, yardstick, exact_product(csr, *values), name)


@pytest.mark.parametrize("name", GRAPHS)
def test_chosen_rows_and_column_blocks(host, name):
    csr = GRAPHS[name]
    source, row_scale, column_scale = inputs(csr, 40)
    whole = cuda.propagate(on_device(csr), source, row_scale, column_scale)
    rows = torch.tensor([0, csr.rows - 1, 0] if csr.rows else [], dtype=torch.int32)
    chosen = cuda.propagate_rows(on_device(csr), source, row_scale, column_scale, rows)
    assert torch.equal(chosen, whole[rows.long()])
    around = torch.full((csr.rows, 44), -1.0)
    cuda.propagate(on_device(csr), source[:, 8:24], row_scale, column_scale, around[:, 5:21])
    assert torch.equal(around[:, 5:21], whole[:, 8:24])
    assert (around[:, :5] == -1).all() and (around[:, 21:] == -1).all()


@pytest.mark.parametrize("width", [1, 33, 64, 130])
@pytest.mark.parametrize("name", SCATTERED)
def test_scatter_rows(host, name, width):
    csr = SCATTERED[name]
    _, row_scale, column_scale = inputs(csr, 1)
    rows = np.random.default_rng(0).integers(0, min(csr.rows, 500), 60).astype(np.int32) if csr.rows else np.empty(0, np.int32)
    draw = torch.Generator().manual_seed(1)
    grad, out = torch.randn(len(rows), width, generator=draw), torch.randn(csr.columns, width, generator=draw)
    expected, exact = out.clone(), out.double()
    ops.scatter_rows(csr, grad, rows, row_scale, column_scale, expected)
    scaled_CV = torch.from_numpy(scaled(csr, row_scale, column_scale).T[:, rows.astype(np.int64)])
    exact += scaled_CV @ grad.double()
    # A long column is summed in another order, so its error is of the size of its terms.
    passed = float((scaled_CV @ grad.double().abs()).max()) if name == "long columns" else 0.0
    untouched = (exact == out.double()).all(1)
    before = out.clone()
    assert cuda.scatter_rows(on_device(csr), grad, torch.from_numpy(rows), row_scale, column_scale, out) is out
    assert_as_accurate(out, expected, exact, name, passed)
    assert torch.equal(out[untouched], before[untouched])
    assert name != "long columns" or untouched.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(("longest", "launches"), [(None, 2), (1025, 2), (1024, 1), (0, 1)])
def test_no_block_looks_for_long_rows_where_none_is(host, longest, launches):
    csr = on_device(GRAPHS["skewed, with empty rows"])
    source, row_scale, column_scale = inputs(GRAPHS["skewed, with empty rows"], 4)
    bounded = csr._replace(longest=longest, transposed=csr.transposed._replace(longest=longest))
    expected = cuda.propagate(csr, source, row_scale, column_scale)
    host.launches.clear()
    assert torch.equal(cuda.propagate(bounded, source, row_scale, column_scale), expected)
    assert len(host.launches) == launches
    rows = torch.zeros(1, dtype=torch.int32)
    cuda.scatter_rows(bounded, torch.ones(1, 4), rows, row_scale, column_scale, torch.zeros(45, 4))
    assert len(host.launches) == 2 * launches


def test_marks(host):
    csr = GRAPHS["skewed, with empty rows"]
    rows = np.array([0, 40, 59, 3], np.int32)
    expected, flags = np.zeros(45, np.uint8), torch.zeros(45, dtype=torch.uint8)
    expected[44] = flags[44] = 7
    ops.mark_rows(csr, rows, expected)
    cuda.mark_rows(on_device(csr), torch.from_numpy(rows), flags)
    assert flags.tolist() == expected.tolist()


def test_what_does_not_fit_is_refused(host):
    csr = on_device(GRAPHS["skewed, with empty rows"])
    source, row_scale, column_scale = inputs(GRAPHS["skewed, with empty rows"], 4)
    for wrong, sentence in (
        (lambda: cuda.propagate(csr, source[1:], row_scale, column_scale), "rows of one width"),
        (lambda: cuda.propagate(csr, source, column_scale, row_scale), "scales must be 60 and 45"),
        (
            lambda: cuda.scatter_rows(
                csr._replace(transposed=None), source, torch.zeros(45, dtype=torch.int32), row_scale, column_scale, source
            ),
            "need the transposed graph",
        ),
    ):
        with pytest.raises(DataError, match=sentence):
            wrong()
