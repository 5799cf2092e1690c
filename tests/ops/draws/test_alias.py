"""Alias tables: every number's units add up to its share, tables worked out by hand, and draws by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import DataError, UsageError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.ops.draws.alias import alias_rows, alias_table, sample_weighted
from gcnrec.random import DrawKey, Stage, philox4x32

WEIGHTED = 1


def units_of(thresholds, others):
    """How many of the n * 2**32 units belong to each number, in Python integers."""
    units = [0] * len(others)
    for column, (threshold, other) in enumerate(zip(thresholds.tolist(), others.tolist(), strict=True)):
        units[column] += threshold
        units[other] += 2**32 - threshold
    return units


def test_tables_by_hand():
    # Shares of 3 * 2**32: 9/4, 0 and 3/4 columns. Column 1 goes to 0 whole, column 2 to 0 from 3/4 on.
    table = alias_table(np.array([3.0, 0.0, 1.0]))
    assert units_of(table.thresholds_I, table.others_I) == [9 * 2**30, 0, 3 * 2**30]
    assert table.others_I.tolist() == [0, 0, 0] and table.thresholds_I[1:].tolist() == [0, 3 * 2**30]
    even = alias_table(np.ones(4, np.float32))
    assert even.others_I.tolist() == [0, 1, 2, 3]


@settings(max_examples=100)
@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=60).filter(lambda weights: max(weights) > 0))
def test_units_are_the_shares(weights):
    table = alias_table(np.array(weights))
    units = units_of(table.thresholds_I, table.others_I)
    count, total = len(weights), sum(weights)
    assert sum(units) == count * 2**32
    for weight, own in zip(weights, units, strict=True):
        assert abs(own - weight / total * count * 2**32) <= 3
        assert own == 0 or weight > 0


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf], [1e308, 1e308]])
def test_weights_that_cannot_be_drawn_by(weights):
    with pytest.raises(DataError, match="weights must be finite"):
        alias_table(np.array(weights))


def test_bad_row_is_named():
    csr = Csr(np.array([0, 2, 2, 3], np.int64), np.array([0, 1, 0], np.int32), 2)
    with pytest.raises(DataError, match="row 2"):
        alias_rows(csr, np.array([1.0, 2.0, 0.0]))


def world():
    rng = np.random.default_rng(4)
    csr = csr_from_edges((20 * rng.random(300) ** 2).astype(np.int32), rng.integers(0, 40, 300).astype(np.int32), 24, 40)
    return csr, rng.random(csr.num_edges) ** 3


def naive(csr, tables, row, fanout, seed, step, hop, node):
    first, degree, drawn = int(csr.indptr[row]), len(csr.row(row)), []
    for k in range(fanout if degree else 0):
        counter = node, k, step % 2**32, int(Stage.SAMPLE) | (hop | WEIGHTED << 6) << 8 | (step >> 32) << 16
        high, low, word, _ = map(int, philox4x32.py_func(*map(np.uint32, (*counter, seed % 2**32, seed >> 32))))
        column = (high << 32 | low) * degree >> 64
        position = column if word < tables.thresholds_I[first + column] else tables.others_I[first + column]
        drawn.append(int(csr.row(row)[position]))
    return sorted(drawn)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # NumPy's scalars tell when Philox wraps around
def test_weighted_neighbours_equal_the_transcription():
    csr, weights = world()
    tables = alias_rows(csr, weights)
    rows, seed, step = np.array([23, 0, 5, 19, 22, 1], np.int32), 2**36 + 1, 2**32 + 5
    indptr, indices = sample_weighted(csr, tables, rows, 7, DrawKey(seed, step, 1, 50))
    assert (indptr.dtype, indices.dtype) == (np.int64, np.int32)
    for t, row in enumerate(rows):
        expected = naive(csr, tables, int(row), 7, seed, step, 1, 50 + int(row))
        assert indices[indptr[t] : indptr[t + 1]].tolist() == expected


def test_every_row_has_its_own_table():
    csr, weights = world()
    tables = alias_rows(csr, weights)
    for row in range(csr.rows):
        own = slice(csr.indptr[row], csr.indptr[row + 1])
        if own.stop > own.start:
            alone = alias_table(weights[own])
            assert np.array_equal(tables.thresholds_I[own], alone.thresholds_I)
            assert np.array_equal(tables.others_I[own], alone.others_I)


def test_neighbours_are_drawn_by_weight():
    weights = np.array([5.0, 1.0, 0.0, 3.0, 1.0])
    csr = Csr(np.arange(2001, dtype=np.int64) * 5, np.tile(np.arange(5, dtype=np.int32), 2000), 5)
    tables = alias_rows(csr, np.tile(weights, 2000))
    _, indices = sample_weighted(csr, tables, np.arange(2000, dtype=np.int32), 10, DrawKey(3, 1, 0, 0))
    counts = np.bincount(indices, minlength=5)
    expected = 20_000 * weights / 10
    assert counts[2] == 0
    drawn = weights > 0
    # Chi-square with 3 degrees of freedom exceeds 16.3 for one seed in 1000; the seed is fixed.
    assert ((counts - expected)[drawn] ** 2 / expected[drawn]).sum() < 16.3


def test_threads_do_not_matter(threads):
    csr, weights = world()
    tables, results = alias_rows(csr, weights), []
    for count in (1, 2):
        threads(count)
        results.append(sample_weighted(csr, tables, np.arange(24, dtype=np.int32), 10, DrawKey(1, 1, 0, 0))[1])
    assert np.array_equal(*results)


def test_a_fanout_out_of_range_is_refused():
    csr, weights = world()
    with pytest.raises(UsageError, match="fanout"):
        sample_weighted(csr, alias_rows(csr, weights), np.zeros(1, np.int32), 0, DrawKey(1, 1, 0, 0))
