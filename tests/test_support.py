"""First supports: counts that sum to the budget, records filled to the last slot, and the cells that are chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.slots import RECORD_BYTES, VALUE_BYTES, SlotTable
from gcnrec.support import (
    base_width,
    budget_values,
    choose,
    even_counts,
    fill,
    full_records,
    largest_counts,
    magnitude_keys,
    power_counts,
    random_keys,
)

CAPACITIES = {name: [size // (of_value + 1) for size in RECORD_BYTES] for name, of_value in VALUE_BYTES.items()}


def job_of(table, **model):
    return Job.parse({"model": model, "table": table, "sparsity": {"policy": "static"}}, [], "test")


def test_the_budget_in_values():
    assert budget_values(job_of({"budget": 0.3}, width=10), 7) == 21
    assert budget_values(job_of({"budget": 0.1, "base_width": 64}, width=256), 10) == 64
    assert base_width(job_of({"budget": 0.5}, width="auto")) == 64


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


def filled(counts, rows_ND, keys, scale=None, moments=2, scalars=1):
    counts = np.asarray(counts)
    table = SlotTable(len(rows_ND), rows_ND.shape[1], int(counts.sum()), moments, scalars)
    fill(table, counts, lambda first, last: rows_ND[first:last], keys, scale)
    return table, table.unpack(0, len(rows_ND))


def test_fill_by_hand():
    """The largest of each row, 3 and 1 of them; equal ones from the left. sqrt of (9 + 4 + 4 + 64) / 4 is 4.5."""
    rows = torch.tensor([[1.0, -3.0, 2.0, -2.0], [0.0, 0.0, 5.0, -8.0], [9.0, 9.0, 9.0, 9.0]])
    table, block = filled([3, 1, 0], rows, magnitude_keys)
    assert block.counts_R.tolist() == [3, 1, 0] and block.columns_X.tolist() == [1, 2, 3, 3]
    assert block.values_X.tolist() == [-3.0, 2.0, -2.0, -8.0]
    assert not block.moments_MX.any() and not block.scalars_RC.any() and table.num_values == 4
    _, block = filled([3, 1, 0], rows, magnitude_keys, scale=0.9)
    assert block.values_X.tolist() == pytest.approx([-0.6, 0.4, -0.4, -1.6])


def test_fill_of_several_blocks_with_a_scale():
    rows = torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
    counts = np.random.default_rng(0).integers(0, 21, 300)
    table, block = filled(counts, rows, magnitude_keys, scale=0.1)
    assert len(table.blocks()) > 1 and np.array_equal(block.counts_R, counts)
    assert float(np.sqrt(np.square(block.values_X).mean())) == pytest.approx(0.1, rel=1e-5)
    stored = rows.numpy()[block.rows_X, block.columns_X]
    assert block.values_X / stored == pytest.approx(np.full(len(stored), block.values_X[0] / stored[0]), rel=1e-5)


def test_random_keys_are_equal_for_equal_seeds_and_even():
    tile = torch.zeros(4000, 10)
    keys = random_keys(5)(0, tile)
    assert np.array_equal(keys, random_keys(5)(0, tile)) and not np.array_equal(keys, random_keys(6)(0, tile))
    assert not np.array_equal(keys, random_keys(5)(4000, tile))
    hits = np.bincount(choose(keys, np.full(4000, 3)), minlength=10)
    # 4000 rows with probability 0.3 for every column: standard deviation 29; five of them.
    assert hits.sum() == 12_000 and np.abs(hits - 1200).max() < 145
