"""Training: epochs of steps, validation, early stopping, checkpoints, the refit on train+valid, export.

Everything a run does next depends only on the job, the data and `Progress`, which every checkpoint holds.
Letters: N nodes, F width of the exported embeddings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.artifacts import (
    Run,
    begin_run,
    load_checkpoint,
    open_run,
    save_checkpoint,
    with_valid,
    write_embeddings,
    write_json,
)
from gcnrec.config import Job
from gcnrec.earlier import starting_table
from gcnrec.errors import DeviceError, UsageError
from gcnrec.evaluate import evaluate
from gcnrec.events import append_event, keep_events
from gcnrec.explore import Explorer, explorer_of
from gcnrec.graph import BipartiteGraph
from gcnrec.lineage import resolved
from gcnrec.loaders.atomic import atomic_file
from gcnrec.loaders.minibatch import Waits, minibatches
from gcnrec.loaders.schema import Dataset
from gcnrec.machine import available_cores
from gcnrec.memory import memory_report, scratch_rows, scratch_values
from gcnrec.models import closed_form
from gcnrec.models.node_inputs import Features
from gcnrec.models.ranked import scale_for_ranking_, typical_degree
from gcnrec.models.scorer import EmbeddingScorer
from gcnrec.optim import learning_rate
from gcnrec.placement import memory_of, moved, placed, traffic_of
from gcnrec.slot_files import order_digest, write_slots
from gcnrec.slots import SlotTable
from gcnrec.step import Step, build_step
from gcnrec.support import base_width, budget_values
from gcnrec.table import StepTable
from gcnrec.tracking import tracked

if TYPE_CHECKING:
    from gcnrec.progress import Observer

REPORT_SECONDS = 0.2
"""At most so often is the observer told about a step."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: `epoch` epochs of `stage` are done; `best_*` and `waited` belong to early stopping."""

    stage: str = "fit"
    epoch: int = 0
    best_epoch: int = 0
    best_value: float = -1.0
    waited: int = 0
    seconds: float = 0.0


def train(job: Job, dataset: Dataset, out: str | Path, *, resume: bool = False, observer: Observer | None = None) -> Run:
    """Train `job` on `dataset` into the run folder `out` and return it, exported and ready to rank.

    Raises UsageError when `out` exists (or, resuming, was made by another job), DivergedError at a loss that is not finite.
    """
    folder, job = Path(out), resolved(job, dataset)
    with tracked(job, folder, observer) as told:
        if resume and folder.exists():
            _check_same(open_run(folder), job, dataset)
        else:
            begin_run(folder, job, dataset)
        with use_threads(job.train.threads), out_of_memory_as_a_sentence():
            if job.model.closed_form:
                graph = with_valid(dataset) if job.train.refit else dataset.graph
                scorer = closed_form.fit(job.model.name, graph, job.model, job.train.seed, dataset.item_features)
                with atomic_file(folder / "model.safetensors") as path:
                    closed_form.save(scorer, path)
            else:
                _train(job, dataset, folder, told)
    return open_run(folder)


@contextmanager
def out_of_memory_as_a_sentence() -> Iterator[None]:
    """A GPU that is full becomes a DeviceError that names the settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise DeviceError(
            "a training step needs more memory than the GPU has free; lower train.batch_size or sampler.fanouts, then resume"
        ) from None


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Numba and torch on `count` threads (default: every core the process may use), as before afterwards."""
    most = numba.config.NUMBA_NUM_THREADS
    count = count or min(available_cores(), most)
    if count > most:
        raise UsageError(f"train.threads must be at most {most} here, got {count}")
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(count)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before[0])
        torch.set_num_threads(before[1])


def _train(job: Job, dataset: Dataset, folder: Path, observer: Observer | None) -> None:
    last = folder / "checkpoints" / "last.safetensors"
    tensors, saved = load_checkpoint(last) if last.is_file() else ({}, None)
    progress = Progress(**saved) if saved else Progress()
    keep_events(folder, progress.stage, progress.epoch)
    if progress.stage == "fit":
        step, progress = _fit(job, dataset, folder, tensors, progress, observer)
        tensors = {}
        if not job.train.refit:
            best, _ = load_checkpoint(folder / "checkpoints" / "best.safetensors")
            _restore(step, None, best)
            _finish(job, step, dataset, folder)
            return
        progress = replace(progress, stage="refit", epoch=0, seconds=0.0)
    step = _refit(job, dataset, folder, tensors, progress, observer)
    _finish(job, step, dataset, folder)


def _fit(
    job: Job, dataset: Dataset, folder: Path, tensors: dict[str, torch.Tensor], progress: Progress, observer: Observer | None
) -> tuple[Step, Progress]:
    """Epochs on train until they are done or validation has not improved for `evaluate.patience` validations."""
    step = build_step(
        job,
        dataset.graph,
        dataset.weights_E,
        _table(job, dataset, dataset.graph, folder, observer),
        features_of(dataset),
        partial(scratch_values, folder),
    )
    explorer = explorer_of(job, step, folder)
    _restore(step, explorer, tensors)
    settings, patience = job.evaluate, job.evaluate.patience
    while progress.epoch < job.train.epochs and not (patience and progress.waited >= patience):
        record, progress = _epoch(job, step, explorer, folder, progress, observer)
        last = progress.epoch == job.train.epochs
        if len(dataset.valid) and (progress.epoch % settings.every == 0 or last):
            record["valid"] = _validate(job, step, dataset, folder)
            value = record["valid"][settings.metric]
            better = value > progress.best_value
            best = (progress.epoch, value, 0) if better else (progress.best_epoch, progress.best_value, progress.waited + 1)
            progress = replace(progress, best_epoch=best[0], best_value=best[1], waited=best[2])
        elif not len(dataset.valid):
            progress = replace(progress, best_epoch=progress.epoch)
        if progress.best_epoch == progress.epoch:
            _checkpoint(step, explorer, folder / "checkpoints" / "best.safetensors", progress)
        _close_epoch(job, step, explorer, folder, record, progress, last, observer)
    return step, progress


def _table(job: Job, dataset: Dataset, graph: BipartiteGraph, folder: Path, observer: Observer | None) -> StepTable:
    """The table that training starts from, where it will be trained."""
    table = starting_table(job, dataset, graph, observer, memory_of(job, folder))
    return placed(job, graph, table, observer.note if observer else None)


def _refit(
    job: Job, dataset: Dataset, folder: Path, tensors: dict[str, torch.Tensor], progress: Progress, observer: Observer | None
) -> Step:
    """From the start again, on train+valid, for the epochs that validation chose."""
    graph = with_valid(dataset)
    table = _table(job, dataset, graph, folder, observer)
    weights_E, scratch = _with_valid_weights(dataset, graph), partial(scratch_values, folder)
    step = build_step(job, graph, weights_E, table, features_of(dataset), scratch)
    explorer = explorer_of(job, step, folder)
    _restore(step, explorer, tensors)
    while progress.epoch < progress.best_epoch:
        record, progress = _epoch(job, step, explorer, folder, progress, observer)
        _close_epoch(job, step, explorer, folder, record, progress, progress.epoch == progress.best_epoch, observer)
    return step


def _epoch(
    job: Job, step: Step, explorer: Explorer | None, folder: Path, progress: Progress, observer: Observer | None
) -> tuple[dict[str, Any], Progress]:
    """One epoch of steps: its metrics.jsonl record and the progress after it."""
    begun = told = time.perf_counter()
    steps = step.sampler.steps_per_epoch
    epochs = job.train.epochs if progress.stage == "fit" else progress.best_epoch
    loss, rows, rate = 0.0, 0, 0.0
    waits, before = Waits(), traffic_of(step.table)
    for index, batch in enumerate(minibatches(step.sampler, progress.epoch, step.table, waits), 1):
        # Refits walk the learning-rate schedule of the fit, so its length is that of the fit too.
        rate = learning_rate(job.optimizer, batch.step, steps * job.train.epochs)
        loss += step(batch, rate)
        rows += len(batch.rows_R)
        changed = explorer.after(step, batch.step) if explorer else None
        if changed:
            append_event(folder, {**changed, "stage": progress.stage, "epoch": progress.epoch + 1})
        now = time.perf_counter()
        if observer and now - told >= REPORT_SECONDS:
            observer.step(progress.epoch + 1, epochs, index, steps, loss / index, rows / (now - begun))
            told = now
    seconds = time.perf_counter() - begun
    progress = replace(progress, epoch=progress.epoch + 1, seconds=progress.seconds + seconds)
    record = {
        "event": "epoch", "stage": progress.stage, "epoch": progress.epoch, "step": progress.epoch * steps,
        "seconds": round(progress.seconds, 3), "loss": loss / steps, "rows_per_second": rows / seconds, "learning_rate": rate,
        "stalled_share": waits.seconds / seconds, **moved(step.table, before, seconds),
    }  # fmt: skip
    return record, progress


def _validate(job: Job, step: Step, dataset: Dataset, folder: Path) -> dict[str, float]:
    """Every metric of the validation split at the cut-off of `evaluate.metric`."""
    cut = job.evaluate.metric.rpartition("@")[2]
    graph = step.sampler.graph
    degrees = graph.item_users.degrees, graph.user_items.degrees
    rows_NF = exported(job, step, folder)
    scorer = EmbeddingScorer(rows_NF[: graph.num_users], rows_NF[graph.num_users :])
    result = evaluate(scorer, dataset.valid, graph.user_items, *degrees, (int(cut),))
    return result.metrics


def _close_epoch(
    job: Job, step: Step, explorer: Explorer | None, folder: Path, record: dict[str, Any], progress: Progress, last: bool,
    observer: Observer | None,
) -> None:  # fmt: skip
    saves = last or progress.epoch % job.run.checkpoint_every == 0
    if saves:
        record["values"] = step.table.drained().num_values
    append_event(folder, record)
    if saves:
        _checkpoint(step, explorer, folder / "checkpoints" / "last.safetensors", progress)
    if observer:
        observer.epoch(record)


def _finish(job: Job, step: Step, dataset: Dataset, folder: Path) -> None:
    rows_NF = exported(job, step, folder)
    write_embeddings(folder, dataset, rows_NF)
    table = step.table.drained()
    if isinstance(table, SlotTable):
        write_slots(folder / "table.safetensors", table, order_digest(dataset.user_ids, dataset.item_ids))
    budget = budget_values(job, table.num_rows)
    write_json(folder / "memory.json", memory_report(table, step.rule, budget, base_width(job), rows_NF))


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


def features_of(dataset: Dataset) -> Features:
    """What models may read of the data's features."""
    return Features(dataset.user_features, dataset.item_features)


def _checkpoint(step: Step, explorer: Explorer | None, path: Path, progress: Progress) -> None:
    tensors = {f"table.{name}": tensor for name, tensor in step.table.drained().tensors().items()}
    if explorer:
        tensors |= {f"explorer.{name}": tensor for name, tensor in explorer.tensors().items()}
    if step.encoder.layers is not None and step.layer_optimizer is not None:
        tensors |= {f"layers.{name}": tensor for name, tensor in step.encoder.layers.state_dict().items()}
        for number, state in step.layer_optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": tensor for name, tensor in state.items()}
    save_checkpoint(path, tensors, asdict(progress))


def _restore(step: Step, explorer: Explorer | None, tensors: dict[str, torch.Tensor]) -> None:
    """Put a checkpoint's tensors back in place; nothing for an empty one."""
    if tensors:
        step.table.drained().restore(
            {name.removeprefix("table."): each for name, each in tensors.items() if name.startswith("table.")}
        )
    if tensors and explorer:
        explorer.restore({name.removeprefix("explorer."): each for name, each in tensors.items() if name.startswith("explorer.")})
    if tensors and step.encoder.layers is not None and step.layer_optimizer is not None:
        layers = {name.removeprefix("layers."): tensor for name, tensor in tensors.items() if name.startswith("layers.")}
        step.encoder.layers.load_state_dict(layers)
        adam: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                adam.setdefault(int(number), {})[key] = tensor
        step.layer_optimizer.load_state_dict({**step.layer_optimizer.state_dict(), "state": adam})


def _with_valid_weights(dataset: Dataset, graph: BipartiteGraph) -> NDArray[np.float32] | None:
    """Weights of the merged edges, in their order; None when the dataset has none."""
    train, valid = dataset.graph.user_items, dataset.valid
    if dataset.weights_E is None:
        return None
    valid_weights = np.ones(len(valid), np.float32) if valid.weights_E is None else valid.weights_E
    users = np.concatenate([train.row_numbers(), valid.users_E]).astype(np.int64)
    keys = users * graph.num_items + np.concatenate([train.indices, valid.items_E])
    weights = np.concatenate([dataset.weights_E, valid_weights])
    _, first = np.unique(keys, return_index=True)  # from_edges merges the same repeats, in the same order
    return weights[first].astype(np.float32)


def _check_same(run: Run, job: Job, dataset: Dataset) -> None:
    if run.dataset.digest != dataset.digest:
        raise UsageError(
            f"{run.folder} was started on other data ({run.dataset.folder}); resume with --data {run.dataset.folder}"
        )
    if run.job.model_copy(update={"data": job.data}) != job:
        raise UsageError(f"{run.folder} was started with other settings than this job; resume with {run.folder / 'job.toml'}")
