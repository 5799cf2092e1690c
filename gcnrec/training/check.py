"""`gcnrec check`: what a job will cost, from a few timed steps and the sizes of what it will allocate. Leaves nothing.

A table on disk is tried on disk, in nameless files of the current folder, below which runs go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from gcnrec.config import Evaluate, Job
from gcnrec.config.unused import unused_settings
from gcnrec.graph import BipartiteGraph
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.models.hops import column_bytes
from gcnrec.models.lightgcn import LightGcn
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import top_k
from gcnrec.runs.tracking import require_trackers
from gcnrec.steps.columns import ColumnsStep
from gcnrec.steps.parted import PartedStep
from gcnrec.steps.step import Step
from gcnrec.system.limits import peak_rss_bytes, private_bytes
from gcnrec.system.observer import SILENT, Observer
from gcnrec.system.scratch import keep_freed_memory
from gcnrec.tables.dense import StepTable
from gcnrec.tables.features.pipelined import SLOTS as FEATURE_SLOTS
from gcnrec.tables.placement import aside_bytes, placed, placed_features, released, shared_features
from gcnrec.tables.ring import SLOTS
from gcnrec.training.build import build_step, features_read, first_table, planned, planned_start, shared_step
from gcnrec.training.costs.stages import Measured, Sizes, ranking_seconds, stages
from gcnrec.training.mixture_choice import choice_bytes
from gcnrec.training.open_keys import decided, located, settled, shared
from gcnrec.training.plan import Plan
from gcnrec.training.train import features_of, out_of_memory_as_a_sentence, train_data, use_threads
from gcnrec.training.workers.share import predicted, tried_alone
from gcnrec.training.workers.shared import Chosen, refuse_parts
from gcnrec.workers.launch import require_count

WARM_STEPS, TIMED_STEPS = 3, 10
PATIENCE_SECONDS = 10.0
"""For steps beyond the first epoch."""
RANKED_USERS = 512
WHOLE_EXPORT_BYTES = 2**29
"""An export above these bytes is not made: one block of its columns is timed."""
MOST_LAUNCH_SECONDS = 20.0
"""What a process took until a check began counts as the launch of a command, unless it has lived longer."""


def check(job: Job, dataset: Dataset, observer: Observer = SILENT, workers: int | None = None) -> dict[str, Any]:
    """Predicted bytes and seconds of `gcnrec train`, by name. Refuses what that refuses before its first step, DataError for
    a damaged dataset folder included.

    Seconds are medians of this machine now: `epoch_seconds` trains one epoch, `validation_seconds` ranks the validation users
    once. `total_seconds` is an upper bound for all epochs and the refit, without the choice of a mixture. That choice holds
    `mixture_bytes`, without its mapped partners. `by_data`: settings that the data decides, with reasons. `observer` is warned
    of keys that change nothing, as by training.
    `stages` has seconds, private memory and disk of training, export and evaluation (`gcnrec.training.costs.stages`).
    Of several `workers`, or parts, worker 0 alone takes its share of each step: its seconds hold no exchange, so that they are
    lower bounds. `ram_bytes` are those of the worker that leads. `gcnrec.training.workers.share.predicted` has what is added.
    """
    require_count(workers)
    launch_seconds = min(time.time() - psutil.Process().create_time(), MOST_LAUNCH_SECONDS)
    open_dataset(dataset.folder)  # it may have changed since it was opened
    by_data = {default.setting: default.reason for default in decided(job, dataset)}
    job = shared(settled(located(job), dataset), workers or 1, observer)
    dataset = dataset.reading(job.model.behaviours)
    plan = planned(job, dataset)
    refuse_parts(job.train.parts or 1, workers or 1, Chosen(job.model, job.loss, job.sampler, job.train.batch_size), plan)
    require_trackers(job.run)
    unused = unused_settings(job, plan is not None and plan.placement.on_gpu, features_of(dataset).any)
    for sentence in [*unused, *(plan.slow_catch_up if plan else [])]:
        observer.warn(sentence)
    graph = dataset.graph
    sizes = {"users": graph.num_users, "items": graph.num_items, "train_edges": graph.num_edges, "by_data": by_data}
    with use_threads(job.train.threads, workers or 1), out_of_memory_as_a_sentence():
        if plan is None:
            return {**sizes, "table_bytes": 0, "graph_bytes": _graph_bytes(job, graph), "pinned_bytes": 0, "gpu_bytes": 0}
        planned_start(job, plan, dataset)
        keep_freed_memory()  # as in training
        with _trying(job, plan, dataset, workers or 1) as tried:
            timed, step = _timed(job, plan, dataset, tried, launch_seconds), tried.step
            if isinstance(step, (PartedStep, ColumnsStep)):
                timed = _shared(timed, predicted(step, plan))
    mixture_bytes = choice_bytes(job.mixture, job.evaluate, dataset)
    return {**sizes, **timed, **({"mixture_bytes": mixture_bytes} if job.mixture.partners else {})}


@contextmanager
def _trying(job: Job, plan: Plan, dataset: Dataset, workers: int) -> Iterator[_Tried]:
    """The step of a job, or worker 0's share of it, with a table that is given back at the end of the block."""
    begun, graph, memory = time.perf_counter(), dataset.graph, plan.placement.memory(Path())
    features = features_read(job, features_of(dataset), graph.union, memory, plan.placement.on_gpu)
    data, first = train_data(dataset), first_table(plan, graph, None, memory)
    sizes = _graph_bytes(job, graph), features.bytes
    if max(job.train.parts or 1, workers) > 1:
        with shared_features(plan.placement, features) as there:
            share = shared_step(job, plan, replace(data, features=there), tried_alone(workers), first, memory)
            with released(share.table):
                yield _Tried(share, partial(_taken, share), share.table if workers == 1 else first, *sizes, begun)
        return
    reads_rows = job.model.inputs != "features"
    with released(placed(plan.placement, graph, first, features=features, reads_rows=reads_rows)) as table:
        data = replace(data, features=placed_features(plan.placement, table, features))
        step = build_step(job, plan, data, table, memory)
        yield _Tried(step, partial(_taken, step), step.table, *sizes, begun)


def _taken(step: Any, epoch: int, index: int, rate: float) -> None:
    """Draw a batch and train on it: a step of either kind takes its own."""
    step(step.sampler.batch(epoch, index), rate)


def _shared(timed: dict[str, Any], share: dict[str, Any]) -> dict[str, Any]:
    """Figures of a job with those of a worker's share; the leader has the whole table and the rows of a worker."""
    if share["workers"] == 1:
        return {**timed, **share}
    own_bytes = share["bytes_per_worker"]
    pinned_bytes = own_bytes if timed["pinned_bytes"] else 0
    return {**timed, "ram_bytes": timed["ram_bytes"] + own_bytes, "pinned_bytes": pinned_bytes, **share}


def _graph_bytes(job: Job, graph: BipartiteGraph) -> int:
    """Of the graph in both directions, and of what training makes of its edges."""
    union_edges = graph.union.num_edges
    size = 8 * (graph.num_nodes + 2) + 8 * graph.num_edges + _edge_value_bytes(job) * union_edges
    size += 16 * union_edges if graph.others else 0  # the union lies in RAM, in both directions
    return size + (4 * graph.num_edges if job.sampler.respect_time else 0)  # the dates of the pairs


def _edge_value_bytes(job: Job) -> int:
    """What an edge takes for its weight or the order of time in both directions, and for tables that neighbours are drawn by."""
    if job.sampler.respect_time:
        return 16
    if job.sampler.neighbours == "weighted":
        return 30
    return (32 if job.model.propagation == "sampled" else 8) if job.model.weighted_graph else 0


@dataclass(frozen=True)
class _Tried:
    """A step, how it is taken on a batch of an epoch at a rate, the whole table, and when its making began."""

    step: Step | PartedStep | ColumnsStep
    take: Callable[[int, int, float], Any]
    table: StepTable
    graph_bytes: int
    feature_bytes: int
    begun: float


def _timed(job: Job, plan: Plan, dataset: Dataset, tried: _Tried, launch_seconds: float) -> dict[str, Any]:
    """Figures of the job from some steps, an export and a ranking."""
    step, graph_bytes, feature_bytes = tried.step, tried.graph_bytes, tried.feature_bytes
    graph, table_bytes, on_disk = dataset.graph, plan.table_bytes, plan.placement.on_disk
    count = step.sampler.steps_per_epoch
    seconds = _step_seconds(tried, plan, count)
    step_seconds = float(np.median(seconds.steps[WARM_STEPS:] or seconds.steps[1:] or [0.0]))  # the first steps compile
    trained_bytes = private_bytes()
    exported = _exported(tried, plan, graph)
    validation_seconds = exported.seconds + _ranking_seconds(exported, dataset, job.evaluate)
    epoch_seconds = count * step_seconds
    epochs = job.train.epochs
    validations = epochs // job.evaluate.every if len(dataset.valid) else 0
    refit_share = 1 + len(dataset.valid) / graph.num_edges  # a refit's epoch has the validation edges too
    refit_seconds = seconds.start + epochs * epoch_seconds * refit_share if job.train.refit else 0.0
    hop_bytes = 4 * (tried.table.drained().num_values + graph.num_nodes * 2 * min(64, step.table.width))  # gradient and scratch
    gradient_bytes = hop_bytes if step.encoder.every_node else 0  # gradients of a batch alone are small
    policy = None if plan.policy is None else plan.policy(graph)
    explorations = 0 if policy is None else int(min(policy.stop * epochs / plan.interval, epochs * count))
    explore_seconds = 0.0 if policy is None else explorations * policy.batches * step_seconds
    scratch_bytes = (table_bytes + feature_bytes) if on_disk else 0
    pinned_bytes = plan.placement.pinned_bytes(table_bytes) + plan.placement.pinned_bytes(feature_bytes)
    checkpoint_bytes = (_kept(job, dataset) + 1) * table_bytes  # one is being written
    fit_seconds = seconds.start + epochs * epoch_seconds + validations * validation_seconds + refit_seconds + explore_seconds
    sizes = _sizes(job, dataset, plan, tried, exported)
    launch_seconds += max(0.0, sum(seconds.steps[:WARM_STEPS]) - WARM_STEPS * step_seconds)
    measured = Measured(launch_seconds, fit_seconds, exported.seconds, trained_bytes)
    return {
        "table_bytes": table_bytes,
        "graph_bytes": graph_bytes,
        "feature_bytes": feature_bytes,
        "ram_bytes": graph_bytes + gradient_bytes + (pinned_bytes if on_disk else table_bytes + feature_bytes + exported.bytes),
        "peak_rss_bytes_so_far": peak_rss_bytes(),
        "pinned_bytes": pinned_bytes,
        "gpu_bytes": _gpu_bytes(plan, step) if plan.placement.on_gpu else 0,
        "disk_bytes": checkpoint_bytes + (2 if policy is None else 3) * exported.bytes + scratch_bytes,
        "steps_per_epoch": count,
        "step_seconds": step_seconds,
        "epoch_seconds": epoch_seconds,
        "validation_seconds": validation_seconds,
        "total_seconds": fit_seconds,
        "stages": stages(sizes, measured),
    }


@dataclass(frozen=True)
class _StepSeconds:
    """Seconds from the making of the table to the first step, and of each step."""

    start: float
    steps: list[float]


def _step_seconds(tried: _Tried, plan: Plan, count: int) -> _StepSeconds:
    """Seconds of some steps of the first epochs, which have `count` each."""
    seconds: list[float] = []
    start = time.perf_counter() - tried.begun
    for index in range(WARM_STEPS + TIMED_STEPS if count else 0):
        if index > count and sum(seconds[1:]) > PATIENCE_SECONDS:  # an epoch of few and long steps
            break
        begun = time.perf_counter()
        tried.take(*divmod(index, count), plan.rate(index + 1, count))
        seconds.append(time.perf_counter() - begun)
    return _StepSeconds(start, seconds)


@dataclass(frozen=True)
class _Exported:
    """Seconds and width of an export, bytes of the planes that it propagates and of all rows, and these, float32 (N, F): None
    where one block was propagated to time all."""

    seconds: float
    width: int
    plane_bytes: int
    bytes: int
    rows_NF: torch.Tensor | None


def _exported(tried: _Tried, plan: Plan, graph: BipartiteGraph) -> _Exported:
    """The export of all nodes, of a large graph one block of its columns."""
    encoder, table = tried.step.encoder, tried.table.drained()
    nodes, width = graph.num_nodes, encoder.export_width
    size = plane_bytes = 4 * nodes * width
    if isinstance(encoder, (LightGcn, SampledLightGcn)):
        blocks = encoder.by_columns.blocks(width, aside_bytes(plan.placement, tried.table))
        columns = blocks[0][1]
        plane_bytes = column_bytes(graph, encoder.by_columns.num_layers) * columns
        if size > WHOLE_EXPORT_BYTES:
            begun = time.perf_counter()
            mean = encoder.by_columns.mean(columns)
            mean.of(partial(table.columns, 0, columns), columns, lambda row, rows_RC: None)
            return _Exported((time.perf_counter() - begun) * len(blocks), width, plane_bytes, size, None)
    rows_NF = plan.placement.memory(Path())(nodes * width).view(nodes, -1)
    begun = time.perf_counter()
    encoder.export(table, rows_NF)
    return _Exported(time.perf_counter() - begun, width, plane_bytes, size, rows_NF)


def _kept(job: Job, dataset: Dataset) -> int:
    """Checkpoints on disk: without validation the last one is the best one too."""
    return job.run.keep_checkpoints + bool(len(dataset.valid))


def _sizes(job: Job, dataset: Dataset, plan: Plan, tried: _Tried, exported: _Exported) -> Sizes:
    tested = len(np.unique(dataset.test.users_E))
    return Sizes(
        nodes=dataset.graph.num_nodes,
        items=dataset.graph.num_items,
        judged=min(tested, job.evaluate.users or tested),
        lengths=len(job.evaluate.k),
        width=exported.width,
        table_bytes=plan.table_bytes,
        kept=_kept(job, dataset),
        plane_bytes=exported.plane_bytes,
        mapped_bytes=plan.table_bytes + tried.feature_bytes if plan.placement.on_disk else 0,
        aside_bytes=aside_bytes(plan.placement, tried.table),
    )


def _gpu_bytes(plan: Plan, step: Step | PartedStep | ColumnsStep) -> int:
    """The cache, rows and features of the batches on their way, and dense tiles of one with their gradients.

    Of a worker's share: as many rows are asked of it as it asks for, and four more tiles travel.
    """
    rows, per_row = len(step.sampler.batch(0, 0).rows_R), plan.table_bytes / plan.num_rows
    features = None if isinstance(step, ColumnsStep) else step.features
    workers, tiles = (1, 6) if isinstance(step, Step) else (step.world.size, 10)
    sides = [] if features is None else [side.host for side in features.sides if side is not None]
    per_row_features = max((FEATURE_SLOTS * side.pitch_bytes + 4 * side.width for side in sides), default=0)
    whole = plan.table_bytes // workers + sum(side.bytes for side in sides)
    cache = whole if plan.placement.kind == "device" else plan.placement.cache_bytes
    return int(cache + rows * (SLOTS * per_row + per_row_features + tiles * 4 * step.table.width))


def _ranking_seconds(exported: _Exported, dataset: Dataset, settings: Evaluate) -> float:
    """Seconds to rank for all users that validation judges, from a sample of them."""
    users = np.unique(dataset.valid.users_E)
    judged, sample = min(len(users), settings.users or len(users)), users[:RANKED_USERS]
    if not len(sample):
        return 0.0
    num_users, num_items = dataset.graph.num_users, dataset.graph.num_items
    if exported.rows_NF is None:
        return ranking_seconds(judged, num_items, exported.width)
    scorer = EmbeddingScorer(exported.rows_NF[:num_users], exported.rows_NF[num_users:])
    for _ in range(2):  # the first round compiles
        begun = time.perf_counter()
        for _ in top_k(scorer, sample, 20, dataset.graph.user_items):
            pass
        seconds = time.perf_counter() - begun
    return seconds * judged / len(sample)
