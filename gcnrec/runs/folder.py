"""The run folder: what a run writes while it trains and leaves behind, and how it is opened again.

job.toml lineage.json manifest.json metrics.jsonl memory.json metrics.json checkpoints/ embeddings/ report.html
and model.safetensors of a closed-form model, table.safetensors of a sparse table, features.safetensors of features as int8,
mixture.json and mixture/ of a mixture, run.lock while someone writes
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.closed_forms import closed_form
from gcnrec.closed_forms.mixture_files import Mixture, load_partners, mixture_scorer, partner_path
from gcnrec.config import Job
from gcnrec.config.toml import to_toml
from gcnrec.errors import DataError, GcnrecError, Taken, UsageError, os_remedy, reading
from gcnrec.graph import BipartiteGraph, Csr, History, LaterRows, csr_from_edges
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.ops.topk import ItemLists, contained
from gcnrec.ranking.export_rules import Exported, ExportRule
from gcnrec.ranking.scorer import Scorer
from gcnrec.runs.checkpoints import Checkpoints, load_checkpoint
from gcnrec.runs.contents import RunContents
from gcnrec.runs.documents import read_json
from gcnrec.runs.embeddings import map_embeddings, read_column, read_export
from gcnrec.runs.lineage import FORMAT, lineage_of
from gcnrec.runs.manifest import check, check_whole, has_manifest, record, resume_command
from gcnrec.runs.paths import (
    JOB,
    LINEAGE,
    LOCK,
    MANIFEST,
    MEMORY,
    MIXTURE,
    MODEL,
    embeddings_paths,
    evaluate_command,
    metrics_path,
    taken,
)
from gcnrec.storage.documents import json_text
from gcnrec.storage.files import atomic_file, local, unfinished
from gcnrec.storage.locks import locked
from gcnrec.storage.places import StrPath, place
from gcnrec.system.observer import SILENT, Observer
from gcnrec.tables.slots import dense_rows

_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True)
class Run:
    """An opened run folder with the dataset it was trained on."""

    folder: Path
    job: Job
    lineage: dict[str, Any]
    dataset: Dataset

    def __repr__(self) -> str:
        """One line: folder, model, data, and the headline metric where it was measured."""
        model = self.job.model
        about = model.name if model.closed_form else f"{model.name}, {model.width} wide"
        parts = [about, f"on {self.dataset.name}"]
        with suppress(GcnrecError, OSError):  # a repr shows what can be read
            contents = RunContents(self.folder)
            name, values = contents.headline, contents.metrics.values
            parts += [f"{contents.metrics.split} {name} {values[name]:.4f}"] if name in values else []
        return f"Run({str(self.folder)!r}: {', '.join(parts)})"

    @property
    def refitted(self) -> bool:
        """Whether the model was trained on train+valid."""
        return bool(self.job.train.refit)

    @cached_property
    def train_graph(self) -> BipartiteGraph:
        """The graph the final model was trained on."""
        return self.merged_graph if self.refitted else self.dataset.graph

    @cached_property
    def merged_graph(self) -> BipartiteGraph:
        """Train and valid as one graph."""
        return with_valid(self.dataset)

    def scorer(self, scratch: Path | None = None, users: NDArray[np.integer] | None = None) -> Scorer:
        """Ranks by the exported embeddings, in the run's mixture if it has one, or by a closed-form model.

        Embeddings are mapped from scratch in a folder, by default the run's; of users these of the rising numbers `users` alone,
        None: all.
        """
        if self.job.model.closed_form:
            made = self._finished(self.folder / MODEL)
            check(self.folder, [made])
            return closed_form.load(self.job.model.name, self.train_graph, made)
        trained, mixture = self.embeddings(scratch or self.folder, users).scorer, self.mixture
        if mixture is None:
            return trained
        return mixture_scorer(mixture, trained, self.partners(mixture, self.train_graph))

    def _finished(self, made: Path) -> Path:
        """`made`, the last file of the training. UsageError where it is missing."""
        if not made.is_file():
            raise UsageError(
                f"{self.folder} is not finished, {made.relative_to(self.folder)} is missing; "
                f"continue with '{resume_command(self.folder, self.dataset.folder)}'"
            )
        return made

    @property
    def mixture(self) -> Mixture | None:
        """The closed forms that the run mixes in, and the weights; None without a mixture."""
        return RunContents(self.folder).mixture

    def partners(self, mixture: Mixture, graph: BipartiteGraph) -> dict[str, Scorer]:
        """The verified partners of the run's `mixture` by name, mapped; `graph`: what they score users by. DataError as of it."""
        check_whole(self.folder, [partner_path(self.folder, name) for name in mixture.partners])
        return load_partners(mixture, self.folder, graph)

    def embeddings(self, scratch: Path, only: NDArray[np.integer] | None = None) -> Exported:
        """The exported embeddings, verified and mapped from scratch in a folder. UsageError where the run is not finished.

        `only`: the rising numbers of the users that will be read, None: all.
        """
        users, items = embeddings_paths(self.folder)
        self._finished(items)
        check(self.folder, [users, items])
        rule = self.export_rule
        assert rule is not None
        users_UF, items_IF = (
            map_embeddings(users, self.dataset.user_ids, scratch, only),
            map_embeddings(items, self.dataset.item_ids, scratch),
        )
        if users_UF.shape[1] != items_IF.shape[1]:
            raise DataError(
                f"{users} and {items} must hold embeddings of one width, {users_UF.shape[1]} and {items_IF.shape[1]} are there; "
                "train again"
            )
        return Exported(
            rule,
            users_UF,
            items_IF,
            read_column(items, "popularity"),
            read_export(users)["popularity_factor"],
            read_column(items, "length"),
        )

    @property
    def export_rule(self) -> ExportRule | None:
        """The rule by which trained scores became the embeddings that rank; None for a closed-form model."""
        if self.job.model.closed_form:
            return None
        users, _ = embeddings_paths(self.folder)
        check(self.folder, [users])
        facts = read_export(users)
        return ExportRule(facts["kind"], facts["factor"])

    def metrics(self, split: str) -> dict[str, Any]:
        """The metrics that `gcnrec evaluate` wrote for `split`."""
        path = metrics_path(self.folder, split)
        if not path.is_file():
            raise UsageError(f"{self.folder} has no {path.name}; run '{evaluate_command(self.folder, split)}' first")
        check(self.folder, [path])
        return read_json(path)


def opened(run: Run | StrPath, observer: Observer = SILENT) -> Run:
    """`run`, or the run of a folder, as `open_run` opens it."""
    return open_run(run, observer) if isinstance(run, (str, os.PathLike)) else run


def open_run(folder: StrPath, observer: Observer = SILENT) -> Run:
    """Open a run folder and its dataset. DataError when one is missing or damaged, or the dataset has changed since.

    `observer` gets a warning where an earlier version made the folder, so that its files cannot be verified.
    """
    folder = local(place(folder))
    if not (folder / LINEAGE).is_file():
        raise DataError(f"{folder} is not a run folder: lineage.json is missing; make one with 'gcnrec train'")
    if not has_manifest(folder):
        is_finished = (folder / MEMORY).is_file() or (folder / MODEL).is_file()
        adding = f"'{evaluate_command(folder, 'test')}'" if is_finished else "the end of the training"
        observer.warn(
            f"{folder} has no {MANIFEST}, as runs of earlier versions have none, and its files are used as they are; "
            f"{adding} adds it"
        )
    check(folder, [folder / name for name in (JOB, LINEAGE, MEMORY, MIXTURE)])
    contents = RunContents(folder)
    lineage = contents.document(LINEAGE)
    if lineage.get("format") != FORMAT:
        raise DataError(f"{folder / LINEAGE} must have format {FORMAT}, got {lineage.get('format')!r}; train into another folder")
    trained_on, place_of_data = contents.trained_on, contents.dataset_folder
    if not place_of_data.exists():
        raise DataError(
            f"{folder} was trained on the dataset folder {trained_on.folder}, which is not there; move it back there, or put a "
            "link there that leads to it (ln -s)"
        )
    dataset = open_dataset(place_of_data)
    if dataset.digest != trained_on.digest:
        raise DataError(
            f"{dataset.folder} has changed since {folder} was trained: its digest was {trained_on.digest[:12]}, "
            f"is {dataset.digest[:12]}; ingest the old data again or train on the new"
        )
    job = contents.job
    return Run(folder, job, lineage, dataset.reading(job.model.behaviours))


def make_folder(folder: Path) -> None:
    """Make an empty run folder. Taken when something has that name."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise Taken(taken(folder)) from None
    except OSError as problem:
        remedy = os_remedy(problem, "choose another --out")
        raise DataError(f"cannot make {folder}: {problem.strerror or problem}; {remedy}") from problem


def describe_run(folder: Path, job: Job, dataset: Dataset, device: str) -> None:
    """Write manifest.json, job.toml, then lineage.json. A folder is a run once lineage.json exists."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    lineage = lineage_of(dataset, job.train.threads, device, job.own)
    with atomic_file(folder / LINEAGE) as lineage_file, atomic_file(folder / JOB) as job_file:
        job_file.write_text(to_toml(job), encoding="utf-8")
        lineage_file.write_text(json_text(lineage), encoding="utf-8")
        record(folder, {folder / JOB: job_file, folder / LINEAGE: lineage_file})


def write_job(folder: Path, job: Job) -> None:
    """Write job.toml of a run that goes on with other keys, and list it."""
    with atomic_file(folder / JOB) as path:
        path.write_text(to_toml(job), encoding="utf-8")
        record(folder, {folder / JOB: path})


def was_killed_before_start(folder: Path) -> bool:
    """Whether a folder holds only files of a process that was killed before the end of `describe_run`."""
    half = {left.path.name for left in unfinished(folder)}
    return {path.name for path in folder.iterdir()} - half <= {LOCK, JOB, MANIFEST, "checkpoints"}


def writing(folder: Path, observer: Observer = SILENT) -> AbstractContextManager[None]:
    """Lock a run folder for writing. Busy, naming the process, when another one writes into it."""
    return locked(folder / LOCK, folder, observer.warn)


def with_valid(dataset: Dataset) -> BipartiteGraph:
    """Train and valid as one graph, in the numbers of train; other behaviours as they are known when test begins.

    A pair is of its latest row: a pair that its user rated low later, in validation's time, is left out.
    """
    train, valid = dataset.graph, dataset.valid
    low = dataset.later_negatives[:1]
    if not (len(valid) or any(map(len, low)) or any(other.later is not None for other in train.others)):
        return train
    rows = LaterRows(valid.users_E, valid.items_E, valid.times_E, valid.weights_E, dataset.repeated)
    history = train.history or History(train.user_items, dataset.times_E, dataset.weights_E)
    before, added = _latest_positive(dataset, history, rows)
    users = np.concatenate([before.user_items.row_numbers(), added.users_E])
    items = np.concatenate([before.user_items.indices, added.items_E])
    others = tuple(other.until_test for other in train.others)
    graph = BipartiteGraph.from_edges(users, items, train.num_users, train.num_items)
    return replace(graph, others=others, history=replace(before, added=added))


def _latest_positive(dataset: Dataset, history: History, rows: LaterRows) -> tuple[History, LaterRows]:
    """Train's `history` and validation's `rows` without pairs whose latest row before test is a low rating."""
    low = _rated_low_last(dataset)
    if not low.num_edges:
        return history, rows
    csr = history.user_items
    keep_E = ~contained(csr.indices[:, None], ItemLists(low, csr.row_numbers()))[:, 0]
    keep_A = ~contained(rows.items_E[:, None], ItemLists(low, rows.users_E))[:, 0]
    before = History(csr.kept(keep_E), _picked(history.times_E, keep_E), _picked(history.weights_E, keep_E))
    times_A, weights_A = _picked(rows.times_E, keep_A), _picked(rows.weights_E, keep_A)
    return before, replace(rows, users_E=rows.users_E[keep_A], items_E=rows.items_E[keep_A], times_E=times_A, weights_E=weights_A)


def _rated_low_last(dataset: Dataset) -> Csr:
    """User -> items whose last rating in validation's time is low.

    A pair of validation is so where it is known to be earlier than the low rating. Other positive rows in validation's time have
    taken their pairs out of the low ratings at ingestion.
    """
    train, valid = dataset.graph.user_items, dataset.valid
    low = dataset.later_negatives[0] if dataset.later_negatives else None
    if low is None or not len(low):
        return Csr(np.zeros(train.rows + 1, np.int64), np.empty(0, np.int32), train.columns)
    of_low, of_valid = (part.users_E.astype(np.int64) * train.columns + part.items_E for part in (low, valid))
    _, here, there = np.intersect1d(of_low, of_valid, return_indices=True)
    is_last = np.ones(len(low), np.bool_)
    is_last[here] = False if low.times_E is None or valid.times_E is None else low.times_E[here] > valid.times_E[there]
    return csr_from_edges(low.users_E[is_last], low.items_E[is_last], train.rows, train.columns)


def _picked(values_E: NDArray[_Value] | None, keep_E: NDArray[np.bool_]) -> NDArray[_Value] | None:
    return None if values_E is None else values_E[keep_E]


def final_table(run: Run) -> torch.Tensor:
    """The table rows that a finished run's embeddings were exported from, float32 (N, D); raises as `final_tensors`."""
    return final_tensors(run)[0]


def require_table(run: Run) -> None:
    """UsageError when a run is not finished or its model has no table."""
    if run.job.model.closed_form:
        raise UsageError(f"{run.folder} holds a closed-form model ({run.job.model.name}), which has no table to start from")
    if not (run.folder / MEMORY).is_file():  # the last file that training writes
        raise UsageError(f"{run.folder} is not finished; resume it first, then start from its table")


def final_tensors(run: Run) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The table rows that a finished run's embeddings were exported from, float32 (N, D), and the parameters of its layers.

    UsageError when the run is not finished or its model has no table, DataError for a damaged checkpoint.
    """
    require_table(run)
    checkpoints, remedy = Checkpoints(run.folder, keep=1), f"start from another run, or train {run.folder} anew"
    path = checkpoints.last if run.refitted else checkpoints.best
    tensors, _ = load_checkpoint(path, remedy)
    table, layers = (
        {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
        for part in ("table.", "layers.")
    )
    with reading(path, remedy):
        rows_ND = table["weights"] if "weights" in table else dense_rows(table, run.job.table_width)
        if (rows_ND.dtype, rows_ND.dim(), len(rows_ND)) != (torch.float32, 2, run.dataset.graph.num_nodes):
            raise DataError(f"{path} must hold the table of {run.folder}, holds rows of another; {remedy}")
    return rows_ND, layers
