"""`gcnrec check`: what a job will cost, from a few timed steps and the sizes of what it will allocate. Leaves nothing.

A table on disk is tried on disk, in nameless files of the current folder, below which runs go.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gcnrec.config import Job
from gcnrec.errors import DeviceError
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import top_k
from gcnrec.sparsity.budget import budget_values, room_for, table_width
from gcnrec.steps.start import first_table
from gcnrec.steps.step import Step, build_step
from gcnrec.system.limits import peak_rss_bytes, read_limits
from gcnrec.tables.arena import VALUE_BYTES
from gcnrec.tables.placement import memory_of, placed, uses_gpu
from gcnrec.tables.rules import rule_of
from gcnrec.training.mixture_choice import choice_bytes, refuse_impossible_mixture
from gcnrec.training.open_keys import decided, settled
from gcnrec.training.train import features_of, out_of_memory_as_a_sentence, use_threads

WARM_STEPS, TIMED_STEPS = 3, 10
RANKED_USERS = 512


def check(job: Job, dataset: Dataset) -> dict[str, Any]:
    """Predicted bytes and seconds of `gcnrec train`, by name; DeviceError when a table in memory cannot fit there,
    DataError for a damaged dataset folder.

    Seconds are medians of this machine now: `epoch_seconds` trains one epoch, `validation_seconds` ranks the validation
    users once, `total_seconds` runs all epochs (early stopping may need fewer) and the refit, without fitting and choosing a
    mixture, for which `mixture_bytes` are held beside partners that are mapped. `by_data` names the settings that the job leaves
    open and the data decides, and why.
    """
    open_dataset(dataset.folder, verify=True)
    by_data = {default.setting: default.reason for default in decided(job, dataset)}
    job = settled(job, dataset)
    nodes = dataset.graph.num_nodes
    table_bytes = 0 if job.model.closed_form else _table_bytes(job, nodes)
    available = read_limits().available
    if table_bytes > available and job.table.placement != "disk":
        raise DeviceError(
            f"the table and its optimizer state need {table_bytes:,} bytes, {available:,} are free for this process; "
            "lower model.width, choose another optimizer.rule, or set table.placement = 'disk' with model.start = 'normal'"
        )
    graph_bytes = 8 * (nodes + 2) + (38 if job.sampler.neighbours == "weighted" else 8) * dataset.graph.num_edges
    graph = dataset.graph
    sizes = {"users": graph.num_users, "items": graph.num_items, "train_edges": graph.num_edges, "by_data": by_data}
    if job.model.closed_form:
        return {**sizes, "table_bytes": 0, "graph_bytes": graph_bytes, "pinned_bytes": 0, "gpu_bytes": 0}
    refuse_impossible_mixture(job, dataset)
    with use_threads(job.train.threads), out_of_memory_as_a_sentence():
        timed = _timed(job, dataset, table_bytes, graph_bytes)
    return {**sizes, **timed, **({"mixture_bytes": choice_bytes(job, dataset)} if job.mixture.partners else {})}


def _table_bytes(job: Job, nodes: int) -> int:
    """What table and optimizer state will take: a dense table exactly; a sparse one with the fifth that records leave unused."""
    width, rule = table_width(job), rule_of(job.optimizer)
    if job.table.budget == 1.0:
        return 4 * nodes * (width + rule.state_width(width) + 1)
    per_row = rule.state_width(0)
    per_value = VALUE_BYTES[job.table.dtype] + 1 + 4 * (rule.state_width(1) - per_row)
    room = room_for(job, budget_values(job, nodes), nodes, width)
    return int(1.2 * per_value * room) + nodes * (9 + 4 * per_row)


def _timed(job: Job, dataset: Dataset, table_bytes: int, graph_bytes: int) -> dict[str, Any]:
    begun = time.perf_counter()
    graph = dataset.graph
    allocate = memory_of(job, Path())
    table = placed(job, graph, first_table(job, graph, None, allocate))
    step = build_step(job, graph, dataset.weights_E, table, features_of(dataset))
    count = step.sampler.steps_per_epoch
    seconds = []
    start_seconds = time.perf_counter() - begun
    for index in range(min(WARM_STEPS + TIMED_STEPS, count)):
        begun = time.perf_counter()
        step(step.sampler.batch(0, index), job.optimizer.learning_rate)
        seconds.append(time.perf_counter() - begun)
    step_seconds = float(np.median(seconds[WARM_STEPS:] or seconds))
    rows_NF = allocate(graph.num_nodes * step.encoder.export_width).view(graph.num_nodes, -1)
    begun = time.perf_counter()
    step.encoder.export(step.table.drained(), rows_NF)
    export_seconds = time.perf_counter() - begun
    validation_seconds = export_seconds + _ranking_seconds(rows_NF, dataset)
    epoch_seconds = count * step_seconds
    epochs = job.train.epochs
    validations = epochs // job.evaluate.every if len(dataset.valid) else 0
    refit_share = 1 + len(dataset.valid) / graph.num_edges  # a refit's epoch has the validation edges too
    refit_seconds = start_seconds + epochs * epoch_seconds * refit_share if job.train.refit else 0.0
    sparse, on_disk = job.table.budget < 1.0, job.table.placement == "disk"
    hop_bytes = 4 * (step.table.drained().num_values + graph.num_nodes * 2 * min(64, step.table.width))  # gradient and scratch
    gradient_bytes = hop_bytes if step.encoder.every_node else 0  # a batch's own are small beside the rest
    explorations = int(job.sparsity.stop * epochs / job.sparsity.interval) if sparse else 0
    explore_seconds = explorations * (job.sparsity.batches * step_seconds)
    checkpoint_bytes = (job.run.keep_checkpoints + 2) * table_bytes  # the best one, and one being written
    return {
        "table_bytes": table_bytes,
        "graph_bytes": graph_bytes,
        "ram_bytes": graph_bytes + gradient_bytes + (0 if on_disk else table_bytes + rows_NF.nbytes),
        "peak_rss_bytes_so_far": peak_rss_bytes(),
        "pinned_bytes": table_bytes if uses_gpu(job) else 0,
        "gpu_bytes": _gpu_bytes(job, step, table_bytes) if uses_gpu(job) else 0,
        "disk_bytes": checkpoint_bytes + (3 if sparse else 2) * rows_NF.nbytes + (table_bytes if on_disk else 0),
        "steps_per_epoch": count,
        "step_seconds": step_seconds,
        "epoch_seconds": epoch_seconds,
        "validation_seconds": validation_seconds,
        "total_seconds": (
            start_seconds + epochs * epoch_seconds + validations * validation_seconds + refit_seconds + explore_seconds
        ),
    }


def _gpu_bytes(job: Job, step: Step, table_bytes: int) -> int:
    """The cache, the rows of three batches on their way, and dense tiles of one with their gradients."""
    rows, per_row = len(step.sampler.batch(0, 0).rows_R), table_bytes / step.table.num_rows
    cache = table_bytes if job.table.placement == "device" else job.table.cache_bytes
    return int(cache + rows * (3 * per_row + 6 * 4 * step.table.width))


def _ranking_seconds(rows_NF: torch.Tensor, dataset: Dataset) -> float:
    """Seconds to rank for all validation users, from a sample of them."""
    users = np.unique(dataset.valid.users_E)
    sample = users[:RANKED_USERS]
    if not len(sample):
        return 0.0
    scorer = EmbeddingScorer(rows_NF[: dataset.graph.num_users], rows_NF[dataset.graph.num_users :])
    for _ in range(2):  # the first round compiles
        begun = time.perf_counter()
        for _ in top_k(scorer, sample, 20, dataset.graph.user_items):
            pass
        seconds = time.perf_counter() - begun
    return seconds * len(users) / len(sample)
