"""From a trained table to what ranks: validation, and the files that a finished run leaves behind.

Letters: N nodes, F width of the exported embeddings.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from gcnrec.artifacts import write_embeddings, write_json
from gcnrec.config import Job
from gcnrec.errors import DivergedError
from gcnrec.evaluate import evaluate, warn_of_one_list
from gcnrec.loaders.schema import Dataset
from gcnrec.memory import memory_report, scratch_rows
from gcnrec.models.ranked import scale_for_ranking_, typical_degree
from gcnrec.models.scorer import EmbeddingScorer
from gcnrec.slot_files import order_digest, write_slots
from gcnrec.slots import SlotTable
from gcnrec.step import Step
from gcnrec.support import base_width, budget_values

if TYPE_CHECKING:
    from gcnrec.progress import Observer


def validate(job: Job, step: Step, dataset: Dataset, folder: Path, observer: Observer | None) -> dict[str, float]:
    """Every metric of the validation split at the cut-off of `evaluate.metric`."""
    cut = job.evaluate.metric.rpartition("@")[2]
    graph = step.sampler.graph
    degrees = graph.item_users.degrees, graph.user_items.degrees
    rows_NF = exported(job, step, folder)
    scorer = EmbeddingScorer(rows_NF[: graph.num_users], rows_NF[graph.num_users :])
    tell = partial(observer.work, "validating") if observer else None
    result = evaluate(scorer, dataset.valid, graph.user_items, *degrees, (int(cut),), tell=tell)
    return result.metrics


def exported(job: Job, step: Step, folder: Path) -> torch.Tensor:
    """The embeddings to rank by, float32 (N, F), users first, in scratch of `folder`.

    An item's is scaled to the length |e|**norm_power * degree**degree_power of the job's `model` section.
    """
    graph = step.sampler.graph
    rows_NF = scratch_rows(folder, graph.num_nodes, step.encoder.export_width)
    step.encoder.export(step.table.drained(), rows_NF)
    degrees_I = graph.item_users.degrees
    scale_for_ranking_(rows_NF[graph.num_users :], degrees_I, job.model, typical_degree(degrees_I))
    return rows_NF


def finish(job: Job, step: Step, dataset: Dataset, folder: Path, observer: Observer | None) -> None:
    """Write what training leaves behind. The order matters: memory.json says that all the others are there (`is_trained`).

    DivergedError, and nothing is exported, when an embedding is not finite. A model that ranks the same items for everyone is
    warned of.
    """
    rows_NF = exported(job, step, folder)
    if not np.isfinite(float(rows_NF.sum())):
        raise DivergedError(
            f"the embeddings of {folder} are not finite, so nothing is exported; start again with a lower optimizer.learning_rate"
        )
    users = step.sampler.graph.num_users
    warn_of_one_list(folder, job, EmbeddingScorer(rows_NF[:users], rows_NF[users:]), observer)
    write_embeddings(folder, dataset, rows_NF)
    table = step.table.drained()
    if isinstance(table, SlotTable):
        write_slots(folder / "table.safetensors", table, order_digest(dataset.user_ids, dataset.item_ids))
    budget = budget_values(job, table.num_rows)
    write_json(folder / "memory.json", memory_report(table, step.rule, budget, base_width(job), rows_NF))


def is_trained(job: Job, folder: Path) -> bool:
    """Whether training has left everything behind in a run folder, so that there is nothing to resume."""
    if job.model.closed_form:
        return (folder / "model.safetensors").is_file()
    return all((folder / name).is_file() for name in ("memory.json", "embeddings/users.parquet", "embeddings/items.parquet"))
