"""Which policy a job's sparse table follows."""

from __future__ import annotations

from functools import partial

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.sparsity.budget import budget_values
from gcnrec.sparsity.dynamic import Dynamic
from gcnrec.sparsity.policy import Policy
from gcnrec.sparsity.published import Dsl, Gradual, Pattern, RandomGrowth, Rigl, SparseRec, Static

_PUBLISHED_RATIO = {"dsl": 0.5, "dynamic": 0.1}


SERVED_SHARE = 0.15
"""dynamic: share of the values for user rows where the graph serves them."""


def policy_of(job: Job, graph: BipartiteGraph) -> Policy:
    """The policy that a job's `sparsity` section names; `sparserec` needs the train graph."""
    settings = job.sparsity
    ratio = _PUBLISHED_RATIO.get(settings.policy, 0.3) if settings.ratio is None else settings.ratio
    match settings.policy:
        case "static":
            return Static()
        case "set":
            return RandomGrowth(ratio, settings.stop, job.train.seed)
        case "rigl":
            return Rigl(ratio, settings.stop)
        case "dsl":
            return Dsl(ratio)
        case "sparserec":
            return SparseRec(graph, job.train.seed, settings.least_slots, ratio, settings.stop, settings.batches)
        case "nm":
            return Pattern(ratio, settings.stop)
        case "gradual":
            return Gradual(partial(budget_values, job))
        case "dynamic":
            served = job.model.propagation != "none" and job.model.layers > 0 and job.model.name != "mf"
            share = SERVED_SHARE if settings.user_share is None and served else settings.user_share
            return Dynamic(
                share, settings.degree_power, settings.least_slots, ratio, settings.stop, settings.batches, job.table.dtype
            )
    raise UsageError(f"sparsity.policy = '{settings.policy}' is not a policy of a sparse table")
