"""Prune and grow: which slots a table gives up and which cells get them, chosen exactly and never above the budget.

Every choice is by a threshold on keys that are all different (ties go by row, then column), found by counting digits in
passes over the stream: no list of candidates is ever held.
Letters: R rows of a block, D width, X stored values of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.ops.select import count_digits, grow_keys
from gcnrec.slots import SlotBlock, SlotTable, in_blocks
from gcnrec.support import choose

_CELL_BITS = 33
_DIGITS = range(55, -1, -11)
"""Digits of 11 bits of a key, the highest first (its top 9 bits first)."""

Scores = Callable[[int, int], NDArray[np.float32]]
"""What cells of rows first .. last-1 are grown by, the larger the better, not negative: float32 (R, D); -1 is never grown."""
Newborn = Callable[[SlotBlock, NDArray[np.int64], NDArray[np.uint8]], NDArray[np.float32]]
"""Value and moments of grown cells, float32 (1 + M, X'): (block as it was, rows of the block, columns)."""


@dataclass(frozen=True, slots=True)
class Change:
    """Slots that one exploration gave up and gave out; `regrown` of them are the same cells, which kept their values."""

    pruned: int = 0
    grown: int = 0
    regrown: int = 0

    def __add__(self, other: Change) -> Change:
        return Change(self.pruned + other.pruned, self.grown + other.grown, self.regrown + other.regrown)


def nothing_known(block: SlotBlock, rows: NDArray[np.int64], columns: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grown cells start at zero, moments too."""
    return np.zeros((1 + len(block.moments_MX), len(rows)), np.float32)


def exchange_anywhere(table: SlotTable, count: int, scores: Scores, newborn: Newborn) -> Change:
    """Give up the `count` smallest values of the table, then store the cells with the largest scores, up to the budget.

    Cells just given up compete too; those that win stay as they were. Rows may become empty.
    """
    drop_from = _cut(lambda: (_drop_keys(table, block) for block in in_blocks(table)), count)
    kept = table.num_values - min(count, table.num_values)
    grow_from = _cut(
        lambda: (_grow_keys(table, block, drop_from, scores).reshape(-1) for block in in_blocks(table)), table.budget - kept
    )
    change = Change()
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            wins_RD = _grow_keys(table, block, drop_from, scores) >= grow_from
            stays_X = (_drop_keys(table, block) < drop_from) | wins_RD[block.rows_X, block.columns_X]
            rebuild.write(_only(block, stays_X))
            regrown = int((wins_RD[block.rows_X, block.columns_X]).sum())
            change += Change(int((~stays_X).sum()) + regrown, regrown, regrown)
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            wins_RD = _grow_keys(table, block, drop_from, scores) >= grow_from
            wins_RD[block.rows_X, block.columns_X] = False
            rebuild.write(_with_grown(block, wins_RD, newborn))
            change += Change(0, int(wins_RD.sum()), 0)
    return change


def exchange_in_rows(table: SlotTable, share: float, scores: Scores, newborn: Newborn) -> Change:
    """Every row gives up the smallest `share` of its values (rounded down) for its unstored cells with the largest scores."""
    change = Change()
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            scores_RD = scores(first, last)
            scores_RD[block.rows_X, block.columns_X] = -np.inf
            scores_RD[scores_RD < 0] = -np.inf
            counts_R = np.minimum((share * block.counts_R).astype(np.int64), np.isfinite(scores_RD).sum(1))
            columns = choose(scores_RD, counts_R)
            grown_RD = np.zeros(scores_RD.shape, bool)
            grown_RD[np.repeat(np.arange(len(counts_R)), counts_R), columns] = True
            rebuild.write(_with_grown(_only(block, ~_smallest(block, counts_R)), grown_RD, newborn))
            change += Change(int(counts_R.sum()), int(counts_R.sum()), 0)
    return change


def prune_smallest(table: SlotTable, count: int) -> Change:
    """Give up the `count` smallest values of the table."""
    drop_from = _cut(lambda: (_drop_keys(table, block) for block in in_blocks(table)), count)
    before = table.num_values
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            rebuild.write(_only(block, _drop_keys(table, block) < drop_from))
    return Change(before - table.num_values, 0, 0)


def _cut(keys: Callable[[], Iterator[NDArray[np.uint64]]], count: int) -> np.uint64:
    """The key from which on exactly `count` keys lie (all keys but 0 are different; 0 is never chosen)."""
    if count <= 0:
        return np.uint64(2**64 - 1)
    prefix, left = 0, count
    for shift in _DIGITS:
        counts = np.zeros(2048, np.int64)
        for part in keys():
            count_digits(part, shift, np.uint64(prefix), counts)
        reach = np.cumsum(counts[::-1])[::-1]  # keys with this digit or a higher one
        if reach[0] <= left:
            return np.uint64(max(prefix << (shift + 11), 1))
        digit = int(np.flatnonzero(reach >= left)[-1])
        left -= int(reach[digit] - counts[digit])
        prefix = prefix << 11 | digit
        if counts[digit] == left:
            return np.uint64(max(prefix << shift, 1))
    return np.uint64(max(prefix, 1))


def _drop_keys(table: SlotTable, block: SlotBlock) -> NDArray[np.uint64]:
    """Larger for smaller magnitudes; of equal ones for the earlier cell."""
    bits_X = np.abs(block.values_X).view(np.uint32).astype(np.uint64)
    cells_X = (block.first + block.rows_X).astype(np.uint64) * np.uint64(table.width) + block.columns_X
    return (np.uint64(0x7FFFFFFF) - bits_X) << np.uint64(_CELL_BITS) | _earlier(cells_X)


def _grow_keys(table: SlotTable, block: SlotBlock, drop_from: np.uint64, scores: Scores) -> NDArray[np.uint64]:
    """Larger for larger scores, 0 for cells that stay stored and for those that their row has no room for."""
    scores_RD = scores(block.first, block.first + len(block.counts_R))
    keys_RD = np.empty(scores_RD.shape, np.uint64)
    starts = np.append(block.starts_R, len(block.columns_X))
    stays_X = _drop_keys(table, block) < drop_from
    first_cell = block.first * table.width
    grow_keys(scores_RD, starts, block.columns_X, stays_X, table.max_count, first_cell, _CELL_BITS, keys_RD)
    return keys_RD


def _earlier(cells: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.uint64((1 << _CELL_BITS) - 1) - cells  # type: ignore[no-any-return]


def _smallest(block: SlotBlock, counts_R: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks the counts_R[r] smallest magnitudes of every row, the lower column first among equals."""
    order_X = np.lexsort((np.abs(block.values_X), block.rows_X))
    place_X = np.arange(len(order_X)) - np.repeat(block.starts_R, block.counts_R)
    marked_X = np.zeros(len(order_X), bool)
    marked_X[order_X[place_X < np.repeat(counts_R, block.counts_R)]] = True
    return marked_X


def _only(block: SlotBlock, stays_X: NDArray[np.bool_]) -> SlotBlock:
    counts_R = np.bincount(block.rows_X[stays_X], minlength=len(block.counts_R))
    return SlotBlock(
        block.first, counts_R, block.columns_X[stays_X], block.values_X[stays_X],
        np.ascontiguousarray(block.moments_MX[:, stays_X]), block.scalars_RC,
    )  # fmt: skip


def _with_grown(block: SlotBlock, grown_RD: NDArray[np.bool_], newborn: Newborn) -> SlotBlock:
    rows, columns = np.nonzero(grown_RD)
    born = newborn(block, rows, columns.astype(np.uint8))
    all_rows, all_columns = np.concatenate([block.rows_X, rows]), np.concatenate([block.columns_X, columns.astype(np.uint8)])
    order = np.lexsort((all_columns, all_rows))
    values = np.concatenate([block.values_X, born[0]])[order]
    moments = np.ascontiguousarray(np.concatenate([block.moments_MX, born[1:]], axis=1)[:, order])
    counts_R = block.counts_R + np.bincount(rows, minlength=len(block.counts_R))
    return SlotBlock(block.first, counts_R, all_columns[order], values, moments, block.scalars_RC)
