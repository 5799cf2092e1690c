"""The policies of dynamic sparse learning that others published, each in its authors' choices, on tables that are really sparse.

Letters: N rows, R rows of a block, D width, X chosen cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.config import Job
from gcnrec.dynamic import Dynamic
from gcnrec.errors import UsageError
from gcnrec.exchange import Change, exchange_anywhere, nothing_known
from gcnrec.graph import BipartiteGraph
from gcnrec.policy import Gradients, Moment, Policy, steepest
from gcnrec.random import Stage, uniform
from gcnrec.slots import SlotTable
from gcnrec.support import Keys, even_counts, random_keys


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
