"""Rows of weighted items against dense float64 formulas, and what is kept of them."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from gcnrec.graph import BipartiteGraph
from gcnrec.ops.item_rows import LONGEST, Exponents, add_rows, linked_items, row_sizes

PLAIN = Exponents(0.0, 0.0, 0.0, 1.0)
SETS = [PLAIN, Exponents(0.9, 0.1, 1.0, 1.0), Exponents(0.75, 0.2, 0.625, 1.5), Exponents(-0.3, 0.5, 0.0, 0.5)]


def graph_of(matrix):
    users, items = np.nonzero(matrix)
    return BipartiteGraph.from_edges(users.astype(np.int32), items.astype(np.int32), *matrix.shape)


def random_matrix(users=60, items=40, seed=0):
    draw = np.random.default_rng(seed)
    matrix = (draw.random((users, items)) < draw.random(items) ** 2 * 0.5).astype(float)
    matrix[5], matrix[:, 7] = 0, 0  # neither edges of a user nor of an item
    return matrix


def power(degrees, exponent):
    return np.where(degrees > 0, np.maximum(degrees, 1.0) ** exponent, 0.0)


def dense_terms(matrix, exponents):
    users, items = matrix.sum(1), matrix.sum(0)
    shared = matrix.T @ (power(users, -exponents.user)[:, None] * matrix)
    np.fill_diagonal(shared, 0)
    return (power(items, -exponents.source)[:, None] * shared * power(items, -exponents.target)) ** exponents.sharpness


def dense_rows(rows, items):
    dense = np.zeros((items, items))
    for item in range(items):
        place = slice(int(rows.indptr[item]), int(rows.indptr[item + 1]))
        assert (np.diff(rows.indices_E[place].numpy()) > 0).all()
        dense[item, rows.indices_E[place].numpy()] = rows.values_E[place].numpy()
    return dense


@pytest.mark.parametrize("exponents", SETS)
def test_rows_hold_the_terms_of_the_formula(exponents):
    matrix = random_matrix()
    rows = linked_items(graph_of(matrix), exponents, 40)
    np.testing.assert_allclose(dense_rows(rows, 40), dense_terms(matrix, exponents), rtol=1e-6)


@pytest.mark.parametrize("neighbours", [1, 5, 12])
def test_rows_keep_their_largest_terms_and_ties_go_to_the_smaller_item(neighbours):
    matrix = random_matrix()
    expected = dense_terms(matrix, PLAIN)  # whole numbers: many ties
    sizes = row_sizes(matrix.sum(0).astype(np.int64), (expected > 0).sum(1), 40 * neighbours)
    for row, size in zip(expected, sizes, strict=True):
        row[np.argsort(-row, kind="stable")[size:]] = 0
    rows = linked_items(graph_of(matrix), PLAIN, neighbours)
    assert len(rows.values_E) == sizes.sum() <= 40 * neighbours
    assert np.array_equal(dense_rows(rows, 40), expected)


def test_row_sizes_follow_the_root_of_degrees_and_hand_on_what_short_rows_leave():
    degrees, plenty = np.array([400, 100, 25, 0]), np.array([1000, 1000, 1000, 0])
    assert row_sizes(degrees, plenty, 140).tolist() == [80, 40, 20, 0]
    assert row_sizes(degrees, np.array([30, 1000, 1000, 0]), 140).tolist() == [30, 73, 36, 0]  # 110 shared 2 to 1
    assert row_sizes(degrees, plenty, 3000).tolist() == plenty.tolist()
    assert row_sizes(np.array([10_000, 1, 1]), np.array([500, 9, 9]), 60).tolist() == [52, 4, 4]


def test_a_long_history_counts_as_several_users_that_share_its_items():
    items = LONGEST + 10
    matrix = np.zeros((3, items), bool)
    matrix[0], matrix[1, ::7], matrix[2, :50] = True, True, True
    split = np.zeros((4, items), bool)
    split[0, ::2], split[1, 1::2], split[2:] = True, True, matrix[1:]
    long, short = (linked_items(graph_of(each), Exponents(0.0, 0.0, 1.0, 1.0), 20) for each in (matrix, split))
    for one, other in zip(long.tensors().values(), short.tensors().values(), strict=True):
        assert np.array_equal(one.numpy(), other.numpy())


def test_rows_and_sums_do_not_depend_on_threads():
    matrix, whole = random_matrix(seed=3), numba.get_num_threads()
    graph, results = graph_of(matrix), []
    try:
        for threads in {1, whole}:
            numba.set_num_threads(threads)
            rows, scores = linked_items(graph, SETS[2], 6), np.zeros((60, 40), np.float32)
            add_rows(graph.user_items, rows, np.arange(60, dtype=np.int32), scores)
            results.append((rows.values_E.numpy(), rows.indices_E.numpy(), scores))
    finally:
        numba.set_num_threads(whole)
    for one, other in zip(results[0], results[-1], strict=True):
        assert np.array_equal(one, other)


def test_rows_are_added_as_by_a_matrix_product():
    matrix, users = random_matrix(), np.array([3, 5, 59, 3], np.int32)
    rows, scores = linked_items(graph_of(matrix), SETS[1], 8), np.ones((4, 40), np.float32)
    add_rows(graph_of(matrix).user_items, rows, users, scores)
    np.testing.assert_allclose(scores, 1 + matrix[users] @ dense_rows(rows, 40), rtol=1e-6)
