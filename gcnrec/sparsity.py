"""Dynamic sparse learning: policies that choose a sparse table's first support and change it while it trains.

A policy never sees more than a block of rows at a time, and every exchange keeps the budget exactly (`gcnrec.exchange`).
Letters: N rows, R rows of a block, D width, M moments, X chosen cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.exchange import Change, Newborn, exchange_anywhere, exchange_in_rows, nothing_known
from gcnrec.graph import BipartiteGraph
from gcnrec.random import Stage, uniform
from gcnrec.slots import SlotBlock, SlotTable
from gcnrec.support import Keys, even_counts, full_records, magnitude_keys, power_counts, random_keys


class Gradients(Protocol):
    """The mean gradient of every cell, stored or not, over the batches it was asked for."""

    def tile(self, first: int, last: int) -> NDArray[np.float32]:
        """Rows first .. last-1, float32 (R, D), to be written to."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """When an exploration happens: `progress` of all training steps done (0..1), the how-manieth it is (from 0)."""

    progress: float
    number: int


class Policy(Protocol):
    """`batches`: fresh batches whose mean gradient `explore` wants (0: none); `stop`: share of training that it explores."""

    @property
    def batches(self) -> int: ...

    @property
    def stop(self) -> float: ...

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int64]:
        """Values stored of every row at the start."""
        ...

    def first_keys(self, seed: int) -> Keys:
        """What the first support is chosen by."""
        ...

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change: ...


class RandomMask:
    """A first support where every cell is as likely as any other, as many in every row."""

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int64]:
        return even_counts(graph.num_nodes, table.budget, table.max_count)

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
            draws = uniform(self.seed, Stage.EXPLORE, (moment.number + 1) * table.num_rows + first, (last - first) * table.width)
            return draws.astype(np.float32).reshape(last - first, table.width)

        return exchange_anywhere(table, math.ceil(self.ratio * table.num_values), scores, nothing_known)


@dataclass(frozen=True)
class Rigl(RandomMask):
    """RigL (Evci et al. 2020): magnitude pruning, growth by the gradient of one batch, the share falling as half a cosine to
    zero at `stop`; grown cells start at zero with fresh optimizer state."""

    ratio: float
    stop: float
    batches = 1

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        share = 0.5 * self.ratio * (1.0 + math.cos(math.pi * moment.progress / self.stop))
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
        share = least + 0.5 * (self.ratio - least) * (1.0 + math.cos(math.pi * moment.progress))
        return exchange_anywhere(table, math.ceil(share * table.num_values), steepest(gradients), nothing_known)


@dataclass(frozen=True)
class Dynamic:
    """Ours. Rows get slots in proportion to degree**`power`; the first support is the largest entries of the start (a rotated
    spectrum); then every row exchanges its smallest slots for the cells with the steepest mean gradient over `batches` fresh
    batches, the share falling as half a cosine to zero at `stop`. Grown cells start with a warm optimizer state."""

    power: float
    least: int
    ratio: float
    stop: float
    batches: int
    dtype: str

    def first_counts(self, graph: BipartiteGraph, table: SlotTable) -> NDArray[np.int64]:
        degrees_N = np.concatenate([graph.user_items.degrees, graph.item_users.degrees])
        return full_records(power_counts(degrees_N, table.budget, self.least, table.max_count, self.power), self.dtype)

    def first_keys(self, seed: int) -> Keys:
        return magnitude_keys

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        share = 0.5 * self.ratio * (1.0 + math.cos(math.pi * moment.progress / self.stop))
        return exchange_in_rows(table, share, steepest(gradients), warm(gradients))


def policy_of(job: Job) -> Policy:
    """The policy that a job's `sparsity` section names."""
    settings = job.sparsity
    match settings.policy:
        case "static":
            return Static()
        case "set":
            return RandomGrowth(settings.ratio, settings.stop, job.train.seed)
        case "rigl":
            return Rigl(settings.ratio, settings.stop)
        case "dsl":
            return Dsl(settings.ratio)
        case "dynamic":
            least = settings.least_slots
            return Dynamic(settings.degree_power, least, settings.ratio, settings.stop, settings.batches, job.table.dtype)
    raise UsageError(f"sparsity.policy = '{settings.policy}' is not a policy of a sparse table")


def steepest(gradients: Gradients | None) -> Callable[[int, int], NDArray[np.float32]]:
    """Cells by the magnitude of their gradient."""
    assert gradients is not None  # asked for by `batches`
    return lambda first, last: np.abs(gradients.tile(first, last))


def warm(gradients: Gradients | None) -> Newborn:
    """Grown cells start at zero with the first moment that their mean gradient would have brought about, and the mean second
    moment of their row, or their own square if larger: never a second moment near zero, which would make Adam overshoot."""
    assert gradients is not None  # asked for by `batches`

    def newborn(block: SlotBlock, rows: NDArray[np.int64], columns: NDArray[np.uint8]) -> NDArray[np.float32]:
        born = nothing_known(block, rows, columns)
        steep = gradients.tile(block.first, block.first + len(block.counts_R))[rows, columns]
        if len(born) > 1:
            born[1] = steep
        if len(born) > 2:
            sums_R = np.bincount(block.rows_X, block.moments_MX[1], minlength=len(block.counts_R))
            means_R = (sums_R / np.maximum(np.bincount(block.rows_X, minlength=len(sums_R)), 1)).astype(np.float32)
            born[2] = np.maximum(means_R[rows], np.square(steep))
        return born

    return newborn
