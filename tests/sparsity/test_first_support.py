"""First supports: counts that sum to the budget, records filled to the last slot, and the cells that are chosen."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from gcnrec.config import Job
from gcnrec.sparsity.first_support import choose, fill, magnitude_keys, random_keys
from gcnrec.steps.start import Start
from gcnrec.tables.slots import SlotTable
from gcnrec.training.plan import plan_of


def job_of(table, **model):
    return Job.parse({"model": model, "table": table, "sparsity": {"policy": "static"}}, [], "test")


def test_the_budget_in_values():
    assert plan_of(job_of({"budget": 0.3}, width=10), 7).budget == 21
    assert plan_of(job_of({"budget": 0.1, "base_width": 64}, width=256), 10).budget == 64
    assert job_of({"budget": 0.5}, width="auto").base_width == 64


def filled(counts, rows_ND, keys, scale=None, moments=2, scalars=1):
    counts = np.asarray(counts)
    table = SlotTable(len(rows_ND), rows_ND.shape[1], int(counts.sum()), (moments, scalars))
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


def test_cells_that_are_drawn_alone_are_those_of_whole_rows():
    """The same slots and bits as from rows that are all made, in tables of several blocks."""
    start, counts = Start("normal", 0.01, 7), np.random.default_rng(0).integers(0, 9, 300)
    tables = [SlotTable(300, 24, int(counts.sum()), (0, 1), "bfloat16") for _ in range(2)]
    for table, tiles in zip(tables, (start.noise, start.drawn), strict=True):
        fill(table, counts, partial(tiles, 24), random_keys(3), 0.01)
    assert len(tables[0].blocks()) > 1
    assert all(torch.equal(one, other) for one, other in zip(*(table.tensors().values() for table in tables), strict=True))
    assert tables[0].columns(0, 24).any()
