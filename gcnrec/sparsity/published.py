"""The policies of dynamic sparse learning that others published, each in its authors' choices, on tables that are really sparse.

Letters: N rows, R rows of a block, D width, X chosen cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.random import Stage, u64, uniform
from gcnrec.sparsity.exchange import Change, exchange_anywhere, exchange_in_groups, nothing_known, prune_smallest
from gcnrec.sparsity.first_support import Keys, magnitude_keys, random_keys
from gcnrec.sparsity.nmf import nonnegative_factors
from gcnrec.sparsity.policy import Gradients, Moment, steepest
from gcnrec.sparsity.row_counts import even_counts, largest_counts
from gcnrec.tables.slots import SlotTable

ROW_SHARE = 0.5
"""sparserec: share of the rows that can grow in one exploration."""
LEAST_GROUP = 16
"""nm: M of the last pattern."""


class RandomMask:
    """A first support where every cell is as likely as any other, as many in every row."""

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int16]:
        return even_counts(graph.num_nodes, table.max_values, table.max_count)

    def first_keys(self, seed: int) -> Keys:
        return random_keys(seed)


@dataclass(frozen=True)
class Static(RandomMask):
    """A random mask that never changes (Liu et al. 2022, "The Unreasonable Effectiveness of Random Pruning")."""

    batches = 0
    stop = 0.0

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        return Change()


@dataclass(frozen=True)
class RandomGrowth(RandomMask):
    """SET (Mocanu et al. 2018): the smallest `ratio` of the values give way to as many random cells."""

    ratio: float
    stop: float
    seed: int
    batches = 0

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        def scores(first: int, last: int) -> NDArray[np.float32]:
            cells = (last - first) * table.width
            draws = u64(self.seed, Stage.EXPLORE, (moment.number + 1) * table.num_rows + first, -(-cells // 2))
            # A cell takes half a draw; 24 bits are what a float32 below 1 holds.
            return (draws.view(np.uint32)[:cells] >> np.uint32(8)).astype(np.float32).reshape(last - first, table.width)

        return exchange_anywhere(table, math.ceil(self.ratio * table.num_values), scores, nothing_known)


@dataclass(frozen=True)
class Rigl(RandomMask):
    """RigL (Evci et al. 2020): magnitude pruning, growth by the gradient of one batch, the share falling as half a cosine to
    zero at `stop`; grown cells start at zero with fresh optimizer state."""

    ratio: float
    stop: float
    batches = 1

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        share = _half_cosine(self.ratio, moment.progress / self.stop)
        return exchange_anywhere(table, math.ceil(share * table.num_values), steepest(gradients), nothing_known)


@dataclass(frozen=True)
class Dsl(RandomMask):
    """DSL (Wang et al. 2024) as its authors run it: global magnitude pruning, growth by the gradient of one batch, cells just
    pruned may win at once and keep their values ("regret"), the share falling as a cosine from `ratio` to 0.005 at the last
    step, exploration never stopping. Optimizer state is that of the stored values only, where theirs stays dense."""

    ratio: float
    batches = 1
    stop = 1.0

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        least = 0.005
        share = least + _half_cosine(self.ratio - least, moment.progress)
        return exchange_anywhere(table, math.ceil(share * table.num_values), steepest(gradients), nothing_known)


class SparseRec:
    """SparseRec (2024, arXiv 2411.12205), rebuilt from its abstract, since neither its code nor its constants are public: the
    first mask is that of the largest entries of a nonnegative factorisation of the interactions, columns scaled to unit norm,
    at least `least` of every row; growth is by gradients accumulated over `batches` batches, on a sample of the rows only,
    drawn by degree anew each time. Magnitude pruning, and the share of RigL."""

    def __init__(self, graph: BipartiteGraph, seed: int, least: int, ratio: float, stop: float, batches: int) -> None:
        self.batches, self.stop = batches, stop
        self._graph, self._seed, self._least, self._ratio = graph, seed, least, ratio
        self._factors = cache(partial(unit_factors, graph, seed=seed))

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int16]:
        return largest_counts(self._factors(table.width), table.max_values, self._least, table.max_count)

    def first_keys(self, seed: int) -> Keys:
        return lambda first, tile_RD: self._factors(tile_RD.shape[1])[first : first + len(tile_RD)]

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        drawn_N = rows_by_degree(self._graph, self._seed, moment.number)
        steep = steepest(gradients)

        def scores(first: int, last: int) -> NDArray[np.float32]:
            scores_RD = steep(first, last)
            scores_RD[~drawn_N[first:last]] = -1.0
            return scores_RD

        # Rows that were not drawn take nothing, so no more may go than the drawn ones have room for.
        room = int((table.max_count - table.counts_N[drawn_N].astype(np.int64)).sum())
        count = math.ceil(_half_cosine(self._ratio, moment.progress / self.stop) * table.num_values)
        return exchange_anywhere(table, min(count, room), scores, nothing_known)


def unit_factors(graph: BipartiteGraph, width: int, seed: int) -> NDArray[np.float32]:
    """Factors of users, then items, float32 (N, width); each side's columns have length 1, so that none outweighs another."""
    sides = nonnegative_factors(graph, width, seed)
    return torch.cat([torch.nn.functional.normalize(side, dim=0) for side in sides]).numpy()


def rows_by_degree(graph: BipartiteGraph, seed: int, number: int) -> NDArray[np.bool_]:
    """Marks ROW_SHARE of the nodes, drawn without replacement in proportion to their degrees.

    The first arrivals of exponential clocks (Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir")."""
    degrees_N = np.concatenate([graph.user_items.degrees, graph.item_users.degrees])
    clocks_N = -np.log1p(-uniform(seed, Stage.EXPLORE, number, graph.num_nodes)) / np.maximum(degrees_N, 1e-9)
    drawn_N = np.zeros(graph.num_nodes, np.bool_)
    drawn_N[np.argsort(clocks_N, kind="stable")[: math.ceil(ROW_SHARE * graph.num_nodes)]] = True
    return drawn_N


@dataclass(frozen=True)
class Pattern:
    """N:M sparsity (Zhou et al. 2021, "Learning N:M fine-grained structured sparse neural networks from scratch"), reached
    gradually (Bambhaniya et al. 2024, "Progressive gradient flow for robust N:M sparsity training"): of every M consecutive
    columns of a row exactly N are stored. M starts as the width and is halved in equal parts of the exploration down to
    LEAST_GROUP, N with it; each exploration drops by magnitude and grows by the gradient of one batch within groups, the
    share that of RigL. A budget that is no whole pattern is rounded down to one."""

    ratio: float
    stop: float
    batches = 1

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int16]:
        return np.full(graph.num_nodes, self._groups(table)[1], np.int16)

    def first_keys(self, seed: int) -> Keys:
        return magnitude_keys

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        groups, per_row = self._groups(table)
        share = _half_cosine(self.ratio, moment.progress / self.stop)
        part = 1.0 if _is_last(moment, self.stop) else moment.progress / self.stop
        group = groups[min(int(len(groups) * part), len(groups) - 1)]
        hold = per_row * group // table.width
        return exchange_in_groups(table, group, hold, round(share * hold), steepest(gradients), nothing_known)

    @staticmethod
    def _groups(table: SlotTable) -> tuple[list[int], int]:
        """M over time, and values of a row. As small as the budget allows: a group stores one value at least."""
        per_row = min(table.max_values // table.num_rows, table.max_count)
        if per_row == 0:
            raise UsageError(
                f"sparsity.policy = 'nm' stores as many values of every row, and a budget of {table.max_values:,} is none for "
                f"each of {table.num_rows:,} rows; raise table.budget or choose another policy"
            )
        groups = [table.width]
        while groups[-1] % 2 == 0 and groups[-1] >= 2 * LEAST_GROUP and per_row * (groups[-1] // 2) >= table.width:
            groups.append(groups[-1] // 2)
        return groups, per_row * groups[-1] // table.width * (table.width // groups[-1])


@dataclass(frozen=True)
class Gradual:
    """Gradual magnitude pruning (Zhu & Gupta 2017, "To prune, or not to prune", eq. 1): dense at first, then down to the
    budget by a cubic schedule from a quarter to three quarters of the training. Outside the hard budget, as a comparison: the
    table has memory for every value, and values_max_seen in memory.json passes budget_values. With one
    exploration in the whole training it is one-shot magnitude pruning."""

    budget: int
    """Values that the table stores at the end."""
    batches = 0
    stop = 1.0

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int16]:
        return np.full(graph.num_nodes, table.max_count, np.int16)

    def first_keys(self, seed: int) -> Keys:
        return magnitude_keys

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        begin, end = 0.25, 0.75
        part = 1.0 if _is_last(moment, self.stop) else min(max((moment.progress - begin) / (end - begin), 0.0), 1.0)
        first, last = table.num_rows * table.max_count, self.budget
        wanted = last + int((first - last) * (1.0 - part) ** 3)
        return prune_smallest(table, table.num_values - wanted)


def _half_cosine(ratio: float, part: float) -> float:
    """From `ratio` at part 0 to zero at part 1."""
    return 0.5 * ratio * (1.0 + math.cos(math.pi * part))


def _is_last(moment: Moment, stop: float) -> bool:
    """No other exploration follows before `stop`: they come at equal distances, and none at `stop` itself."""
    return moment.progress * (moment.number + 2) / (moment.number + 1) > stop - 1e-9
