"""How a job is shared by workers: what is refused, and what the leader says when a stage begins."""

from __future__ import annotations

from typing import Any, NamedTuple

from gcnrec.config import Loss, Model, Sampler
from gcnrec.errors import UsageError
from gcnrec.loaders.schema import Dataset
from gcnrec.tables.dealt.columns import LINE, most_workers
from gcnrec.training.plan import Plan


class Chosen(NamedTuple):
    """What of a job decides whether workers can share it."""

    model: Model
    loss: Loss
    sampler: Sampler
    batch_size: int


def by_columns(model: Model) -> bool:
    """Whether workers share the columns of the table, instead of parts of each batch: where a step propagates all rows."""
    return model.name == "lightgcn" and model.propagation == "full"


def refuse_parts(parts: int, workers: int, chosen: Chosen, plan: Plan | None) -> None:
    """UsageError where a job cannot be trained in so many parts, or not by so many workers."""
    if parts == 1 and workers == 1:
        return
    reason = _reason(chosen, plan, parts)
    if reason:
        several = f"train.parts = {parts}" if workers == 1 else f"{workers} workers"
        raise UsageError(f"{several} cannot share this job: {reason}; train it with one worker and train.parts = 1")
    if plan is not None and by_columns(chosen.model):
        if workers > (most := most_workers(plan.width)):
            raise UsageError(
                f"{workers} workers cannot share {plan.width} columns, of which each gets {LINE} at least; use --workers {most}"
            )
    elif parts % workers:
        allowed = [str(1 << power) for power in range(parts.bit_length())]
        raise UsageError(
            f"this run's batches have {parts} parts, which {workers} workers cannot share; use {' or '.join(allowed)} workers"
        )
    if chosen.batch_size < parts:  # or a step may have no pair at all
        raise UsageError(
            f"train.batch_size must be at least train.parts = {parts}, got {chosen.batch_size}; set it to {parts} or more, or "
            "lower train.parts"
        )


def _reason(job: Chosen, plan: Plan | None, parts: int) -> str | None:
    """Why one process must train the job alone; None where several may."""
    if plan is None:
        return f"model.name = '{job.model.name}' is a closed form, which one process computes"
    if job.model.name == "ngcf":
        return "ngcf mixes the columns of all rows"
    if job.model.own:
        return f"{job.model.own.shown} computes with all columns of all rows"
    if job.loss.name == "directau" and not by_columns(job.model):
        return "directau compares all pairs of a batch"
    if job.sampler.respect_time:
        return "sampler.respect_time = true gives nodes of a batch dates of their own"
    if plan.catches_up:
        return "optimizer.rule = 'adam_dense' catches up rows where one process reads them ('adam' has none to catch up)"
    if plan.placement.on_disk:
        return "a table on disk is not dealt out (table.placement = 'host')"
    return _unshared_columns(job, plan, parts) if by_columns(job.model) else None


def _unshared_columns(job: Chosen, plan: Plan, parts: int) -> str | None:
    """Why the columns of its table cannot be shared; None where they can."""
    if parts > 1:
        return "with model.propagation = 'full' workers share columns, and batches have no parts"
    if plan.policy is not None:
        return "rows of a sparse table have columns of their own (table.budget = 1.0)"
    if plan.rule.state_width(0):
        return "its optimizer.rule has one number for all columns of a row ('adam', 'adam_dense' and 'sgd' have none)"
    if job.model.behaviours == "weighted":
        return "model.behaviours = 'weighted' learns from all columns how much a behaviour weighs"
    return None


def beginning(described: dict[str, Any], dataset: Dataset, stage: str, on_gpu: bool) -> dict[str, Any]:
    """What other workers must know to take part in a stage ("fit" or "refit") of a job, whose sections JSON describes.

    All train on GPUs, or none does: a worker without one must not decide for itself.
    """
    described = {**described, "train": {**described["train"], "device": "cuda" if on_gpu else "cpu"}}
    return {"do": "begin", "job": described, "data": str(dataset.folder.resolve()), "digest": dataset.digest, "stage": stage}
