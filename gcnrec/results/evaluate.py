"""Evaluation of a run folder: the metrics of a split, by segment and for cold nodes, and the files that it leaves.

The ranking and its judgement lie in `gcnrec.ranking.evaluate`. Letters: U users, I items, H users with held-out items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcnrec.closed_forms import closed_form
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.interactions import Interactions
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.evaluate import Evaluation, HeldOutSplit, Measures, by_segment, cold_metrics, evaluate, group_metrics
from gcnrec.ranking.held_out import counts_of, of_users
from gcnrec.ranking.machines.leader import rankers_of
from gcnrec.ranking.metrics import per_user_with
from gcnrec.ranking.pairs.known_pairs import known_metrics, known_pairs
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.seen import Lost, SeenRule, judged_pairs, seen_items, seen_rule
from gcnrec.ranking.top_k import Here, Ranker
from gcnrec.results.given.details import Details
from gcnrec.results.given.id_files import columns_of, open_ids
from gcnrec.results.given.lists import judged, lengths_of, read_lists, write_judged
from gcnrec.results.memory_bounds import beyond_bytes, evaluation_bytes, most_items, node_table_bytes, users_per_chunk
from gcnrec.results.outputs import Output
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import append_event
from gcnrec.runs.folder import Run, writing
from gcnrec.runs.manifest import record
from gcnrec.runs.paths import metrics_path, per_user_path
from gcnrec.runs.per_user import SAMPLED
from gcnrec.runs.tracking import track_results
from gcnrec.steps.guards import looked_at
from gcnrec.storage.files import atomic_file
from gcnrec.storage.places import place_if_any
from gcnrec.system.observer import SILENT, Observer, kept
from gcnrec.system.scratch import memory_errors_as_sentences
from gcnrec.training.finish import warn_of_lost, warn_of_one_list
from gcnrec.workers.world import Alone, World

Split = Literal["valid", "test"]
_HERE = Here()


@dataclass(frozen=True, slots=True)
class Terms:
    """How lists are judged: the `split`, list lengths (default: the job's), and what lists leave out, as of `evaluate_run`."""

    split: Split = "test"
    ks: Sequence[int] | None = None
    seen: SeenRule | None = None

    def measures(self, run: Run) -> Measures:
        """What is measured, intervals and tilt as the job of `run` says."""
        settings = run.job.evaluate
        per_user = per_user_with(settings.own)
        return Measures(tuple(self.ks or settings.k), settings.bootstrap, run.job.train.seed, settings.tilt, per_user=per_user)

    def rule(self, run: Run) -> SeenRule:
        """What lists leave out."""
        return seen_rule(self.seen, run.dataset) if self.seen else rule_of(run)


def evaluate_run(
    run: Run,
    split: Split = "test",
    ks: Sequence[int] | None = None,
    segments: Path | None = None,
    observer: Observer = SILENT,
    memory_limit: str | None = None,
    seen: SeenRule | None = None,
    details: Details | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Evaluate a run folder and return the metrics that it writes.

    Test: `metrics.json` and `per_user.parquet`. Valid: `metrics.valid.json` and `per_user.valid.parquet`.
    `segments`: a Parquet or CSV file with a user column and one other column, the name of the user's segment.
    `memory_limit`, such as "2GB" (default: of the job), bounds memory; the process itself and mapped files do not count.
    `seen`: what lists leave out, in place of the job's `evaluate.seen`. `details`: more metrics, none by default.
    `world`: the workers that this process leads, whose machines share the users; default this process alone.
    Raises DeviceError where the limit is too small for the data. Raises UsageError for valid on a run that was trained on
    valid too, or that another process writes.
    """
    refuse_what_it_was_trained_on(run, split)
    dataset, terms, details = run.dataset, Terms(split, ks, seen), details or Details()
    observer, rule, measures = kept(observer), terms.rule(run), terms.measures(run)
    limit = run.job.evaluate.memory_limit if memory_limit is None else memory_limit
    with writing(run.folder, observer), memory_errors_as_sentences(limit):
        held_out = judged_pairs(rule, dataset, split, run.job.evaluate.users)
        fixed = evaluation_bytes(run, held_out, measures.ks, measures.resamples)
        fixed += sum(node_table_bytes(run, path, limit) for path in (segments, place_if_any(details.attributes)) if path)
        fixed += beyond_bytes(run, measures.ks) if details.beyond_accuracy else 0
        chunk = users_per_chunk(limit, fixed, run, min(max(measures.ks), most_items(run, None)), "evaluating")
        names_U, unknown = (None, 0) if segments is None else _read_segments(segments, dataset)
        of_items, scorer = details.read(dataset), run.scorer(users=_read(held_out))
        ranker = rankers_of(world or Alone(), run.job.train.threads)(chunk)
        judged_by = HeldOutSplit.of(held_out, dataset.graph, seen_items(rule, dataset, split))
        measures = replace(measures, beyond=details.beyond(run, judged_by, run.folder, observer))
        result = evaluate(scorer, judged_by, measures, partial(observer.work, f"ranking for {split}"), ranker=ranker)
        document = _document(run, result, split, rule) | of_items.added(result)
        cold = cold_start(run, scorer, split, measures.ks, ranker, rule)
        if cold:
            document["cold_start"] = cold
        if names_U is not None:
            segments_H = names_U[np.unique(held_out.users_E)]
            document |= {"segments": by_segment(result.per_user, segments_H), "segments_unknown_users": unknown}
        _write(run, split, result, document, observer)
        lost = Lost.of(dataset, split, rule, held_out, judged_by.seen)
        warn_of_lost(run.folder, lost, observer, of_job=rule == rule_of(run))
        if run.job.model.name != "popularity":  # whose lists are meant to be the same
            warn_of_one_list(run.folder, scorer, observer, chunk)
        return document


def _read(held_out: Interactions) -> NDArray[np.int32]:
    """The users whose embeddings an evaluation reads, rising: the judged ones, and these whose lists are compared."""
    return np.union1d(held_out.users_E, looked_at(len(held_out.user_ids)))


def _document(run: Run, result: Evaluation, split: Split, rule: SeenRule) -> dict[str, Any]:
    """The metrics of a run as `metrics.json` has them."""
    users = len(result.per_user)
    document: dict[str, Any] = {"split": split, "users": users, **_sample(run, split, rule, users), "seen": rule}
    document |= result.metrics | {"intervals": result.intervals, "deciles": result.deciles}
    if run.export_rule:
        document["export"] = run.export_rule.name
    if run.mixture:
        document["mixture"] = run.mixture.name
    return document


def evaluate_lists(
    run: Run, lists: Path, out: Output, terms: Terms | None = None, details: Details | None = None, observer: Observer = SILENT
) -> dict[str, Any]:
    """Judge lists of another system on the held-out pairs of `run` and return their metrics; per-user metrics go to `out`.

    `lists`: Parquet or CSV with a user and an item in each row (`gcnrec.results.given.lists`). `details`: more metrics.
    Without list lengths in `terms`, the job's count up to the longest list. Nothing of the run is written.
    Raises DataError for a file that cannot be used.
    """
    dataset, terms, details = run.dataset, terms or Terms(), details or Details()
    rule, split = terms.rule(run), terms.split
    out.refuse_inputs([lists, place_if_any(details.attributes)])
    of_items, given = details.read(dataset), read_lists(dataset, lists)
    pairs = judged_pairs(rule, dataset, split, run.job.evaluate.users)
    held = HeldOutSplit.of(pairs, dataset.graph, seen_items(rule, dataset, split))
    fitting = lengths_of(given, held, terms.measures(run).lengths, terms.ks is not None, observer)
    measures = replace(terms.measures(run), ks=fitting, beyond=details.beyond(run, held, out.scratch, observer))
    result, hidden = judged(given, held, measures)
    with atomic_file(out.path) as path:
        write_judged(path, result.per_user, split, dataset.digest, rule)
    if not any(result.metrics[f"hit_rate@{k}"] for k in measures.lengths):
        kept = "'gcnrec recommend RUN --seen train' makes lists that may hold them"
        observer.warn(f"no list of {lists} names a held-out item of {split}; were these left out on purpose? {kept}")
    counts = {"unknown_users": given.unknown_users, "unknown_items": given.unknown_items, "repeated": given.repeated}
    counts |= {"seen_items": hidden}
    users = len(result.per_user)
    document: dict[str, Any] = {"split": split, "users": users, **_sample(run, split, rule, users), "seen": rule}
    document |= result.metrics | {"users_without_list": given.absent(held)} | of_items.added(result)
    return document | {"intervals": result.intervals, "dropped": {key: value for key, value in counts.items() if value}}


def measure_baselines(run: Run, observer: Observer = SILENT) -> None:
    """Fit every named baseline on what the run was trained on, evaluate it on test, append a `baseline` event.

    A baseline that does not fit into memory becomes a note. A resumed run does not repeat its baselines.
    """
    done, settings = RunContents(run.folder).baselines, run.job.evaluate
    rule = rule_of(run)
    pairs = judged_pairs(rule, run.dataset, "test", settings.users)
    split = HeldOutSplit.of(pairs, run.dataset.graph, seen_items(rule, run.dataset, "test"))
    for name in () if settings.baselines == "auto" else settings.baselines:
        if name in done:
            continue
        observer.work(f"fitting baseline {name}", 0, 0)
        try:
            scorer = closed_form.fit(name, run.train_graph, run.job.model, run.job.train.seed, run.dataset.item_features)
        except DeviceError as problem:
            append_event(run.folder, {"event": "note", "text": f"baseline {name} left out: {problem}"})
            continue
        report = partial(observer.work, f"ranking for test by {name}")
        measures = Measures(settings.k, tilt=settings.tilt, per_user=per_user_with(settings.own))
        judged = evaluate(scorer, split, measures, report).metrics
        cold = cold_start(run, scorer, "test")
        append_event(run.folder, {"event": "baseline", "name": name, "seen": rule, "metrics": judged, "cold_start": cold})
        if settings.metric in judged:
            observer.note(f"baseline {name}  {settings.metric} {judged[settings.metric]:.4f}")


def refuse_what_it_was_trained_on(run: Run, split: Split) -> None:
    """UsageError for valid on a refitted run, however its figures came to be there."""
    if split == "valid" and run.refitted:
        raise UsageError(f"{run.folder} was trained on train+valid, so valid cannot measure it; evaluate it on test")


def cold_start(
    run: Run,
    scorer: Scorer,
    split: Split,
    ks: Sequence[int] | None = None,
    ranker: Ranker = _HERE,
    rule: SeenRule | None = None,
) -> dict[str, dict[str, float]]:
    """`cold_metrics` of `scorer` on a split; a node is cold where the run was not trained on it.

    Of data with several behaviours and lists that leave out the target's items, also `new`: held-out pairs that their user has
    met by no behaviour, in lists that leave out all that was met. `repeats`, `pending`: see `gcnrec.ranking.pairs.known_pairs`.
    """
    rule = rule or rule_of(run)
    trained, ks = Trained(run.dataset, run.refitted), ks or run.job.evaluate.k
    pairs = judged_pairs(rule, run.dataset, split, run.job.evaluate.users)
    judged_by = HeldOutSplit(pairs, seen_items(rule, run.dataset, split), trained.of_items(), trained.of_users)
    groups = cold_metrics(scorer, judged_by, ks, ranker)
    new = of_users(judged_pairs("all", run.dataset, split), pairs.users_E) if rule == "target" else pairs
    if rule == "target" and len(new):
        unmet = replace(judged_by, pairs=new, seen=seen_items("all", run.dataset, split))
        groups["new"] = group_metrics(scorer, unmet, ks, ranker=ranker)
    kinds = known_pairs(rule, run.dataset, split, pairs)
    return groups | known_metrics(scorer, judged_by, kinds, ks, ranker)


@dataclass(frozen=True)
class Trained:
    """How many interactions of its users and items a run trains on; a pair of several behaviours, or of train and valid after a
    refit, counts for each. No array has an entry for every user."""

    dataset: Dataset
    refitted: bool

    def of_users(self, users_X: NDArray[np.integer]) -> NDArray[np.int64]:
        """Of some users, int64 (X)."""
        degrees_X = np.zeros(len(users_X), np.int64)
        for graph in self._graphs:
            degrees_X += graph.user_items.degrees_of(users_X)
        return degrees_X + counts_of(self.dataset.valid.users_E, users_X) if self.refitted else degrees_X

    def of_items(self) -> NDArray[np.int64]:
        """Of every item, int64 (I)."""
        first, *others = self._graphs
        degrees_I = first.item_users.degrees
        for graph in others:
            degrees_I = degrees_I + graph.item_users.degrees
        if self.refitted:
            degrees_I = degrees_I + np.bincount(self.dataset.valid.items_E, minlength=len(degrees_I))
        return degrees_I

    @property
    def _graphs(self) -> tuple[BipartiteGraph, ...]:
        graph = self.dataset.graph
        return graph, *(other.graph for other in graph.others)


def rule_of(run: Run) -> SeenRule:
    """What is left out of the lists that judge a run, as its job says, else its data."""
    return seen_rule(run.job.evaluate.seen, run.dataset)


def _sample(run: Run, split: Split, rule: SeenRule, judged: int) -> dict[str, int]:
    """`sampled_from`: how many users have held-out pairs, where `judged` of them are a sample; else nothing."""
    if run.job.evaluate.users is None:
        return {}
    users = len(np.unique(judged_pairs(rule, run.dataset, split).users_E))
    return {"sampled_from": users} if users > judged else {}


def _write(run: Run, split: Split, result: Evaluation, document: dict[str, Any], observer: Observer) -> None:
    metadata = {"split": split, "digest": run.dataset.digest, "seen": document["seen"]}
    metadata |= {SAMPLED.decode(): str(document["sampled_from"])} if "sampled_from" in document else {}
    table = result.per_user.replace_schema_metadata(metadata)
    metrics, per_user = metrics_path(run.folder, split), per_user_path(run.folder, split)
    with atomic_file(metrics) as metrics_file, atomic_file(per_user) as per_user_file:
        pq.write_table(table, per_user_file, compression="zstd")
        metrics_file.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        record(run.folder, {metrics: metrics_file, per_user: per_user_file})
    track_results(run.job.run, run.job.model_dump(mode="json", exclude_none=True), run.folder, split, document, observer)


def _read_segments(path: Path, dataset: Dataset) -> tuple[NDArray[np.object_], int]:
    """The segment of every user number (None where the file has none), and how many ids of the file are unknown."""
    column, _ = columns_of(dataset)
    with open_ids(path) as table:
        others = [name for name in table.names if name != table.name_of(column)]
        name = "segment" if "segment" in others else others[0] if len(others) == 1 else None
        if name is None:
            raise DataError(
                f"{path} must have a column 'segment' next to the user column, it has {', '.join(map(repr, table.names))}"
            )
        ids, given = table.labelled(column, name)
    labels = _labels(path, name, given)
    numbers = dataset.user_ids.numbers(ids)
    known = numbers >= 0
    if not known.any():
        raise DataError(f"{path} must name users of {dataset.name}, none of its {len(numbers)} ids is one; check its user column")
    if len(np.unique(numbers[known])) != known.sum():
        raise DataError(f"{path} must give a user one segment, some have several rows; keep one row per user")
    names_U = np.full(len(dataset.user_ids), None, object)
    names_U[numbers[known]] = np.array(labels, object)[known]
    return names_U, int((~known).sum())


def _labels(path: Path, name: str, given: pa.ChunkedArray) -> list[Any]:
    """The segment of each row, None where it is null, empty or NaN. DataError for values that are no names."""
    if not pa.types.is_nested(given.type):
        with suppress(ValueError, OverflowError):  # times that Python does not have
            return [None if label in ("", None) or label != label else label for label in given.to_pylist()]
    raise DataError(f"{path}: column {name!r} must hold names of segments, it holds {given.type}; cast it to text")
