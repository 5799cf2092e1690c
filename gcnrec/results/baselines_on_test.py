"""Closed forms to compare a finished run with: fitted on what the run was trained on, evaluated on test."""

from __future__ import annotations

from functools import partial

from gcnrec.closed_forms import closed_form
from gcnrec.errors import DeviceError
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, evaluate
from gcnrec.results.evaluate import cold_start, seen_rows
from gcnrec.runs.events import Baseline, append_event, of_kind, read_events
from gcnrec.runs.folder import Run
from gcnrec.system.observer import SILENT, Observer


def measure_baselines(run: Run, observer: Observer = SILENT) -> None:
    """Fit every named baseline on what the run was trained on, evaluate it on test, append a `baseline` event.

    A baseline that does not fit into memory becomes a note. A resumed run does not repeat its baselines.
    """
    done = {baseline.name for baseline in of_kind(read_events(run.folder), Baseline)}
    settings = run.job.evaluate
    split = HeldOutSplit.of(run.dataset.test, run.dataset.graph, seen_rows(run, "test"))
    for name in () if settings.baselines == "auto" else settings.baselines:
        if name in done:
            continue
        observer.work(f"fitting baseline {name}", 0, 0)
        try:
            scorer = closed_form.fit(name, run.train_graph, run.job.model, run.job.train.seed, run.dataset.item_features)
        except DeviceError as problem:
            append_event(run.folder, {"event": "note", "text": f"baseline {name} left out: {problem}"})
            continue
        tell = partial(observer.work, f"ranking for test by {name}")
        judged = evaluate(scorer, split, Measures(settings.k, tilt=settings.tilt), tell).metrics
        event = {"event": "baseline", "name": name, "metrics": judged, "cold_start": cold_start(run, scorer, "test")}
        append_event(run.folder, event)
        if settings.metric in judged:
            observer.note(f"baseline {name}  {settings.metric} {judged[settings.metric]:.4f}")
