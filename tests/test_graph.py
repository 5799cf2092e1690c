"""Compressed sparse rows: round trips, transposes, and damage that must be noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph, Csr, csr_from_edges, transpose

ROWS, COLUMNS = 7, 9
EDGES = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1)), max_size=50)


def csr_of(edges):
    rows = np.array([row for row, _ in edges], np.int32)
    columns = np.array([column for _, column in edges], np.int32)
    return csr_from_edges(rows, columns, ROWS, COLUMNS)


@given(EDGES)
def test_round_trip(edges):
    csr = csr_of(edges)
    csr.check("csr")
    assert list(zip(csr.row_numbers().tolist(), csr.indices.tolist(), strict=True)) == sorted(set(edges))
    assert csr.degrees.tolist() == [sum(edge[0] == row for edge in set(edges)) for row in range(ROWS)]
    chosen = np.arange(ROWS, dtype=np.int32)[::-1]
    assert csr.degrees_of(chosen).tolist() == csr.degrees.tolist()[::-1]
    assert (csr.rows, csr.columns, csr.num_edges) == (ROWS, COLUMNS, len(set(edges)))
    assert [csr.row(row).tolist() for row in range(ROWS)] == [
        sorted(column for other, column in set(edges) if other == row) for row in range(ROWS)
    ]


@given(EDGES)
def test_transpose_twice(edges):
    csr = csr_of(edges)
    turned = transpose(csr)
    turned.check("turned")
    assert list(zip(turned.indices.tolist(), turned.row_numbers().tolist(), strict=True)) == sorted(
        set(edges), key=lambda edge: (edge[1], edge[0])
    )
    again = transpose(turned)
    assert again.indptr.tolist() == csr.indptr.tolist() and again.indices.tolist() == csr.indices.tolist()
    assert (again.indptr.dtype, again.indices.dtype) == (np.int64, np.int32)


@given(EDGES)
def test_save_and_open(tmp_path_factory, edges):
    folder = tmp_path_factory.mktemp("graph")
    users, items = np.array([e[0] for e in edges], np.int32), np.array([e[1] for e in edges], np.int32)
    graph = BipartiteGraph.from_edges(users, items, ROWS, COLUMNS)
    graph.save(folder)
    opened = BipartiteGraph.open(folder, ROWS, COLUMNS)
    for ours, theirs in ((graph.user_items, opened.user_items), (graph.item_users, opened.item_users)):
        assert ours.indptr.tolist() == theirs.indptr.tolist() and ours.indices.tolist() == theirs.indices.tolist()
    assert (opened.num_users, opened.num_items, opened.num_nodes) == (ROWS, COLUMNS, ROWS + COLUMNS)
    assert opened.num_edges == len(set(edges))


@pytest.mark.parametrize(
    ("indptr", "indices", "expected"),
    [
        ([0, 1, 3], [0, 1], "indptr must rise from 0 to 2"),
        ([1, 1, 2], [0, 1], "indptr must rise"),
        ([0, 2, 1, 2], [0, 1], "indptr must rise"),
        ([], [], "indptr must rise"),
        ([0, 2], [1, 0], "columns must ascend"),
        ([0, 2], [1, 1], "columns must ascend"),
        ([0, 1], [3], "columns must ascend within 0 .. 2"),
        ([0, 1], [-1], "columns must ascend"),
    ],
)
def test_damage_is_noticed(indptr, indices, expected):
    with pytest.raises(DataError, match=expected):
        Csr(np.array(indptr, np.int64), np.array(indices, np.int32), 3).check("test")


def test_directions_must_agree():
    csr = csr_of([(0, 1), (2, 3)])
    with pytest.raises(DataError, match="two directions"):
        BipartiteGraph(csr, csr)


def test_directions_of_a_folder_must_have_as_many_edges(tmp_path):
    csr = csr_of([(0, 1), (2, 3)])
    BipartiteGraph(csr, transpose(csr_of([(0, 1)]))).save(tmp_path)  # as with nodes folded in
    with pytest.raises(DataError, match=r"two directions .* 2 edges, .* 1"):
        BipartiteGraph.open(tmp_path, ROWS, COLUMNS)


def test_files_of_another_kind(tmp_path):
    graph = BipartiteGraph.from_edges(np.array([0], np.int32), np.array([0], np.int32), 1, 1)
    graph.save(tmp_path)
    np.save(tmp_path / "user_items.indices.npy", np.array([0.5]))
    with pytest.raises(DataError, match=r"must hold any values of int32, row by row, holds \d+ of "):
        BipartiteGraph.open(tmp_path, 1, 1)
    (tmp_path / "user_items.indices.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be opened"):
        BipartiteGraph.open(tmp_path, 1, 1)
