"""Values per row of a first support: sums that meet the budget, records filled to the last slot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import UsageError
from gcnrec.sparsity.row_counts import even_counts, full_records, largest_counts, power_counts
from gcnrec.tables.arena import RECORD_BYTES, VALUE_BYTES

CAPACITIES = {name: [size // (of_value + 1) for size in RECORD_BYTES] for name, of_value in VALUE_BYTES.items()}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(1, 30), st.floats(0, 1))
def test_even_counts(num_rows, most, share):
    budget = int(share * num_rows * most)
    counts = even_counts(num_rows, budget, most)
    assert counts.sum() == budget and counts.max() - counts.min() <= 1 and counts.max() <= most
    assert (np.diff(counts) <= 0).all()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 9),
    st.sampled_from([-0.5, 0.0, 0.25, 1.0]),
)  # fmt: skip
def test_power_counts(degrees, most, share, least, power):
    budget = int(share * len(degrees) * most)
    counts = power_counts(np.array(degrees), budget, least, most, power)
    assert counts.sum() == budget
    assert min(least, budget // len(degrees)) <= counts.min() and counts.max() <= most
    wanted = np.maximum(degrees, 1) ** power
    for low, high in ((a, b) for a in range(len(degrees)) for b in range(len(degrees)) if wanted[a] < wanted[b]):
        assert counts[low] <= counts[high] + 1


def test_power_counts_by_hand():
    """Weights 1, 2, 4 share 14 values: 2, 4, 8. With at most 6 of a row the rest goes to the others: 8/3, 16/3, 6."""
    degrees = np.array([1, 4, 16])
    assert power_counts(degrees, 14, 0, 20, 0.5).tolist() == [2, 4, 8]
    assert power_counts(degrees, 14, 0, 6, 0.5).tolist() == [3, 5, 6]
    assert power_counts(degrees, 14, 4, 20, 0.5).tolist() == [4, 4, 6]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 40), st.floats(0, 1), st.integers(0, 9))
def test_rows_are_rounded_up_by_fraction_then_in_order(degrees, most, share, least):
    """A naive walk over all rows: proportional counts rounded down, then up for the largest fractions, the first rows first."""
    budget, weights = int(share * len(degrees) * most), np.maximum(degrees, 1) ** 0.5
    low, high, least = 0.0, most / weights.min(), min(least, budget // len(degrees))
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weights, least, most).sum() < budget - 1e-9 else (low, middle)
    wanted = np.clip(low * weights, least, most)
    counts = power_counts(np.array(degrees), budget, least, most, 0.5).astype(int)
    assert counts.sum() == budget
    assert (np.abs(counts - wanted) < 1 + 1e-6).all()
    raised = counts > np.floor(wanted + 1e-9)
    fraction = wanted - np.floor(wanted + 1e-9)
    for row, other in ((a, b) for a in range(len(counts)) for b in range(len(counts)) if raised[a] and not raised[b]):
        if counts[other] < most:
            assert fraction[row] > fraction[other] - 1e-6
            if degrees[row] == degrees[other]:
                assert row < other


def test_more_values_than_cells_are_refused():
    for attempt in (
        lambda: even_counts(3, 13, 4),
        lambda: power_counts(np.ones(3), 13, 0, 4, 1.0),
        lambda: largest_counts(np.ones((3, 9), np.float32), 13, 0, 4),
    ):
        with pytest.raises(UsageError, match=r"at most 4 values, so 3 rows cannot hold the budget of 13; lower table\.budget"):
            attempt()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 102), max_size=60), st.sampled_from(["float32", "bfloat16"]))
def test_full_records_are_full(counts, dtype):
    counts = np.array(counts, np.int64)
    filled = full_records(counts, dtype, int(counts.max(initial=0)))
    assert len(filled) == len(counts) and filled.sum() <= counts.sum()
    if counts.max(initial=0) < CAPACITIES[dtype][0]:
        assert np.array_equal(filled, counts)
    else:
        assert set(filled.tolist()) <= {0, *CAPACITIES[dtype]} and filled.max() <= counts.max()
        gap = max(np.diff([0, *CAPACITIES[dtype]]))
        assert filled.sum() > counts.sum() - 2 * gap - counts.max()


def test_full_records_by_hand():
    """Records of 19 and 22: rows that want 20 take 19, then 21 -> 22, then 19, then 20 -> 19."""
    assert full_records(np.array([20, 20, 20, 20]), "float32", 102).tolist() == [19, 22, 19, 19]
    assert full_records(np.array([20, 20, 20, 20]), "float32", 21).tolist() == [19, 19, 19, 19]
    assert full_records(np.array([21, 21]), "float32", 102).tolist() == [22, 19]
    # 21 takes 22, one too many: the last row takes the capacity below.
    assert full_records(np.array([21]), "float32", 102).tolist() == [19]
    assert full_records(np.array([2, 0]), "bfloat16", 1).tolist() == [2, 0]


@settings(max_examples=100, deadline=None)
@given(st.integers(6, 102), st.integers(2, 300), st.sampled_from(["float32", "bfloat16"]))
def test_full_records_lose_no_more_than_one_step(count, rows, dtype):
    """Wherever a capacity above the counts is allowed, error diffusion keeps their sum but for a step of one row."""
    filled = full_records(np.full(rows, count), dtype, max(CAPACITIES[dtype]))
    lost = rows * count - filled.sum()
    assert 0 <= lost <= max(np.diff([0, *CAPACITIES[dtype]])) and filled.max() <= max(CAPACITIES[dtype])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 9), st.integers(0, 4), st.floats(0, 1), st.booleans())
def test_largest_counts(seed, num_rows, most, least, share, tied):
    """Each row's best first, then the best of all others of rows with room: a naive walk."""
    draw, width = np.random.default_rng(seed), 9
    keys = draw.integers(0, 4, (num_rows, width)).astype(np.float32) if tied else draw.random((num_rows, width), np.float32)
    budget = int(share * num_rows * most)
    least = min(least, most)
    floor = min(least, budget // num_rows)
    counts, taken = np.full(num_rows, floor), set()
    for row in range(num_rows):
        taken |= {(row, d) for d in sorted(range(width), key=lambda d, row=row: (-keys[row, d], d))[:floor]}
    for row, d in sorted(((r, d) for r in range(num_rows) for d in range(width)), key=lambda cell: (-keys[cell], cell)):
        if (row, d) not in taken and counts[row] < most and counts.sum() < budget:
            counts[row] += 1
    before = keys.copy()
    assert np.array_equal(largest_counts(keys, budget, least, most), counts)
    assert counts.sum() == budget and np.array_equal(keys, before)
