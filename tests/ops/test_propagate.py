"""Products with the graph against a naive loop in float64, on graphs of every awkward shape."""

from __future__ import annotations

from itertools import pairwise

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph, Csr, csr_from_edges, transpose
from gcnrec.ops.propagate import (
    collect_rows,
    degrees_of,
    inverse_roots,
    inverse_roots_of,
    inverse_sqrt,
    mark_rows,
    propagate,
    propagate_rows,
    scatter_rows,
)

WIDTHS = [1, 3, 8, 16, 31, 64, 72, 128, 129]


def random_csr(rows, columns, edges, seed=0):
    draw = np.random.default_rng(seed)
    skewed = (rows * draw.random(edges) ** 3).astype(np.int32)
    return csr_from_edges(skewed, draw.integers(0, columns, edges).astype(np.int32), rows, columns)


def star(columns):
    return Csr(np.array([0, columns], np.int64), np.arange(columns, dtype=np.int32), columns)


GRAPHS = {
    "skewed, with empty rows": random_csr(60, 45, 500),
    "one row": random_csr(1, 30, 12),
    "one column": random_csr(30, 1, 12),
    "star": star(3000),
    "star seen from its leaves": transpose(star(3000)),
    "no edges": Csr(np.zeros(8, np.int64), np.zeros(0, np.int32), 5),
    "no rows": Csr(np.zeros(1, np.int64), np.zeros(0, np.int32), 5),
}


def inputs(csr, width, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(csr.columns, width, generator=draw),
        torch.rand(csr.rows, generator=draw) + 0.1,
        torch.rand(csr.columns, generator=draw) + 0.1,
    )


def naive(csr, source, row_scale, column_scale):
    out = np.zeros((csr.rows, source.shape[1]))
    for row in range(csr.rows):
        for column in csr.row(row):
            out[row] += float(row_scale[row]) * float(column_scale[column]) * source[column].double().numpy()
    return out


def torch_product(csr, source, row_scale, column_scale):
    """Same precision, another library: the yardstick of the error rule."""
    edges = torch.from_numpy(csr.indices.astype(np.int64))
    rows = torch.from_numpy(csr.row_numbers().astype(np.int64))
    terms = source[edges] * (row_scale[rows] * column_scale[edges])[:, None]
    return torch.zeros(csr.rows, source.shape[1]).index_add_(0, rows, terms)


def assert_as_good_as(result, yardstick, expected):
    scale = np.abs(expected).max(initial=1e-3)
    allowed = 2 * np.abs(yardstick.numpy() - expected).max(initial=0.0) + 1e-7 * scale
    assert np.abs(result.numpy() - expected).max(initial=0.0) <= allowed


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_propagate(name, width):
    csr = GRAPHS[name]
    source, row_scale, column_scale = inputs(csr, width)
    expected = naive(csr, source, row_scale, column_scale)
    result = propagate(csr, source, row_scale, column_scale)
    assert_as_good_as(result, torch_product(csr, source, row_scale, column_scale), expected)


def test_by_hand():
    """Rows {0, 1} and {1}; scales 2, 10 and 1, 3: 2 (1 a + 3 b) and 10 (3 b)."""
    csr = Csr(np.array([0, 2, 3], np.int64), np.array([0, 1, 1], np.int32), 2)
    source = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    result = propagate(csr, source, torch.tensor([2.0, 10.0]), torch.tensor([1.0, 3.0]))
    assert result.tolist() == [[26.0, 52.0], [120.0, 240.0]]


def test_inverse_sqrt():
    assert inverse_sqrt(np.array([4, 0, 1, 16])).tolist() == [0.5, 0.0, 1.0, 0.25]


def test_roots_of_rows_are_those_of_their_degrees(monkeypatch):
    """A few rows at a time."""
    monkeypatch.setattr("gcnrec.ops.propagate._ROWS_AT_ONCE", 7)
    for csr in GRAPHS.values():
        degrees = [float(len(csr.row(row))) for row in range(csr.rows)]
        expected = np.array([degree and 1 / degree**0.5 for degree in degrees], np.float32)
        assert np.array_equal(inverse_roots(csr).numpy(), expected)
        rows_V = np.arange(csr.rows)[::-2]
        assert degrees_of(csr, rows_V).tolist() == [len(csr.row(row)) for row in rows_V]
        for looked_up in (1024, 2):
            monkeypatch.setattr("gcnrec.ops.propagate._ROOTS", inverse_sqrt(np.arange(looked_up)).numpy())
            roots_V = np.empty(len(rows_V), np.float32)
            inverse_roots_of(csr, rows_V, roots_V)
            assert np.array_equal(roots_V, expected[rows_V])


def test_symmetric_hop_is_the_normalised_adjacency():
    graph = BipartiteGraph.from_edges(np.array([0, 0, 1, 2], np.int32), np.array([0, 1, 1, 0], np.int32), 3, 2)
    user_scale, item_scale = inverse_sqrt(graph.user_items.degrees), inverse_sqrt(graph.item_users.degrees)
    nodes = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    out = torch.empty(5, 4)
    propagate(graph.user_items, nodes[3:], user_scale, item_scale, out[:3])
    propagate(graph.item_users, nodes[:3], item_scale, user_scale, out[3:])
    matrix = np.zeros((5, 5))
    for user, item in ((0, 0), (0, 1), (1, 1), (2, 0)):
        matrix[user, 3 + item] = matrix[3 + item, user] = 1
    degrees = matrix.sum(1)
    normalised = matrix / np.sqrt(degrees[:, None] * degrees[None, :])
    np.testing.assert_allclose(out.numpy(), normalised @ nodes.numpy(), atol=1e-6)


@pytest.mark.parametrize("width", [5, 64])
def test_column_blocks_of_wider_tensors(width):
    csr = GRAPHS["skewed, with empty rows"]
    source, row_scale, column_scale = inputs(csr, width)
    wide = torch.full((csr.columns, width + 9), 7.0)
    wide[:, 4 : 4 + width] = source
    target = torch.full((csr.rows, width + 3), 5.0)
    returned = propagate(csr, wide[:, 4 : 4 + width], row_scale, column_scale, target[:, 2 : 2 + width])
    assert torch.equal(returned, propagate(csr, source, row_scale, column_scale))
    assert returned.data_ptr() == target[:, 2:].data_ptr()
    assert (target[:, :2] == 5).all() and (target[:, 2 + width :] == 5).all()


def test_memory_mapped(tmp_path):
    csr = GRAPHS["skewed, with empty rows"]
    graph = BipartiteGraph(csr, transpose(csr))
    graph.save(tmp_path)
    opened = BipartiteGraph.open(tmp_path, csr.rows, csr.columns).user_items
    assert not opened.indices.flags.writeable
    source, row_scale, column_scale = inputs(csr, 16)
    assert torch.equal(propagate(opened, source, row_scale, column_scale), propagate(csr, source, row_scale, column_scale))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_the_number_of_threads_changes_nothing():
    csr = random_csr(300, 200, 9000, seed=3)
    source, row_scale, column_scale = inputs(csr, 40)
    rows = np.random.default_rng(0).permutation(300)[:90].astype(np.int32)
    grad = torch.randn(90, 40, generator=torch.Generator().manual_seed(1))
    results = []
    before = numba.get_num_threads()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            scattered = scatter_rows(csr, grad, rows, row_scale, column_scale, torch.ones(200, 40))
            chosen = propagate_rows(csr, source, row_scale, column_scale, rows)
            results.append((propagate(csr, source, row_scale, column_scale), chosen, scattered))
    finally:
        numba.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("width", [1, 20, 64])
def test_chosen_rows_and_their_transpose(name, width):
    csr = GRAPHS[name]
    source, row_scale, column_scale = inputs(csr, width)
    rows = np.random.default_rng(1).permutation(csr.rows)[: max(1, csr.rows // 2)].astype(np.int32)
    chosen = propagate_rows(csr, source, row_scale, column_scale, rows)
    assert torch.equal(chosen, propagate(csr, source, row_scale, column_scale)[rows.astype(np.int64)])

    grad = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(2))
    full = torch.zeros(csr.rows, width)
    full[rows.astype(np.int64)] = grad
    expected = 3 + naive(transpose(csr), full, column_scale, row_scale)
    yardstick = 3 + torch_product(transpose(csr), full, column_scale, row_scale)
    scattered = scatter_rows(csr, grad, rows, row_scale, column_scale, torch.full((csr.columns, width), 3.0))
    assert_as_good_as(scattered, yardstick, expected)


@pytest.mark.parametrize("cuts", [(0, 16, 40), (0, 32, 40), (16, 48, 64), (48, 64, 75), (0, 16, 129)])
def test_a_column_has_the_same_bits_among_fewer_whole_lines(cuts):
    """Workers hold such columns (`gcnrec.tables.dealt.columns`): cuts at multiples of 16, and the end of the row."""
    csr, width = GRAPHS["skewed, with empty rows"], cuts[-1]
    source, row_scale, column_scale = inputs(csr, width)
    rows = np.random.default_rng(1).permutation(csr.rows)[: csr.rows // 2].astype(np.int32)
    grad = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(2))
    whole = scatter_rows(csr, grad, rows, row_scale, column_scale, torch.ones(csr.columns, width))
    for first, last in pairwise(cuts):
        own = slice(first, last)
        part = scatter_rows(csr, grad[:, own], rows, row_scale, column_scale, torch.ones(csr.columns, last - first))
        assert torch.equal(part, whole[:, own])
        product = propagate(csr, source[:, own].contiguous(), row_scale, column_scale)
        assert torch.equal(product, propagate(csr, source, row_scale, column_scale)[:, own])


def test_repeated_rows_are_allowed_when_reading():
    csr = GRAPHS["skewed, with empty rows"]
    source, row_scale, column_scale = inputs(csr, 8)
    out = propagate_rows(csr, source, row_scale, column_scale, np.array([4, 4, 0], np.int32))
    assert torch.equal(out[0], out[1])


def test_scatter_touches_only_columns_of_the_rows():
    csr = random_csr(50, 400, 300)
    _, row_scale, column_scale = inputs(csr, 8)
    rows = np.array([7, 2], np.int32)
    out = scatter_rows(csr, torch.ones(2, 8), rows, row_scale, column_scale, torch.zeros(400, 8))
    flags = np.zeros(400, np.uint8)
    mark_rows(csr, rows, flags)
    assert set(np.flatnonzero(flags)) == set(csr.row(7)) | set(csr.row(2)) == set(np.flatnonzero(out.numpy().any(1)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 8)), max_size=60), st.integers(1, 150))
def test_collecting_by_the_transposed_matrix_has_the_bits_of_scattering(edges, width):
    pairs = np.array(edges, np.int32).reshape(-1, 2)
    csr = csr_from_edges(pairs[:, 0].copy(), pairs[:, 1].copy(), 12, 9)
    _, row_scale, column_scale = inputs(csr, width)
    grad = torch.randn(12, width, generator=torch.Generator().manual_seed(6))
    scattered = scatter_rows(csr, grad, np.arange(12, dtype=np.int32), row_scale, column_scale, torch.zeros(9, width))
    assert torch.equal(collect_rows(transpose(csr), grad, row_scale, column_scale), scattered)


def test_mark_keeps_other_flags():
    flags = np.array([0, 1, 0], np.uint8)
    mark_rows(Csr(np.array([0, 1], np.int64), np.array([2], np.int32), 3), np.array([0], np.int32), flags)
    assert flags.tolist() == [0, 1, 1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 8)), max_size=60),
    st.sets(st.integers(0, 11), min_size=1),
    st.integers(1, 40),
)
def test_scatter_is_the_adjoint_of_reading(edges, chosen, width):
    """<propagate_rows(x), g> == <x, scatter_rows(g)> for every x and g."""
    pairs = np.array(edges, np.int32).reshape(-1, 2)
    csr = csr_from_edges(pairs[:, 0].copy(), pairs[:, 1].copy(), 12, 9)
    source, row_scale, column_scale = inputs(csr, width)
    rows = np.array(sorted(chosen), np.int32)
    grad = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(5))
    forward = (propagate_rows(csr, source, row_scale, column_scale, rows).double() * grad).sum()
    backward = (scatter_rows(csr, grad, rows, row_scale, column_scale, torch.zeros(9, width)).double() * source).sum()
    assert float(forward) == pytest.approx(float(backward), rel=1e-4, abs=1e-4)


def test_wrong_input_is_refused():
    csr = GRAPHS["skewed, with empty rows"]
    source, row_scale, column_scale = inputs(csr, 8)
    with pytest.raises(DataError, match=r"source_CD must be a float32 CPU matrix of 45 x 8, got \(44, 8\)"):
        propagate(csr, source[1:], row_scale, column_scale)
    with pytest.raises(DataError, match="float64"):
        propagate(csr, source.double(), row_scale, column_scale)
    with pytest.raises(DataError, match="in one piece"):
        propagate(csr, torch.empty(8, 45).T, row_scale, column_scale)
    with pytest.raises(DataError, match="row_scale_R must be a contiguous float32 vector of 60"):
        propagate(csr, source, row_scale[:5], column_scale)
    with pytest.raises(DataError, match=r"rows_V must lie in 0 \.\. 59, got 0 \.\. 60"):
        propagate_rows(csr, source, row_scale, column_scale, np.array([0, 60], np.int32))
    with pytest.raises(DataError, match="int64"):
        propagate_rows(csr, source, row_scale, column_scale, np.array([0]))
    with pytest.raises(DataError, match="flags_C"):
        mark_rows(csr, np.array([0], np.int32), np.zeros(45, np.bool_))
