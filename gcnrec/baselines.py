"""Closed-form models beside a run: the same data, the same test users, one line of metrics.jsonl each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gcnrec.artifacts import Run
from gcnrec.errors import DeviceError
from gcnrec.evaluate import cold_start, evaluate, seen_rows
from gcnrec.events import append_event, read_events
from gcnrec.models import closed_form

if TYPE_CHECKING:
    from gcnrec.progress import Observer


def measure_baselines(run: Run, observer: Observer | None = None) -> None:
    """Fit every model of `evaluate.baselines` on what the run was trained on, judge it on test, append a `baseline` event.

    One that does not fit into memory is noted and left out; those that a resumed run has already are not repeated.
    """
    done = {event["name"] for event in read_events(run.folder) if event["event"] == "baseline"}
    graph, settings = run.dataset.graph, run.job.evaluate
    degrees = graph.item_users.degrees, graph.user_items.degrees
    for name in settings.baselines:
        if name in done:
            continue
        if observer:
            observer.work(f"fitting baseline {name}", 0, 0)
        try:
            scorer = closed_form.fit(name, run.train_graph, run.job.model, run.job.train.seed, run.dataset.item_features)
        except DeviceError as problem:
            append_event(run.folder, {"event": "note", "text": f"baseline {name} left out: {problem}"})
            continue
        tell = partial(observer.work, f"ranking for test by {name}") if observer else None
        metrics = evaluate(scorer, run.dataset.test, seen_rows(run, "test"), *degrees, settings.k, tell=tell).metrics
        event = {"event": "baseline", "name": name, "metrics": metrics, "cold_start": cold_start(run, scorer, "test")}
        append_event(run.folder, event)
        if observer and settings.metric in metrics:
            observer.note(f"baseline {name}  {settings.metric} {metrics[settings.metric]:.4f}")
