"""The parts of a training stage as a job has them."""

from __future__ import annotations

from gcnrec.tables.dense import in_ram
from gcnrec.tables.features.sides import Features
from gcnrec.training.build import TrainData, build_step, features_read, first_table
from gcnrec.training.plan import plan_of


def start_table(job, graph):
    """The table before its first step."""
    return first_table(plan_of(job, graph.num_nodes), graph)


def step_of(job, graph, weights=None, table=None, features=None):
    """The step on `graph`, which updates `table`, by default the job's own."""
    sides = features_read(job, features or Features(), graph.union, in_ram)
    data = TrainData(graph, weights, sides)
    return build_step(job, plan_of(job, graph.num_nodes), data, start_table(job, graph) if table is None else table)
