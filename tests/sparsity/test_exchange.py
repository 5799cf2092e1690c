"""Exchanges against naive ones on dense arrays, with ties everywhere, small rooms and tables of several blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.sparsity.exchange import (
    Change,
    exchange_anywhere,
    exchange_in_groups,
    exchange_in_rows,
    nothing_known,
    prune_smallest,
)
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable, in_blocks

WIDTH = 8


class Capped(SlotTable):
    """Rows hold at most three values, though the table is wider."""

    max_count = 3


class World:
    """A random table beside the dense arrays that it stands for; moments are 2 and 3 times the value, plus the cell's number."""

    def __init__(self, draw, rows, budget_share, kind=SlotTable):
        cap = 3 if kind is Capped else WIDTH
        self.present = draw.random((rows, WIDTH)) < draw.random()
        for row in self.present:
            row[np.flatnonzero(row)[cap:]] = False
        self.values = np.where(self.present, draw.choice([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0], (rows, WIDTH)), 0)
        self.values = self.values.astype(np.float32)
        stored = int(self.present.sum())
        self.budget = stored + int(budget_share * (rows * cap - stored))
        self.scores = draw.choice([-1.0, 0.0, 0.25, 1.0, 7.0], (rows, WIDTH)).astype(np.float32)
        self.moments = np.stack([self.values * factor + np.arange(rows * WIDTH).reshape(rows, -1) for factor in (2, 3)])
        self.moments = self.moments.astype(np.float32)
        self.table = kind(rows, WIDTH, self.budget, (2, 0))
        self.cap, self.blocks_seen = cap, 0
        counts, columns = self.present.sum(1), np.nonzero(self.present)[1].astype(np.uint8)
        with self.table.rebuild() as rebuild:
            scalars = np.empty((rows, 0), np.float32)
            rebuild.write(SlotBlock(0, counts, columns, self.values[self.present], self.moments[:, self.present], scalars))

    def tile(self, first, last):
        self.blocks_seen += 1
        return self.scores[first:last].copy()

    def check(self, present, grown, change, budget=None):
        """The table stores `present`; cells of `grown` were born with value 100 + cell, the others are as they were."""
        born = 100 + np.arange(present.size, dtype=np.float32).reshape(present.shape)
        values = np.where(grown, born, self.values)
        moments = np.where(grown, np.stack([born + 1, born + 2]), self.moments)
        for block in in_blocks(self.table):
            own = slice(block.first, block.first + len(block.counts_R))
            now = present[own]
            assert np.array_equal(block.counts_R, now.sum(1))
            assert np.array_equal(block.columns_X, np.nonzero(now)[1])
            assert np.array_equal(block.values_X, values[own][now])
            assert np.array_equal(block.moments_MX, moments[:, own][:, now])
        assert self.table.num_values == present.sum() <= self.budget
        assert self.table.max_values_seen <= self.budget
        dropped = self.present & ~(present & ~grown)
        assert change == Change(int(dropped.sum()) + change.regrown, int(grown.sum()) + change.regrown, change.regrown)


def named(block, rows, columns):
    """Newborn cells whose value is 100 + the cell's number."""
    value = 100 + (block.first + rows) * WIDTH + columns.astype(np.int64)
    return np.stack([value, value + 1, value + 2]).astype(np.float32)


def smallest(world, cells, count):
    """The `count` first of the cells (row, column) by magnitude, then row, then column."""
    return sorted(cells, key=lambda cell: (abs(world.values[cell]), cell))[:count]


def steepest(world, cells, count):
    return sorted(cells, key=lambda cell: (-world.scores[cell], cell))[: max(count, 0)]


def cells_of(mask):
    return [tuple(cell) for cell in np.argwhere(mask).tolist()]


def mask_of(cells, shape):
    mask = np.zeros(shape, bool)
    for cell in cells:
        mask[cell] = True
    return mask


def anywhere(world, count):
    shape = world.present.shape
    stays = world.present & ~mask_of(smallest(world, cells_of(world.present), count), shape)
    able = []
    for row in range(shape[0]):
        own = [(row, d) for d in range(WIDTH) if not stays[row, d] and world.scores[row, d] >= 0]
        able += steepest(world, own, world.cap - int(stays[row].sum()))
    wins = mask_of(steepest(world, able, world.budget - int(stays.sum())), shape)
    return stays, wins


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 150]), st.sampled_from([0.0, 0.2, 1.0]),
    st.sampled_from([0.0, 0.01, 0.3, 1.0, 1.5]), st.sampled_from([SlotTable, Capped]),
)  # fmt: skip
def test_anywhere(seed, rows, budget_share, share, kind):
    world = World(np.random.default_rng(seed), rows, budget_share, kind)
    count = int(np.ceil(share * world.table.num_values))
    stays, wins = anywhere(world, count)
    again = wins & world.present
    change = exchange_anywhere(world.table, count, world.tile, named)
    world.check(stays | wins, wins & ~world.present, change)
    assert change.regrown == again.sum() and change.pruned == min(count, int(world.present.sum()))
    assert world.table.counts_N.max(initial=0) <= world.cap
    if (world.scores >= 0).all() and kind is SlotTable:
        assert world.table.num_values == world.budget


def test_anywhere_refills_the_budget_exactly_with_scores_all_alike():
    """All ties: the first cells in order win; 150 rows are three blocks."""
    world = World(np.random.default_rng(1), 150, 0.3)
    world.scores[:] = 0
    before = world.table.num_values
    assert before < world.budget
    exchange_anywhere(world.table, 0, world.tile, nothing_known)
    assert world.table.num_values == world.budget
    free = np.flatnonzero(~world.present.reshape(-1))[: world.budget - before]
    for block in in_blocks(world.table):
        now = np.zeros((len(block.counts_R), WIDTH), bool)
        now[block.rows_X, block.columns_X] = True
        own = slice(block.first * WIDTH, (block.first + len(now)) * WIDTH)
        expected = world.present.reshape(-1)[own] | np.isin(np.arange(own.start, own.stop), free)
        assert np.array_equal(now.reshape(-1), expected)


def test_nothing_asked_for_is_nothing_done():
    """A zero in the first cell is the smallest value of the first cell there is."""
    world = World(np.random.default_rng(2), 3, 0.0)
    with world.table.rebuild() as rebuild:
        for first, last in world.table.blocks():
            rebuild.read(first, last)
        one, moments = np.zeros(1, np.float32), np.zeros((2, 1), np.float32)
        rebuild.write(SlotBlock(0, np.array([1, 0, 0]), np.zeros(1, np.uint8), one, moments, np.empty((3, 0))))
    assert prune_smallest(world.table, 0) == Change()
    world.scores[:] = -1
    assert exchange_anywhere(world.table, 0, world.tile, nothing_known) == Change()
    assert world.table.num_values == 1
    assert exchange_anywhere(world.table, 1, world.tile, nothing_known) == Change(1, 0, 0)


def test_a_row_does_not_pass_what_a_record_holds():
    """102 float32 values fill the largest record: of 120 columns with the steepest scores 102 are stored."""
    table = SlotTable(2, 120, 150, (0, 0))
    scores = np.stack([np.linspace(2, 3, 120), np.linspace(0, 1, 120)]).astype(np.float32)
    exchange_anywhere(table, 0, lambda first, last: scores[first:last].copy(), nothing_known)
    assert table.counts_N.tolist() == [102, 48]
    block = table.unpack(0, 2)
    assert block.columns_X.tolist() == [*range(18, 120), *range(72, 120)]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 150]), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_in_rows(seed, rows, share):
    world = World(np.random.default_rng(seed), rows, 0.0)
    dropped, grown = [], []
    for row in range(rows):
        stored = cells_of(world.present & (np.arange(rows) == row)[:, None])
        able = [(row, d) for d in range(WIDTH) if not world.present[row, d] and world.scores[row, d] > 0]
        count = min(int(share * len(stored)), len(able))
        dropped += smallest(world, stored, count)
        grown += steepest(world, able, count)
    grown_RD = mask_of(grown, world.present.shape)
    expected = world.present & ~mask_of(dropped, grown_RD.shape) | grown_RD
    counts = world.table.counts_N.copy()
    change = exchange_in_rows(world.table, share, world.tile, named)
    world.check(expected, grown_RD, change)
    assert change.regrown == 0 and np.array_equal(world.table.counts_N, counts)
    assert world.blocks_seen == len(world.table.blocks())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 150]), st.sampled_from([(8, 3), (4, 2), (2, 1), (4, 4)]), st.integers(0, 2)
)
def test_in_groups(seed, rows, pattern, leave):
    (group, hold), draw = pattern, np.random.default_rng(seed)
    leave = min(leave, hold)
    world = World(draw, rows, 1.0)
    world.scores = np.abs(world.scores)
    world.scores[draw.random(rows) < 0.2] = 0
    stays, wins = np.zeros((2, *world.present.shape), bool)
    for row in range(rows):
        keep = hold - leave if world.scores[row].any() else hold
        for begin in range(0, WIDTH, group):
            cells = [(row, d) for d in range(begin, begin + group)]
            stored = [cell for cell in cells if world.present[cell]]
            kept = set(stored) - set(smallest(world, stored, max(len(stored) - keep, 0)))
            stays |= mask_of(kept, stays.shape)
            wins |= mask_of(steepest(world, [cell for cell in cells if cell not in kept], hold - len(kept)), stays.shape)
    change = exchange_in_groups(world.table, group, hold, leave, world.tile, named)
    world.check(stays | wins, wins & ~world.present, change)
    assert change.regrown == (wins & world.present).sum()
    assert ((stays | wins).reshape(rows, -1, group).sum(2) == hold).all()


@pytest.mark.parametrize("rows", [1, 150])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 2.0])
def test_prune_smallest(rows, share):
    world = World(np.random.default_rng(rows), rows, 0.0)
    count = int(share * world.table.num_values)
    expected = world.present & ~mask_of(smallest(world, cells_of(world.present), count), world.present.shape)
    change = prune_smallest(world.table, count)
    world.check(expected, np.zeros_like(expected), change)
    assert change == Change(min(count, int(world.present.sum())), 0, 0)


def test_changes_add_up():
    assert Change(1, 2, 3) + Change(10, 20, 30) == Change(11, 22, 33)
