"""How a job is shared by workers: what is refused, and what the leader says when a stage begins."""

from __future__ import annotations

from typing import Any, NamedTuple

from gcnrec.config import Loss, Model, Sampler
from gcnrec.errors import UsageError
from gcnrec.loaders.schema import Dataset
from gcnrec.training.plan import Plan


class Chosen(NamedTuple):
    """The sections of a job on which it depends whether workers can share it."""

    model: Model
    loss: Loss
    sampler: Sampler


def refuse_parts(parts: int, workers: int, chosen: Chosen, plan: Plan | None) -> None:
    """UsageError where a job cannot be trained in so many parts, or its parts not by so many workers."""
    if parts == 1 and workers == 1:
        return
    reason = _reason(chosen, plan)
    if reason:
        several = f"train.parts = {parts}" if workers == 1 else f"{workers} workers"
        raise UsageError(f"{several} cannot share this job: {reason}; train it with one worker and train.parts = 1")
    if parts % workers:
        allowed = [str(1 << power) for power in range(parts.bit_length())]
        raise UsageError(
            f"this run's batches have {parts} parts, which {workers} workers cannot share; use {' or '.join(allowed)} workers"
        )


def _reason(job: Chosen, plan: Plan | None) -> str | None:
    """Why one process must train the job alone; None where several may."""
    if plan is None:
        return f"model.name = '{job.model.name}' is a closed form, which one process computes"
    if job.model.name == "ngcf":
        return "ngcf mixes the columns of all rows"
    if job.model.propagation == "full" and job.model.layers:
        return "model.propagation = 'full' propagates all rows; 'sampled' and 'none' are shared"
    if job.loss.name == "directau":
        return "directau compares all pairs of a batch"
    if job.sampler.respect_time:
        return "sampler.respect_time = true gives nodes of a batch dates of their own"
    if plan.placement.on_gpu:
        return "parts are trained on CPUs in this version (train.device = 'cpu')"
    if plan.placement.on_disk:
        return "a table on disk is not dealt out (table.placement = 'host')"
    return None


def beginning(described: dict[str, Any], dataset: Dataset, stage: str) -> dict[str, Any]:
    """What other workers must know to take part in a stage ("fit" or "refit") of a job, whose sections JSON describes."""
    return {"do": "begin", "job": described, "data": str(dataset.folder.resolve()), "digest": dataset.digest, "stage": stage}
