"""Products with a weighted graph against float64 SciPy, on graphs of every awkward shape."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import scipy.sparse
import torch

from gcnrec.errors import DataError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.ops.weighted_products import weighted_product, weighted_product_rows, weighted_scatter_rows


def random_csr(rows, columns, edges):
    draw = np.random.default_rng(3)
    skewed = (rows * draw.random(edges) ** 3).astype(np.int32)
    return csr_from_edges(skewed, draw.integers(0, columns, edges).astype(np.int32), rows, columns)


GRAPHS = {
    "skewed, with empty rows": random_csr(60, 45, 500),
    "one long row": Csr(np.array([0, 3000]), np.arange(3000, dtype=np.int32), 3000),
    "no edges": Csr(np.zeros(8, np.int64), np.zeros(0, np.int32), 5),
    "no rows": Csr(np.zeros(1, np.int64), np.zeros(0, np.int32), 5),
}
WIDTHS = [1, 16, 33]


def inputs(csr, width):
    draw = torch.Generator().manual_seed(0)
    weights_E = (torch.rand(csr.num_edges, generator=draw) * 8 + 0.01).numpy()
    return (
        weights_E, torch.randn(csr.columns, width, generator=draw), torch.rand(csr.rows, generator=draw) + 0.1,
        torch.rand(csr.columns, generator=draw) + 0.1,
    )  # fmt: skip


def matrix(csr, weights_E, row_scale, column_scale):
    whole = scipy.sparse.csr_array((weights_E.astype(np.float64), csr.indices, csr.indptr), shape=(csr.rows, csr.columns))
    return scipy.sparse.diags_array(row_scale.double().numpy()) @ whole @ scipy.sparse.diags_array(column_scale.double().numpy())


def assert_within(result, expected):
    """1e-5 of the largest value."""
    assert np.abs(result.numpy() - expected).max(initial=0.0) <= 1e-5 * np.abs(expected).max(initial=1e-3)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_row_and_chosen_rows(name, width):
    csr = GRAPHS[name]
    weights_E, source, *scales = inputs(csr, width)
    expected = matrix(csr, weights_E, *scales) @ source.double().numpy()
    assert_within(weighted_product(csr, weights_E, source, *scales, torch.empty(csr.rows, width)), expected)
    rows_V = np.random.default_rng(0).integers(0, max(csr.rows, 1), 40 * bool(csr.rows)).astype(np.int32)
    chosen = weighted_product_rows(csr, weights_E, source, *scales, rows_V, torch.empty(len(rows_V), width))
    assert_within(chosen, expected[rows_V])


@pytest.mark.parametrize("name", ["skewed, with empty rows", "one long row", "no edges"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_transpose_adds(name, width):
    csr = GRAPHS[name]
    weights_E, source, *scales = inputs(csr, width)
    rows_V = np.random.default_rng(0).integers(0, csr.rows, 30).astype(np.int32)
    grad = torch.randn(30, width, generator=torch.Generator().manual_seed(1))
    expected = matrix(csr, weights_E, *scales)[rows_V].T @ grad.double().numpy() + source.double().numpy()
    assert_within(weighted_scatter_rows(csr, weights_E, grad, rows_V, *scales, source.clone()), expected)


def test_column_blocks_of_wider_rows():
    csr = GRAPHS["skewed, with empty rows"]
    weights_E, source, *scales = inputs(csr, 33)
    whole = weighted_product(csr, weights_E, source, *scales, torch.empty(csr.rows, 33))
    out = torch.full((csr.rows, 40), 7.0)
    weighted_product(csr, weights_E, source[:, 5:21], *scales, out[:, 3:19])
    assert torch.equal(out[:, 3:19], whole[:, 5:21])
    assert bool((out[:, :3] == 7.0).all()) and bool((out[:, 19:] == 7.0).all())


def test_threads_change_no_bit():
    csr = GRAPHS["skewed, with empty rows"]
    weights_E, source, *scales = inputs(csr, 33)
    rows_V, results = np.arange(csr.rows, dtype=np.int32), []
    before = numba.get_num_threads()
    for threads in (1, 2):
        numba.set_num_threads(threads)
        out = weighted_product(csr, weights_E, source, *scales, torch.empty(csr.rows, 33))
        results.append((out, weighted_scatter_rows(csr, weights_E, out, rows_V, *scales, torch.zeros_like(source))))
    numba.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_weights_of_another_graph_are_refused():
    csr = GRAPHS["skewed, with empty rows"]
    weights_E, source, *scales = inputs(csr, 4)
    for wrong in (weights_E[:-1], weights_E.astype(np.float64)):
        with pytest.raises(DataError, match=f"must be a float32 vector of {csr.num_edges}, one for each edge"):
            weighted_product(csr, wrong, source, *scales, torch.empty(csr.rows, 4))
