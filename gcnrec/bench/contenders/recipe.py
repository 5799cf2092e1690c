"""The recipe that benches of single steps train by: softmax in the batch, cosine scores at temperature 0.12, L2 of layer 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gcnrec.config import Job, Loss, Model, Optimizer, Sampler, Train
from gcnrec.graph import BipartiteGraph
from gcnrec.sampling.sampler import Batch, edge_sampler
from gcnrec.steps.step import Step
from gcnrec.tables.dense import StepTable
from gcnrec.training.build import TrainData, build_step
from gcnrec.training.plan import Plan, plan_of


@dataclass(frozen=True)
class Recipe:
    """The plan, loss and optimizer of a job, its batches in order, and `step_on`, which makes gcnrec's step on a table."""

    plan: Plan
    loss: Loss
    optimizer: Optimizer
    batches: list[Batch]
    step_on: Callable[[StepTable], Step]

    @property
    def adam(self) -> tuple[float, tuple[float, float], float]:
        """Rate, betas and epsilon, as torch's optimizers take them."""
        given = self.optimizer
        return given.learning_rate, (given.beta1, given.beta2), given.epsilon


def recipe_of(graph: BipartiteGraph, model: Model, optimizer: Optimizer, batch_size: int, num_batches: int) -> Recipe:
    """The recipe for `model` and `optimizer` on `graph`, with the first `num_batches` batches."""
    sampler, loss = Sampler(negatives="in_batch"), Loss(name="softmax", score="cosine", temperature=0.12, l2=1e-5)
    job = Job(model=model, sampler=sampler, loss=loss, optimizer=optimizer, train=Train(batch_size=batch_size))
    plan, drawn = plan_of(job, graph.num_nodes), edge_sampler(sampler, graph, None, batch_size, job.train.seed)
    batches = [drawn.batch(*divmod(step, drawn.steps_per_epoch)) for step in range(num_batches)]
    return Recipe(plan, loss, optimizer, batches, partial(build_step, job, plan, TrainData(graph)))
