"""Prune and grow: which slots a table gives up and which cells get them, chosen exactly and never above the budget.

Cells of the whole table are chosen by an exact cut (`gcnrec.sparsity.select`); ties go by row, then column.
Letters: R rows of a block, D width, X stored values of a block, G grown cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.sparsity.merge import merged_places
from gcnrec.sparsity.select import Cut, bar_cells, cut_at, exchange_marks, group_marks
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable, in_blocks

_INFINITY = 0x7F800000
"""The largest key of a score."""

Scores = Callable[[int, int], NDArray[np.float32]]
"""What cells of rows first .. last-1 are grown by, the larger the better: float32 (R, D), C-contiguous, to be written to.
Negative ones are never grown."""
Newborn = Callable[[SlotBlock, NDArray[np.int64], NDArray[np.uint8]], NDArray[np.float32]]
"""Value and moments of grown cells, float32 (1 + M, G): (block before they come, rows of the block, columns)."""


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

    Pruned cells compete too, and stay as they were if they win. Rows may become empty; none passes what a row can hold.
    """
    drop = _smallest(table, count)
    room = table.max_values - table.num_values + min(max(count, 0), table.num_values)

    def candidates(least: int) -> Iterator[NDArray[np.int32]]:
        dropped = drop.picker()
        for block in in_blocks(table):
            yield _growth_keys(table, block, ~dropped(_smallness(block)), scores, least)

    grow = cut_at(candidates, room)
    pruned, regrown, ties = _give_up(table, drop, grow, scores)
    grown = _give_out(table, Cut(grow.bound, ties), scores, newborn)
    return Change(pruned, grown + regrown, regrown)


def exchange_in_rows(table: SlotTable, share: float, scores: Scores, newborn: Newborn) -> Change:
    """Every row gives up the smallest `share` of its values (rounded down) for its unstored cells with the largest scores.

    Only cells with a score above 0 are grown: a row without one, which no batch reached, keeps what it has.
    """
    change = Change()
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            stays_X, grown_RD = _empty_marks(table, block)
            exchange_marks(scores(first, last), _starts(block), block.columns_X, np.abs(block.values_X), share, stays_X, grown_RD)
            rebuild.write(_with_grown(_only(block, stays_X), grown_RD, newborn))
            grown = int(grown_RD.sum())
            change += Change(grown, grown, 0)
    return change


def exchange_in_groups(table: SlotTable, group: int, hold: int, leave: int, scores: Scores, newborn: Newborn) -> Change:
    """Leave exactly `hold` values in every `group` consecutive columns of a row.

    All but `leave` of them have the largest magnitudes; the others are the cells with the largest scores, pruned ones among them.

    `group` divides the width. A row without a score above 0 changes only what the pattern forces.
    """
    change = Change()
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            stays_X, grown_RD = _empty_marks(table, block)
            magnitudes_X = np.abs(block.values_X)
            group_marks(scores(first, last), _starts(block), block.columns_X, magnitudes_X, group, hold, leave, stays_X, grown_RD)
            again_X = grown_RD[block.rows_X, block.columns_X]
            rebuild.write(_with_grown(_only(block, stays_X | again_X), grown_RD, newborn))
            change += Change(int((~stays_X).sum()), int(grown_RD.sum()), int(again_X.sum()))
    return change


def prune_smallest(table: SlotTable, count: int) -> Change:
    """Give up the `count` smallest values of the table."""
    before, dropped = table.num_values, _smallest(table, count).picker()
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            rebuild.write(_only(block, ~dropped(_smallness(block))))
    return Change(before - table.num_values, 0, 0)


def _give_up(table: SlotTable, drop: Cut, grow: Cut, scores: Scores) -> tuple[int, int, int]:
    """Drop what was chosen, but for the cells that grow again; (dropped, grown again, ties at the cut that are left)."""
    pruned = regrown = tied = 0
    dropped, wins = drop.picker(), grow.picker()
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            stays_X = ~dropped(_smallness(block))
            keys = _growth_keys(table, block, stays_X, scores, grow.bound)
            cells_X = block.rows_X * table.width + block.columns_X
            again_X = wins(keys)[cells_X]
            rebuild.write(_only(block, stays_X | again_X))
            pruned += int((~stays_X).sum())
            regrown += int(again_X.sum())
            tied += int((keys[cells_X[again_X]] == grow.bound).sum())
    return pruned, regrown, grow.ties - tied


def _give_out(table: SlotTable, grow: Cut, scores: Scores, newborn: Newborn) -> int:
    """Store the cells that were chosen and are not stored yet. What grew again would have won anew: the others' places in
    the order, in the table and in their rows, are the same without it."""
    grown, wins = 0, grow.picker()
    with table.rebuild() as rebuild:
        for first, last in table.blocks():
            block = rebuild.read(first, last)
            keys = _growth_keys(table, block, np.ones(len(block.values_X), np.bool_), scores, grow.bound)
            grown_RD = wins(keys).reshape(last - first, table.width)
            rebuild.write(_with_grown(block, grown_RD, newborn))
            grown += int(grown_RD.sum())
    return grown


def _smallest(table: SlotTable, count: int) -> Cut:
    return cut_at(lambda least: (_smallness(block) for block in in_blocks(table)), count)


def _smallness(block: SlotBlock) -> NDArray[np.int32]:
    """Keys that are larger for smaller magnitudes."""
    return ~block.values_X.view(np.int32) & np.int32(0x7FFFFFFF)


def _growth_keys(table: SlotTable, block: SlotBlock, stays_X: NDArray[np.bool_], scores: Scores, least: int) -> NDArray[np.int32]:
    """Scores as keys, negative for cells that stay stored and for cells beyond the room of their row (see `bar_cells`)."""
    scores_RD = scores(block.first, block.first + len(block.counts_R))
    least = min(max(least, 0), _INFINITY)
    bar_cells(scores_RD, _starts(block), block.columns_X, stays_X, table.max_count, least)
    return scores_RD.reshape(-1).view(np.int32)


def _starts(block: SlotBlock) -> NDArray[np.int64]:
    """Where every row begins, and where the last ends."""
    return np.append(block.starts_R, len(block.columns_X))


def _empty_marks(table: SlotTable, block: SlotBlock) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return np.empty(len(block.columns_X), np.bool_), np.empty((len(block.counts_R), table.width), np.bool_)


def _only(block: SlotBlock, stays_X: NDArray[np.bool_]) -> SlotBlock:
    before = np.concatenate([[0], np.cumsum(stays_X)])
    counts_R = np.diff(before[_starts(block)])
    return SlotBlock(
        block.first, counts_R, block.columns_X[stays_X], block.values_X[stays_X],
        np.ascontiguousarray(block.moments_MX[:, stays_X]), block.scalars_RC,
    )  # fmt: skip


def _with_grown(block: SlotBlock, grown_RD: NDArray[np.bool_], newborn: Newborn) -> SlotBlock:
    """The block with the marked cells that it does not store yet."""
    place_X, place_G, rows_G = np.empty(len(block.columns_X), np.int64), *np.empty((2, int(grown_RD.sum())), np.int64)
    columns_Y = np.empty(len(place_X) + len(place_G), np.uint8)
    count = merged_places(_starts(block), block.columns_X, grown_RD, place_X, place_G, rows_G, columns_Y)
    place_G, rows_G, columns_Y = place_G[:count], rows_G[:count], columns_Y[: len(place_X) + count]
    born = newborn(block, rows_G, columns_Y[place_G])
    values_Y = np.empty((len(born), len(columns_Y)), np.float32)
    values_Y[0, place_X], values_Y[0, place_G] = block.values_X, born[0]
    for moment, old_X in enumerate(block.moments_MX, 1):
        values_Y[moment, place_X], values_Y[moment, place_G] = old_X, born[moment]
    counts_R = block.counts_R + np.bincount(rows_G, minlength=len(block.counts_R))
    return SlotBlock(block.first, counts_R, columns_Y, values_Y[0], values_Y[1:], block.scalars_RC)
