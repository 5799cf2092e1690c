"""The plan of a run's table: width, values, update rule, policy and place, decided once from a job.

Only this file and `build.py` read the job's `[table]`, `[sparsity]`, `[optimizer]` and `train.device`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.ops.catch_up import reach
from gcnrec.sparsity.dynamic import Dynamic
from gcnrec.sparsity.first_support import Keys, magnitude_keys, random_keys
from gcnrec.sparsity.own import Foreign
from gcnrec.sparsity.policy import Policy
from gcnrec.sparsity.published import Dsl, Gradual, Pattern, RandomGrowth, Rigl, SparseRec, Static
from gcnrec.steps.start import Start
from gcnrec.tables.arena import VALUE_BYTES
from gcnrec.tables.placement import Placement, uses_gpu
from gcnrec.tables.rules import AdamDense, LateAdam, Rule, learning_rate, rule_of
from gcnrec.tables.slots import MAX_COLUMNS

_PUBLISHED_RATIO = {"dsl": 0.5, "dynamic": 0.1}
SERVED_SHARE = 0.15
"""dynamic: share of the values for user rows where the graph serves them."""
SLABS = 1.2
"""Bytes of a sparse table's records over the bytes of its values: records leave a fifth of the memory unused."""


@dataclass(frozen=True)
class Plan:
    """What a job's table is, for a graph of `num_rows` nodes.

    The table stores at most `budget` values of its rows of `width`, and has memory for `max_values`: more than the budget for
    `gradual` alone. `policy` makes the policy of a graph and is None for a dense table. `first_keys` replaces the policy's own.
    `rate` gives the learning rate of a step (1 ..) out of a total. `interval`: epochs between explorations.
    """

    num_rows: int
    width: int
    base_width: int
    budget: int
    max_values: int
    dtype: str
    rule: Rule
    rate: Callable[[int, int], float]
    policy: Callable[[BipartiteGraph], Policy] | None
    first_keys: Keys | None
    interval: float
    start: Start
    placement: Placement

    @property
    def table_bytes(self) -> int:
        """Bytes of table and optimizer state: exact for a dense table, an estimate for a sparse one."""
        if self.policy is None:
            return 4 * self.num_rows * (self.width + self.rule.state_width(self.width) + 1)
        scalars = self.rule.state_width(0)
        moments = self.rule.state_width(1) - scalars
        per_value, per_row = VALUE_BYTES[self.dtype] + 1 + 4 * moments, 5 + 4 * scalars + (4 if moments else 0)
        return int(SLABS * per_value * self.max_values) + self.num_rows * per_row

    @property
    def catches_up(self) -> bool:
        """Whether rows make up for steps that they missed where they are read."""
        return isinstance(self.rule, LateAdam)

    @property
    def slow_catch_up(self) -> list[str]:
        """A sentence where each missed step is replayed, since what the mean gradient still moves fades too slowly; or none."""
        if not isinstance(self.rule, LateAdam) or reach(self.rule) is not None:
            return []
        betas = f"optimizer.beta1 = {self.rule.beta1:g} with optimizer.beta2 = {self.rule.beta2:g}"
        return [
            f"{betas}: each step that a row missed is replayed, because its moves fade too slowly; for fast steps set "
            "optimizer.beta1 well below the root of optimizer.beta2"
        ]

    def exceeded_by(self, num_values: int) -> bool:
        """Whether a sparse table of `num_values` stores more than its budget, as `gradual` does until it has pruned enough."""
        return self.policy is not None and num_values > self.budget


def plan_of(job: Job, num_rows: int) -> Plan:
    """The plan that `job` makes for a graph of `num_rows` nodes. UsageError when its budget is no value at all."""
    table, width = job.table, job.table_width
    budget = int(table.budget * num_rows * job.base_width + 1e-9)
    if job.is_sparse and width > MAX_COLUMNS:
        raise UsageError(f"a sparse table has at most {MAX_COLUMNS} columns, got model.width = {width}; lower it")
    if not budget:
        raise UsageError(f"table.budget = {table.budget} of {num_rows:,} rows of {job.base_width} leaves no value; raise it")
    on_gpu = uses_gpu(job.train.device, job.trains_on_gpu)
    return Plan(
        num_rows,
        width,
        job.base_width,
        budget,
        num_rows * width if job.sparsity.policy == "gradual" else budget,
        table.dtype,
        _rule(job),
        partial(learning_rate, job.optimizer),
        _policy(job, budget) if job.is_sparse else None,
        _first_keys(job),
        job.sparsity.interval,
        Start(job.model.start, job.model.start_scale, job.train.seed),
        Placement(on_gpu, table.placement, table.cache_bytes, job.train.transfer_blocks),
    )


def _rule(job: Job) -> Rule:
    """The job's rule. Every-row Adam of steps that read some rows alone catches up what they read."""
    rule, settings = rule_of(job.optimizer), job.optimizer
    if isinstance(rule, AdamDense) and job.model.propagation == "sampled":
        return LateAdam(settings.beta1, settings.beta2, settings.epsilon)
    return rule


def _first_keys(job: Job) -> Keys | None:
    match job.sparsity.first:
        case "random":
            return random_keys(job.train.seed)
        case "largest":
            return magnitude_keys
    return None


def _policy(job: Job, budget: int) -> Callable[[BipartiteGraph], Policy]:
    """What makes the policy of a graph; each call makes a new one, so that a first support's factors are not kept."""
    settings, seed = job.sparsity, job.train.seed
    ratio = _PUBLISHED_RATIO.get(settings.policy, 0.3) if settings.ratio is None else settings.ratio
    fixed: Policy
    match settings.policy:
        case "sparserec":
            return lambda graph: SparseRec(graph, seed, settings.least_slots, ratio, settings.stop, settings.batches)
        case "static":
            fixed = Static()
        case "set":
            fixed = RandomGrowth(ratio, settings.stop, seed)
        case "rigl":
            fixed = Rigl(ratio, settings.stop)
        case "dsl":
            fixed = Dsl(ratio)
        case "nm":
            fixed = Pattern(ratio, settings.stop)
        case "gradual":
            fixed = Gradual(budget)
        case "dynamic":
            served = job.model.propagation != "none" and job.model.layers > 0 and job.model.name != "mf"
            share = SERVED_SHARE if settings.user_share is None and served else settings.user_share
            power, least = settings.degree_power, settings.least_slots
            fixed = Dynamic(share, power, least, ratio, settings.stop, settings.batches, job.table.dtype)
        case _ if settings.own:
            fixed = Foreign.of(settings.own, settings.stop)
        case _:
            raise UsageError(f"sparsity.policy = '{settings.policy}' is not a policy of a sparse table")
    return lambda graph: fixed
