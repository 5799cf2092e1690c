"""Drawn neighbours against Floyd's algorithm in Python integers, their distribution, and what a draw must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import UsageError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.ops.draws import neighbours
from gcnrec.ops.draws.neighbours import sample_neighbours
from gcnrec.random import DrawKey, Stage, philox4x32


def naive(row, node, fanout, seed, step, hop):
    """Floyd 1987 with the draws that the module's docstring lays down."""
    degree, chosen = len(row), []
    if degree <= fanout:
        return list(row)
    for k in range(fanout):
        top = degree - fanout + k
        counter = node, k // 2, step % 2**32, int(Stage.SAMPLE) | hop << 8 | (step >> 32) << 16
        words = philox4x32.py_func(*map(np.uint32, (*counter, seed % 2**32, seed >> 32)))
        high, low = map(int, words[2 * (k % 2) : 2 * (k % 2) + 2])
        position = (high << 32 | low) * (top + 1) >> 64
        chosen.append(top if position in chosen else position)
    return [row[position] for position in sorted(chosen)]


def graph_of(degrees, columns=400):
    rng = np.random.default_rng(2)
    indices = np.concatenate([np.sort(rng.choice(columns, degree, replace=False)) for degree in degrees] or [[]])
    return Csr(np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64), indices.astype(np.int32), columns)


def rows_of(indptr, indices):
    return [indices[indptr[t] : indptr[t + 1]].tolist() for t in range(len(indptr) - 1)]


DEGREES = [0, 1, 2, 9, 10, 11, 0, 64, 65, 399, 30, 31, *range(5, 45), 0, 0]


@pytest.mark.filterwarnings("ignore:overflow encountered")  # NumPy's scalars tell when Philox wraps around
@pytest.mark.parametrize("fanout", [1, 2, 7, 10, 63, 64])
@pytest.mark.parametrize(("seed", "step", "hop"), [(0, 1, 0), (2**40 + 5, 2**33 + 17, 2)])
def test_equals_the_transcription(fanout, seed, step, hop):
    csr = graph_of(DEGREES)
    rows = np.random.default_rng(0).permutation(len(DEGREES)).astype(np.int32)
    indptr, indices = sample_neighbours(csr, rows, fanout, DrawKey(seed, step, hop, 1000))
    assert (indptr.dtype, indices.dtype) == (np.int64, np.int32)
    expected = [naive(csr.row(row).tolist(), 1000 + int(row), fanout, seed, step, hop) for row in rows]
    assert rows_of(indptr, indices) == expected


@settings(max_examples=60)
@given(st.lists(st.integers(0, 90), max_size=40), st.integers(1, 64), st.integers(0, 2**64 - 1), st.integers(0, 2**48 - 1))
def test_drawn_are_distinct_ascending_neighbours(degrees, fanout, seed, step):
    csr = graph_of(degrees)
    drawn = rows_of(*sample_neighbours(csr, np.arange(csr.rows, dtype=np.int32), fanout, DrawKey(seed, step, 0, 0)))
    for row, own in enumerate(drawn):
        assert len(own) == min(fanout, degrees[row])
        assert own == sorted(set(own)) and set(own) <= set(csr.row(row).tolist())


@pytest.mark.parametrize(("degree", "fanout"), [(6, 3), (12, 5), (40, 1)])
def test_every_neighbour_is_as_likely(degree, fanout):
    # 20 000 nodes with the same row.
    csr = Csr(np.arange(20_001, dtype=np.int64) * degree, np.tile(np.arange(degree, dtype=np.int32), 20_000), degree)
    _, indices = sample_neighbours(csr, np.arange(20_000, dtype=np.int32), fanout, DrawKey(3, 1, 0, 0))
    counts = np.bincount(indices, minlength=degree)
    expected = 20_000 * fanout / degree
    # Draws of one node exclude each other: the variance is (1 - fanout / degree) of a multinomial's, times d / (d - 1).
    statistic = ((counts - expected) ** 2 / (expected * (1 - fanout / degree) * degree / (degree - 1))).sum()
    limit = {6: 20.5, 12: 31.3, 40: 72.1}[degree]  # chi-square with degree - 1 degrees of freedom, once in 1000 seeds
    assert statistic < limit


def test_every_subset_is_as_likely():
    csr = Csr(np.arange(20_001, dtype=np.int64) * 5, np.tile(np.arange(5, dtype=np.int32), 20_000), 5)
    _, indices = sample_neighbours(csr, np.arange(20_000, dtype=np.int32), 2, DrawKey(9, 1, 0, 0))
    pairs = np.bincount(indices.reshape(-1, 2) @ [5, 1], minlength=25)
    counts = pairs[pairs > 0]
    assert len(counts) == 10
    # Chi-square with 9 degrees of freedom exceeds 27.9 for one seed in 1000; the seed is fixed.
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9


def test_hub_is_drawn_from_to_its_end():
    degree = 3_000_000
    csr = Csr(np.array([0, degree], np.int64), np.arange(degree, dtype=np.int32), degree)
    drawn = np.concatenate([sample_neighbours(csr, np.zeros(1, np.int32), 64, DrawKey(1, step, 0, 0))[1] for step in range(200)])
    # 12 800 draws in 100 bins, 99 degrees of freedom: above 149 once in 1000 seeds.
    counts = np.bincount(drawn // 30_000, minlength=100)
    assert ((counts - 128) ** 2 / 128).sum() < 149


def test_a_node_draws_alike_in_any_batch():
    csr = graph_of(DEGREES)
    every = rows_of(*sample_neighbours(csr, np.arange(csr.rows, dtype=np.int32), 10, DrawKey(1, 1, 0, 0)))
    for rows in (np.array([9], np.int32), np.array([30, 9, 2, 40, 8], np.int32)):
        assert rows_of(*sample_neighbours(csr, rows, 10, DrawKey(1, 1, 0, 0))) == [every[row] for row in rows]


def test_seed_step_hop_and_node_change_the_draw():
    csr = graph_of([399])
    row = np.zeros(1, np.int32)
    draws = [(1, 1, 0, 0), (2, 1, 0, 0), (1, 2, 0, 0), (1, 1, 1, 0), (1, 1, 0, 1), (1, 1 + 2**32, 0, 0)]
    assert len({tuple(sample_neighbours(csr, row, 10, DrawKey(*draw))[1].tolist()) for draw in draws}) == len(draws)


def test_threads_do_not_matter(threads, monkeypatch):
    monkeypatch.setattr(neighbours, "_PARALLEL", 0)
    rng = np.random.default_rng(1)
    csr = csr_from_edges(
        (3000 * rng.random(60_000) ** 2).astype(np.int32), rng.integers(0, 500, 60_000).astype(np.int32), 3100, 500
    )
    results = []
    for count in (1, 2):
        threads(count)
        results.append(sample_neighbours(csr, np.arange(3100, dtype=np.int32), 10, DrawKey(1, 1, 0, 0)))
    monkeypatch.setattr(neighbours, "_PARALLEL", 1 << 40)
    results.append(sample_neighbours(csr, np.arange(3100, dtype=np.int32), 10, DrawKey(1, 1, 0, 0)))
    for indptr, indices in results[1:]:
        assert np.array_equal(indptr, results[0][0]) and np.array_equal(indices, results[0][1])


def test_no_targets():
    indptr, indices = sample_neighbours(graph_of([3, 20]), np.empty(0, np.int32), 10, DrawKey(1, 1, 0, 0))
    assert indptr.tolist() == [0] and len(indices) == 0


@pytest.mark.parametrize("fanout", [0, -1, 65])
def test_a_fanout_out_of_range_is_refused(fanout):
    with pytest.raises(UsageError, match=r"must lie in 1 \.\. 64"):
        sample_neighbours(graph_of([3]), np.zeros(1, np.int32), fanout, DrawKey(1, 1, 0, 0))
