"""Comparison of a run with closed-form models on the same data and users: on validation, before a refit, and on test.

On validation (`baseline.valid` events) they are fitted on train and compared with the run's best epoch, user by user. With
`evaluate.baselines = "auto"` each may take a tenth of the fit's seconds: `costs.baselines` predicts them, and a clock stops what
takes longer. Named baselines have no limit and are evaluated on test as well (`baseline` events).
Letters: H users with validation pairs, B of them that are ranked.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcnrec.closed_forms import closed_form, ease
from gcnrec.config import Evaluate, Model
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.graph import Behaviour, BipartiteGraph, History
from gcnrec.interactions import Interactions
from gcnrec.loaders.schema import Dataset
from gcnrec.random import Stage, generator
from gcnrec.ranking import metrics
from gcnrec.ranking.evaluate import Evaluation, HeldOutSplit, Measures, evaluate
from gcnrec.ranking.held_out import of_users
from gcnrec.ranking.seen import may_repeat, seen_in_validation, seen_rule, validation_pairs
from gcnrec.ranking.top_k import Here, top_k_all
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import Line, ValidBaseline, append_event, warn_once
from gcnrec.runs.paths import per_user_path
from gcnrec.system.limits import parse_bytes
from gcnrec.system.observer import SILENT, Observer
from gcnrec.training.costs.baselines import Load, bytes_of, seconds_of
from gcnrec.training.fit_validation import chunk_of, kept_validation

AUTO = ("popularity", "linkprop", "itemknn", "gfcf", "ease")
"""What `auto` tries, the cheapest first; of data with several behaviours also `closed_form.OF_BEHAVIOURS`, before these; where
lists may hold repeats also `closed_form.OF_REPEATS`."""
SHARE = 0.1
"""Of the fit's seconds, for each baseline of `auto`."""
LEAST_SECONDS = 1.0
"""Fits below this are compared with nothing: a tenth of them is less than loading compiled code takes."""
MOST_USERS = 5000
"""Users of validation that baselines are ranked for; a paired difference of recall is then known to about 0.005."""
RESAMPLES = 1000
"""For the paired interval where `evaluate.bootstrap` is 0."""
VALID = "baseline.valid"


class _OverTimeError(Exception):
    """A baseline took longer than it may."""


@dataclass(frozen=True)
class Rivals:
    """What names the baselines of a run and judges them: sections of its job, its seed, and whether it has a mixture."""

    model: Model
    evaluate: Evaluate
    seed: int
    mixed: bool = False


def baseline_names(rivals: Rivals, dataset: Dataset) -> tuple[str, ...]:
    """The baselines that are compared on validation; none for a closed-form model, which has no best epoch."""
    if rivals.model.closed_form:
        return ()
    if rivals.evaluate.baselines != "auto":
        return rivals.evaluate.baselines
    names = tuple(name for name in AUTO if name != "ease" or dataset.graph.num_items < ease.MAX_ITEMS)
    names = (*closed_form.OF_BEHAVIOURS, *names) if dataset.graph.others else names
    return (closed_form.OF_REPEATS, *names) if may_repeat(rivals.evaluate.seen, dataset) else names


def compares(rivals: Rivals, dataset: Dataset, folder: Path) -> bool:
    """Whether baselines will be compared with the fit that has just ended, so that its validation must be kept."""
    if not len(dataset.valid) or not baseline_names(rivals, dataset):
        return False
    return rivals.evaluate.baselines != "auto" or fit_seconds(folder) >= LEAST_SECONDS


def fit_seconds(folder: Path) -> float:
    """Seconds that the epochs of a run's fit took."""
    epochs = RunContents(folder).epochs("fit")
    return epochs[-1].seconds if epochs else 0.0


def compare_with_baselines(rivals: Rivals, dataset: Dataset, folder: Path, observer: Observer = SILENT) -> None:
    """Compare baselines with the run's best epoch on validation; warn, once, where the paired interval of one lies above 0.

    Appends an event `baseline.valid` for each: figures, or why it was skipped. A resumed run repeats none.
    """
    kept = kept_validation(folder)
    if kept is None:
        wanted = bool(baseline_names(rivals, dataset)) and len(dataset.valid)
        if wanted and rivals.evaluate.baselines == "auto" and 0.0 < fit_seconds(folder) < LEAST_SECONDS:
            observer.note(f"no baselines: the fit took less than {LEAST_SECONDS:g} s; name some in evaluate.baselines")
        elif wanted and compares(rivals, dataset, folder) and not RunContents(folder).of_kind(ValidBaseline):
            observer.note(f"no baselines: {per_user_path(folder, 'fit')} is missing, which they are compared with")
        return
    own_H = kept.column(rivals.evaluate.metric).to_numpy()
    comparison = _Comparison.of(rivals, dataset, folder, own_H, observer)
    done = {baseline.name for baseline in RunContents(folder).of_kind(ValidBaseline)}
    for name in baseline_names(rivals, dataset):
        if name not in done:
            event = comparison.judged(name)
            append_event(folder, event)
            observer.note(in_words(event, rivals.evaluate.metric))
    said = better_baseline(RunContents(folder).of_kind(ValidBaseline), rivals)
    if said and warn_once(folder, "a baseline is better", said):
        observer.warn(said)


def in_words(event: Line, metric: str) -> str:
    """A `baseline.valid` event as a line."""
    if "skipped" in event:
        return f"baseline {event['name']} skipped: {event['skipped']}"
    return f"baseline {event['name']}  validation {metric} {event['metrics'][metric]:.4f}, this run {event['own']:.4f}"


def better_baseline(baselines: list[ValidBaseline], rivals: Rivals) -> str | None:
    """The sentence about the best of the baselines whose paired interval lies above 0; None where none is better."""
    metric = rivals.evaluate.metric
    better = [baseline for baseline in baselines if baseline.low > 0.0]
    if not better:
        return None
    best = max(better, key=lambda baseline: baseline.difference)
    name, interval = best.name, f"95% interval {best.low:+.4f} to {best.high:+.4f}"
    alone = " --set 'mixture.with=[]'" if rivals.mixed else ", mix closed forms in by --set mixture.with=auto"
    return (
        f"{name}, which needs no training, is better on validation: {metric} {best.metrics[metric]:.4f} against "
        f"{best.own:.4f} (difference {best.difference:+.4f}, {interval}, {best.users:,} users); use it by --set "
        f"model.name={name}{alone}, or search train.batch_size and loss.temperature by gcnrec tune"
    )


@dataclass(frozen=True)
class _Comparison:
    """What every baseline is compared on: the pairs of B users, the run's own values of `evaluate.metric`, and the limits."""

    rivals: Rivals
    dataset: Dataset
    part: Interactions
    own_B: NDArray[np.float64]
    most_seconds: float
    most_bytes: float
    observer: Observer

    @classmethod
    def of(cls, rivals: Rivals, dataset: Dataset, folder: Path, own_H: NDArray[np.float64], observer: Observer) -> _Comparison:
        """`own_H`: the run's values for all users with validation pairs, in their order."""
        chosen_B, pairs = _drawn(len(own_H), rivals.seed), validation_pairs(rivals.evaluate, dataset)
        limited = rivals.evaluate.baselines == "auto"
        most_seconds = SHARE * fit_seconds(folder) if limited else math.inf
        most_bytes = parse_bytes(rivals.evaluate.memory_limit) if limited else math.inf
        return cls(
            rivals,
            dataset,
            of_users(pairs, np.unique(pairs.users_E)[chosen_B]),
            own_H[chosen_B],
            most_seconds,
            most_bytes,
            observer,
        )

    def judged(self, name: str) -> Line:
        """The event about one baseline; what would take more seconds or bytes than it may is skipped."""
        load = Load.of(self.dataset.graph.union, np.unique(self.part.users_E))
        seconds, size = seconds_of(name, load, self.rivals.model), bytes_of(name, load, self.rivals.model)
        if seconds > self.most_seconds:
            return _skipped(name, f"about {seconds:.1f} s, {self._allowed}")
        if size > self.most_bytes:
            limit = self.rivals.evaluate.memory_limit
            return _skipped(name, f"it would hold {size:,} bytes, evaluate.memory_limit = {limit!r} allows fewer")
        try:
            return self._measured(name)
        except _OverTimeError:
            return _skipped(name, f"not done in time, {self._allowed}")
        except (UsageError, DataError, DeviceError, MemoryError) as problem:  # the run is done, whatever a baseline lacks
            return _skipped(name, str(problem) or "memory ran out")

    @property
    def _allowed(self) -> str:
        return f"a tenth of the fit's time is {self.most_seconds:.1f} s; name it in evaluate.baselines to have it all the same"

    def _measured(self, name: str) -> Line:
        if math.isfinite(self.most_seconds):
            _compile(name, self.rivals)  # once per machine: no part of what a run may take
        begun = time.perf_counter()
        judged = self._evaluated(name, begun)
        metric = self.rivals.evaluate.metric
        changes_B = judged.per_user.column(metric).to_numpy() - self.own_B
        resamples = self.rivals.evaluate.bootstrap or RESAMPLES
        seen = seen_rule(self.rivals.evaluate.seen, self.dataset)
        low, high = metrics.bootstrap_intervals(changes_B[:, None], resamples, self.rivals.seed)
        return {
            "event": VALID, "name": name, "users": len(self.own_B), "seen": seen, "metrics": judged.metrics,
            "own": float(self.own_B.mean()),
            "difference": float(changes_B.mean()), "low": float(low[0]), "high": float(high[0]),
            "seconds": round(time.perf_counter() - begun, 3),
        }  # fmt: skip

    def _evaluated(self, name: str, begun: float) -> Evaluation:
        """Fit and rank; _OverTimeError where that is not done in time after `begun`."""

        def report(done: int, total: int) -> None:
            if done < total and time.perf_counter() - begun > self.most_seconds:
                raise _OverTimeError
            self.observer.work(f"ranking for validation by {name}", done, total)

        self.observer.work(f"fitting baseline {name}", 0, 0)
        graph = self.dataset.graph
        scorer = closed_form.fit(name, graph, self.rivals.model, self.rivals.seed, self.dataset.item_features)
        report(0, len(self.own_B))
        settings = self.rivals.evaluate
        measures = Measures(
            (metrics.split_name(settings.metric)[1],), tilt=settings.tilt, per_user=metrics.per_user_with(settings.own)
        )
        chunk = chunk_of(settings.memory_limit, scorer)
        split = HeldOutSplit.of(self.part, graph, seen_in_validation(settings, self.dataset))
        return evaluate(scorer, split, measures, report, ranker=Here(chunk))


def _skipped(name: str, why: str) -> Line:
    return {"event": VALID, "name": name, "skipped": why}


def _drawn(count: int, seed: int) -> NDArray[np.int64]:
    """At most `MOST_USERS` of `count` places, ascending."""
    if count <= MOST_USERS:
        return np.arange(count)
    return np.sort(generator(seed, Stage.BOOTSTRAP, step=2).choice(count, MOST_USERS, replace=False))


def _compile(name: str, rivals: Rivals) -> None:
    """Compile what the baseline `name` runs, or load it, by ranking for two users."""
    edges = np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32)
    graph = BipartiteGraph.from_edges(*edges, 2, 2)
    history = History(graph.user_items, np.zeros(graph.num_edges, np.int64))
    graph = replace(graph, others=(Behaviour("other", graph),), history=history)
    for csr in (graph.user_items, graph.item_users):
        csr.indptr.setflags(write=False)  # as files that are mapped: code is compiled for either
        csr.indices.setflags(write=False)
    top_k_all(closed_form.fit(name, graph, rivals.model, rivals.seed), np.arange(2, dtype=np.int32), 1, graph.user_items)
