"""Metrics of runs from Python: `gcnrec.evaluate`, `gcnrec.compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gcnrec.ranking.seen import SeenRule
from gcnrec.reports.progress import watched
from gcnrec.reports.run_report import refresh_report
from gcnrec.results.compare import Comparison, compare_runs
from gcnrec.results.evaluate import Split, evaluate_run
from gcnrec.results.given.details import Details
from gcnrec.results.given.lists import JudgedLists
from gcnrec.runs.folder import Run, opened
from gcnrec.storage.places import StrPath, place_if_any
from gcnrec.system.observer import SILENT, Observer
from gcnrec.workers.world import World


def evaluate(
    run: Run | StrPath, split: Split = "test", ks: Sequence[int] | None = None, segments: StrPath | None = None,
    observer: Observer = SILENT, memory_limit: str | None = None, seen: SeenRule | None = None, details: Details | None = None,
    world: World | None = None, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a run folder and return the metrics that it writes.

    Test: `metrics.json` and `per_user.parquet`. Valid: `metrics.valid.json` and `per_user.valid.parquet`. A run that has a
    `report.html` gets it anew.
    `ks`: list lengths, by default the job's. `segments`: a Parquet or CSV file with a user column and one other column, the name
    of the user's segment. `memory_limit`, such as "2GB" (default: of the job), bounds memory; the process itself and mapped files
    do not count. `seen`: what lists leave out, in place of the job's `evaluate.seen`. `details`: more metrics, none by default.
    `world`: the workers that this process leads, whose machines share the users. `progress` shows a bar.
    Raises DeviceError where the limit is too small for the data. Raises UsageError for valid on a run that was trained on
    valid too, or that another process writes.
    """
    with watched(progress, observer) as heard:
        given = opened(run, heard)
        metrics = evaluate_run(given, split, ks, place_if_any(segments), heard, memory_limit, seen, details, world)
        refresh_report(given, heard)
        return metrics


def compare(
    base: Run | StrPath, others: Sequence[Run | StrPath | JudgedLists], split: Split = "test", bootstrap: int = 2000,
    permutations: int = 10_000, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Compare evaluated runs with `base` by their per-user metrics: difference, 95 % interval and p-value of each metric.

    Catalogue metrics (coverage, gini) have no users to pair. Intervals are a bootstrap over users of `bootstrap` samples,
    p-values two-sided sign-flip tests of `permutations` draws, adjusted by Holm over all rows (`gcnrec.results.compare`).
    Raises UsageError when a run has not been evaluated or was trained on the split, or no metric is shared, DataError when
    the runs were measured on different data or users, or by lists that leave out different items (`evaluate.seen`).
    """
    given = [each if isinstance(each, JudgedLists) else opened(each) for each in others]
    return compare_runs(opened(base), given, split, bootstrap, permutations, seed)
