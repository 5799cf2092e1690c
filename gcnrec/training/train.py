"""Training: the stages of a run, from its folder's beginning to what it exports.

A fit on train until it is over or validation stops it, then the export of its best epoch; or a refit on train+valid for as many
epochs, and the export of that. A stopped run continues from its newest whole checkpoint (`gcnrec.runs.checkpoints`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.closed_forms import closed_form, exponents
from gcnrec.config import Job
from gcnrec.config.unused import unused_settings
from gcnrec.errors import DeviceError, UsageError
from gcnrec.graph import BipartiteGraph, Csr, csr_from_edges, merged
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.models.objective import slow_precision
from gcnrec.ops.topk import ItemLists, contained
from gcnrec.ranking.export_rules import export_rules
from gcnrec.ranking.machines.leader import rankers_of
from gcnrec.ranking.seen import lost_in_validation, seen_in_validation, validation_pairs
from gcnrec.runs.checkpoints import Checkpoints, Tensors, load_checkpoint
from gcnrec.runs.documents import read_json
from gcnrec.runs.events import append_event, observed_by, warn_once
from gcnrec.runs.folder import Run, describe_run, make_folder, open_run, was_killed_before_start, with_valid, write_job, writing
from gcnrec.runs.lineage import Here, lineage_of
from gcnrec.runs.manifest import check, check_exports, record
from gcnrec.runs.paths import FEATURES, JOB, LINEAGE, MODEL
from gcnrec.runs.tracking import tracked
from gcnrec.steps.earlier import earlier_rows, report_matches, seen_validation
from gcnrec.steps.epochs import Course, Epochs
from gcnrec.steps.guards import LossTrend
from gcnrec.steps.protocol import TrainingStep
from gcnrec.steps.start import continued_rows
from gcnrec.steps.state import Progress, restore
from gcnrec.storage.files import atomic_file, clear_leftovers, local
from gcnrec.system.observer import SILENT, Observer, kept
from gcnrec.system.pages import scratch_values
from gcnrec.system.scratch import keep_freed_memory, trim_heap
from gcnrec.system.signals import Stop, stops
from gcnrec.tables.features.files import read_codes, write_codes
from gcnrec.tables.features.sides import Features, with_codes
from gcnrec.tables.placement import placed, placed_features, released, shared_features
from gcnrec.training.baselines import Rivals, compare_with_baselines, compares
from gcnrec.training.build import (
    TrainData,
    build_step,
    explorer_of,
    features_read,
    first_table,
    planned,
    planned_start,
    shared_step,
)
from gcnrec.training.export_choice import chosen_rule
from gcnrec.training.finish import exported_by, final_by, finish, is_trained, validate, warn_of_lost
from gcnrec.training.fit_validation import keep_validation
from gcnrec.training.mixture_choice import scorer_of_fit
from gcnrec.training.open_keys import begun_job, first_difference, notes, resolved, settled, shared
from gcnrec.training.plan import Plan
from gcnrec.training.work import Work
from gcnrec.training.workers.export import exporter_of
from gcnrec.training.workers.shared import Chosen, beginning, refuse_parts
from gcnrec.workers.launch import threads_of_a_worker
from gcnrec.workers.world import Alone, World


def train(
    job: Job, dataset: Dataset, out: str | Path, *, resume: bool = False, observer: Observer = SILENT, world: World | None = None
) -> Run:
    """Train `job` on `dataset` into the run folder `out` and return it, exported and ready to rank.

    `resume` continues where a previous call stopped, to the same results. In the main thread, Ctrl-C and SIGTERM finish the
    current step and save a checkpoint, then raise KeyboardInterrupt or Terminated; a second signal raises at once.
    `world`: the workers that train together, which this process leads; the others `follow`
    (`gcnrec.training.workers.follower`). Default: this process alone.
    Raises UsageError when `out` exists (or, resuming, was made by another job), or is being written by another process,
    DivergedError at a loss that is not finite.
    """
    observer, folder, decided = kept(observer), local(Path(out)), notes(job, dataset)
    job = settled(resolved(job, dataset), dataset, begun_job(folder) if resume else None)
    world = world or Alone()
    job = shared(job, world.size, observer)
    dataset = dataset.reading(job.model.behaviours)
    plan = planned(job, dataset)  # refused before there is a folder
    refuse_parts(job.train.parts or 1, world.size, Chosen(job.model, job.loss, job.sampler, job.train.batch_size), plan)
    if plan is not None and not (resume and is_trained(folder, closed_form=False)):
        planned_start(job, plan, dataset)
    on_gpu = plan is not None and plan.placement.on_gpu
    if plan is not None and (slow := slow_precision(job.loss, job.sampler, on_gpu)):
        observer.warn(slow)
    if not resume:
        for sentence in unused_settings(job, on_gpu, features_of(dataset).any):
            observer.warn(sentence)
        for line in decided:
            observer.note(line)
    taken = nullcontext() if plan is None else plan.placement.taken(world)
    device, params = "cpu" if plan is None else plan.placement.device_name, job.model_dump(mode="json", exclude_none=True)
    with (
        use_threads(job.train.threads, world.local_size),
        taken,
        tracked(job.run, params, folder, observer) as tracking,
        stops(folder) as stop,
        _opened(job, dataset, folder, device, resume, observer),
        observed_by(folder, observer),
    ):
        if is_trained(folder, job.model.closed_form):
            check_exports(folder)  # there is nothing to train, and the command must not call damaged files a run
        else:
            warn_of_lost(folder, lost_in_validation(job.evaluate, dataset), tracking)
            with out_of_memory_as_a_sentence():
                if plan is None:
                    _solve(job, dataset, folder)
                else:
                    _train(_work(job, plan, dataset, folder, stop, tracking, world))
        compare_with_baselines(_rivals(job), dataset, folder, tracking)
    return open_run(folder)


@contextmanager
def _opened(job: Job, dataset: Dataset, folder: Path, device: str, resume: bool, observer: Observer) -> Iterator[None]:
    """The run's folder, locked: new, killed before its first step, or that of the run to resume."""
    open_dataset(dataset.folder)  # it may have changed since it was opened
    again = resume and folder.exists()
    if not again:
        make_folder(folder)
    with writing(folder, observer):
        if again and not was_killed_before_start(folder):
            begun = open_run(folder, observer)
            _check_same(begun, job, dataset)
            if begun.job.model_copy(update={"data": job.data}) != job:  # by keys that change no number
                write_job(folder, job.model_copy(update={"data": begun.job.data}))
        else:
            describe_run(folder, job, dataset, device)
        for part in ("", "checkpoints", "embeddings", "mixture", "mixture/fit"):
            clear_leftovers(folder / part)
        yield


def _solve(job: Job, dataset: Dataset, folder: Path) -> None:
    graph = with_valid(dataset) if job.train.refit else dataset.graph
    seen = seen_in_validation(job.evaluate, dataset)
    settings = closed_form.tuned(job.model.name, dataset.graph, validation_pairs(job.evaluate, dataset), job.model, seen)
    if settings is not job.model:
        append_event(folder, {"event": "note", "text": f"exponents chosen on validation: {exponents.in_words(settings)}"})
    scorer = closed_form.fit(job.model.name, graph, settings, job.train.seed, dataset.item_features)
    with atomic_file(folder / MODEL) as path:
        closed_form.save(scorer, path)
        record(folder, {folder / MODEL: path})


def _work(job: Job, plan: Plan, dataset: Dataset, folder: Path, stop: Stop, observer: Observer, world: World) -> Work:
    train, checkpoints = job.train, Checkpoints(folder, job.run.keep_checkpoints)
    patience = job.evaluate.patience
    now = lineage_of(dataset, train.threads, plan.placement.device_name, job.own)
    here = Here.now(read_json(folder / LINEAGE), now)
    course = Course(train.epochs, patience, train.loss_limit, plan.rate, job.run, folder, checkpoints, stop, observer, here)
    rankers = rankers_of(world, train.threads)
    export = exporter_of(world, train.threads, job.model, dataset.graph.union, plan.width)
    return Work(job, plan, export_rules(job.model, job.loss, job.sampler), dataset, course, world, rankers, export)


def _rivals(job: Job) -> Rivals:
    return Rivals(job.model, job.evaluate, job.train.seed, bool(job.mixture.partners))


def _train(work: Work) -> None:
    keep_freed_memory()
    work.world.start()  # others load while this one builds its table
    checkpoints = work.course.checkpoints
    tensors, saved = checkpoints.newest(partial(_say_damaged, work)) or ({}, None)
    progress = Progress.of(saved, str(checkpoints.last), checkpoints.anew) if saved else Progress()
    if progress.stage == "fit":
        with _step(work, train_data(work.dataset), progress.stage) as step:
            progress = _fit(work, step, tensors, progress)
            del tensors  # what follows needs the memory
            trim_heap()
            with use_threads(work.job.train.threads):
                _use_fit(work, step, progress)
        if not work.job.train.refit:
            return
        del step  # or two tables would be in memory
        tensors, progress = {}, replace(progress, stage="refit", epoch=0, seconds=0.0, trend=LossTrend())
    with _step(work, refit_data(work.dataset), progress.stage) as step:
        _refit(work, step, tensors, progress)
        trim_heap()
        rule = chosen_rule(work.exports.rules, work.folder, progress.best_epoch)
        with use_threads(work.job.train.threads):
            finish(work, step, final_by(work, step, rule))


def _use_fit(work: Work, step: TrainingStep, progress: Progress) -> None:
    """What the best epoch of a fit is good for: the run's exports where nothing is refitted, comparisons, a mixture."""
    checkpoints = work.course.checkpoints
    rule = chosen_rule(work.exports.rules, work.folder, progress.best_epoch)
    compared = compares(_rivals(work.job), work.dataset, work.folder)
    mixed = bool(work.job.mixture.partners)
    if not (compared or mixed) and work.job.train.refit:
        return
    best, _ = load_checkpoint(checkpoints.best, checkpoints.anew)
    restore(step, None, best, checkpoints.best, checkpoints.anew)
    del best  # what follows needs the memory
    if not (compared or mixed):
        return finish(work, step, final_by(work, step, rule))
    trained = exported_by(work, step, rule)
    scorer = scorer_of_fit(work, trained)  # a refit will have trained on validation
    if compared:
        keep_validation(work.job.evaluate, work.dataset, work.folder, scorer, work.observer, work.rankers)
    del scorer
    if not work.job.train.refit:
        finish(work, step, trained)


def _say_damaged(work: Work, text: str) -> None:
    append_event(work.folder, {"event": "warning", "kind": "damaged checkpoint", "text": text})
    work.observer.warn(text)


def _fit(work: Work, step: TrainingStep, tensors: Tensors, progress: Progress) -> Progress:
    """Epochs on train until they are done or validation has not improved for `evaluate.patience` validations."""
    epochs = _epochs(work, step, tensors, progress)
    while not epochs.over:
        with epochs.saved():
            epochs.steps()
            record = epochs.record()
            judged = _judged(work, step, epochs.progress, record)
            epochs.close(record, judged)
    return epochs.progress


def _judged(work: Work, step: TrainingStep, progress: Progress, record: dict[str, Any]) -> Progress | None:
    """What validation says of the epoch that `record` is about, also into `record`; None when it is not its turn.

    Without validation data the last epoch is the best.
    """
    settings, epoch = work.job.evaluate, progress.epoch + 1
    if not len(work.dataset.valid):
        return replace(progress, best_epoch=epoch)
    if epoch % settings.every and epoch < work.job.train.epochs:
        return None
    with use_threads(work.job.train.threads):  # other workers wait
        record |= validate(work, step)
    if work.plan.exceeded_by(step.table.drained().num_values):
        return replace(progress, best_epoch=epoch, waited=0)  # not yet the table that was asked for: any later one is better
    value = record["valid"][settings.metric]
    if value > progress.best_value:
        return replace(progress, best_epoch=epoch, best_value=value, waited=0)
    return replace(progress, waited=progress.waited + 1)


def _refit(work: Work, step: TrainingStep, tensors: Tensors, progress: Progress) -> None:
    """From the start again, for the epochs that validation chose."""
    epochs = _epochs(work, step, tensors, progress)
    while not epochs.over:
        with epochs.saved():
            epochs.steps()
            epochs.close(epochs.record())


@contextmanager
def _step(work: Work, data: TrainData, stage: str) -> Iterator[TrainingStep]:
    """The step of a stage on `data`, and the table that training starts from, where it will be trained until the block ends."""
    plan, init_from, rows_ND = work.plan, work.job.train.init_from, None
    if init_from is not None:
        earlier = earlier_rows(init_from, work.dataset, plan.width, work.observer)
        report_matches(earlier, work.observer)
        said = seen_validation(earlier, work.dataset)
        if said and warn_once(work.folder, "validation was trained on", said):
            work.observer.warn(said)
        rows_ND = continued_rows(plan.start, data.graph.union, earlier.rows_PD, earlier.places_N)
    memory = plan.placement.memory(work.folder)
    features = features_read(work.job, _features(work), data.graph.union, memory, plan.placement.on_gpu)
    table = first_table(plan, data.graph, rows_ND, memory)
    reads_rows = work.job.model.inputs != "features"
    if work.world.size > 1 or (work.job.train.parts or 1) > 1:
        del rows_ND
        described = work.job.model_dump(mode="json", exclude_none=True, by_alias=True)
        work.world.publish(beginning(described, work.dataset, stage, plan.placement.on_gpu))
        scratch = partial(scratch_values, work.folder)
        with shared_features(plan.placement, features, work.observer) as there:
            step = shared_step(work.job, plan, replace(data, features=there), work.world, table, scratch, work.observer)
            with released(step.table):
                yield step
        return
    with released(placed(plan.placement, data.graph, table, work.observer, features, reads_rows)) as table_there:
        del table, rows_ND
        data = replace(data, features=placed_features(plan.placement, table_there, features))
        yield build_step(work.job, plan, data, table_there, partial(scratch_values, work.folder))


def _epochs(work: Work, step: TrainingStep, tensors: Tensors, progress: Progress) -> Epochs:
    explorer = explorer_of(work.plan, step, work.course.epochs, work.folder)
    return Epochs(work.course, step, explorer, tensors, progress)


def train_data(dataset: Dataset) -> TrainData:
    """What a fit on train trains on, without features."""
    return TrainData(dataset.graph, dataset.weights_E, negatives=dataset.negatives)


def refit_data(dataset: Dataset) -> TrainData:
    """What a refit trains on, without features: train and validation."""
    graph = with_valid(dataset)
    weights_E, negatives = _with_valid_weights(dataset, graph), _negatives_before_test(dataset, graph)
    return TrainData(graph, weights_E, negatives=negatives)


def features_of(dataset: Dataset) -> Features:
    """What models may read of the data's features."""
    return Features(dataset.user_features, dataset.item_features)


def _features(work: Work) -> Features:
    """The data's features with what int8 codes of them stand for: of the fit, also in a refit, and kept in the run folder."""
    dataset, model, path = work.dataset, work.job.model, work.folder / FEATURES
    features = features_of(dataset)
    if not (model.needs_codes and features.any):
        return features
    if path.exists():
        check(work.folder, [path])
        return replace(features, codes=read_codes(path, features, f"train {work.folder} anew"))
    features = with_codes(features, dataset.graph.union, model.feature_dtype, work.job.train.seed)
    with atomic_file(path) as written:
        write_codes(written, features)
        record(work.folder, {path: written})
    return features


@contextmanager
def out_of_memory_as_a_sentence() -> Iterator[None]:
    """A GPU that is full becomes a DeviceError that names the settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise DeviceError(
            "a training step needs more memory than the GPU has free; begin another run with a lower train.batch_size "
            "or fewer sampler.fanouts"
        ) from None


@contextmanager
def use_threads(count: int | None, processes: int = 1) -> Iterator[None]:
    """Numba and torch on `count` threads, as before afterwards. Default: the cores of the machine, shared by `processes`."""
    most = numba.config.NUMBA_NUM_THREADS
    count = count or min(threads_of_a_worker(processes), most)
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


def _with_valid_weights(dataset: Dataset, graph: BipartiteGraph) -> NDArray[np.float32] | None:
    """Weights of the merged edges, in their order; None when the dataset has none.

    A pair of train that validation repeats weighs what `LaterRows.weights_with` says. Validation without weights weighs 1.
    """
    history = graph.history
    if history is None or history.added is None or history.weights_E is None:
        return dataset.weights_E
    return history.added.weights_with(history.user_items, history.weights_E, graph.user_items, 1.0)


def _negatives_before_test(dataset: Dataset, graph: BipartiteGraph) -> Csr | None:
    """User -> items rated low in train's and validation's time, without pairs of `graph`; None where the dataset has none."""
    parts = dataset.known_negatives(1)
    if not parts:
        return None
    negative = merged(parts)
    users_E = negative.row_numbers()
    fresh_E = ~contained(negative.indices[:, None], ItemLists(graph.user_items, users_E))[:, 0]
    return csr_from_edges(users_E[fresh_E], negative.indices[fresh_E], negative.rows, negative.columns)


def _check_same(run: Run, job: Job, dataset: Dataset) -> None:
    if run.dataset.digest != dataset.digest:
        raise UsageError(
            f"{run.folder} was started on other data ({run.dataset.folder}); resume with --data {run.dataset.folder}"
        )
    if run.job.evaluate.seen is None and dataset.keeps_repeats:
        raise UsageError(
            f"{run.folder} was begun by an earlier version, whose validation on data with repeats = 'keep' counts hits that no "
            "list can hold; train it anew: leave --resume out, with another --out if you name one"
        )
    if run.job.export != job.export and is_trained(run.folder, job.model.closed_form):
        raise UsageError(
            f"{run.folder} has its embeddings in {run.job.export.dtype} already, and export.dtype is now {job.export.dtype!r}; "
            f"resume with {run.folder / JOB}, or begin another run"
        )
    different = first_difference(run.job, job)
    if different is not None:
        key, before, now = different
        if key == "train.parts" and before is None:
            raise UsageError(f"{run.folder} was begun with whole batches, which {now} workers cannot share; resume it with one")
        raise UsageError(
            f"{run.folder} was started with other settings than this job: {key} = {before!r}, now {now!r}; "
            f"resume with {run.folder / JOB}, or begin another run"
        )
