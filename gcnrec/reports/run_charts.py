"""The charts of a run's report: how it learnt, how fast, where it stands, and what became of a sparse table's support."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gcnrec.reports import charts
from gcnrec.runs.contents import RunContents

Chart = dict[str, str]
"""`title` and `svg`."""
Draw = Callable[[Sequence[charts.Curve], str, str], str]
STAGES = ("fit", "refit")
_MANY_SECONDS = 600.0


def learning(contents: RunContents) -> list[Chart]:
    """Curves of the epochs' figures: those that were measured."""
    metric = contents.job.evaluate.metric
    wanted: list[tuple[str, str, str, Draw, Callable[[dict[str, Any]], Any]]] = [
        ("Loss by epoch", "epoch", "loss", charts.lines, lambda event: event.get("loss")),
        (f"Validation {metric} by epoch", "epoch", metric, charts.lines, lambda event: (event.get("valid") or {}).get(metric)),
        (f"Validation {metric} by time", "seconds", metric, charts.lines, lambda event: (event.get("valid") or {}).get(metric)),
        ("Throughput by epoch", "epoch", "rows per second", _from_zero, lambda event: event.get("rows_per_second")),
        ("Waiting for data", "epoch", "share of the epoch", charts.shares, lambda event: event.get("stalled_share")),
        ("Read from host memory by the GPU", "epoch", "GB per second", charts.lines, lambda e: e.get("gigabytes_per_second")),
        ("Rows found in the device's cache", "epoch", "share of the rows", charts.shares, lambda event: event.get("cache_hits")),
    ]
    drawn = []
    for title, x, label, draw, value_of in wanted:
        points = {
            stage: [(event[x], value_of(event)) for event in contents.epochs(stage) if value_of(event) is not None]
            for stage in STAGES
        }
        minutes = x == "seconds" and max((at for each in points.values() for at, _ in each), default=0.0) > _MANY_SECONDS
        curves = [
            charts.Curve(stage, [at / 60 if minutes else at for at, _ in each], [value for _, value in each], stage == "refit")
            for stage, each in points.items()
            if each
        ]
        if curves:
            drawn.append({"title": title, "svg": draw(curves, "minutes" if minutes else x, label)})
    return drawn


def _from_zero(curves: Sequence[charts.Curve], x_label: str, y_label: str) -> str:
    return charts.counts(curves, {}, x_label, y_label)


def stored_values(contents: RunContents) -> list[Chart]:
    """Values of a sparse table over the training, as far as epochs and explorations counted them, and the budget."""
    if contents.job.model.closed_form or contents.job.table.budget == 1.0:
        return []
    curves = []
    for stage in STAGES:
        counted = {e["step"]: e["values"] for e in contents.events if e.get("stage") == stage and "values" in e}
        if counted:
            steps = sorted(counted)
            curves.append(charts.Curve(stage, steps, [counted[step] for step in steps], stage == "refit"))
    budget = {"budget": float(contents.memory["budget_values"])} if "budget_values" in contents.memory else {}
    return [{"title": "Stored values", "svg": charts.counts(curves, budget, "step", "values")}] if curves else []


def compared(contents: RunContents) -> list[Chart]:
    """The run beside its baselines, and its recall by popularity of the items."""
    drawn = []
    metric = contents.headline
    others = {name: metrics[metric] for name, metrics in contents.baselines.items() if metric in metrics}
    if others and metric in contents.metrics:
        ranked = sorted({"this run": contents.metrics[metric], **others}.items(), key=lambda pair: -pair[1])
        svg = charts.bars([name for name, _ in ranked], [value for _, value in ranked], metric, "this run")
        drawn.append({"title": "Beside closed-form baselines", "svg": svg})
    deciles = contents.metrics.get("deciles") or []
    if deciles:
        names = [str(entry.get("decile", number)) for number, entry in enumerate(deciles, 1)]
        recalls = [key for key in deciles[0] if key.startswith("recall@")]
        label = metric if metric in recalls else recalls[0]
        heights = [entry[label] or 0.0 for entry in deciles]
        svg = charts.columns(names, heights, "decile of item popularity (1: most popular)", label)
        drawn.append({"title": "Recall by item popularity", "svg": svg})
    return drawn


def support(contents: RunContents) -> list[Chart]:
    """What explorations did to the support of a sparse table; nothing for a dense one, or one that never explored."""
    explored = {stage: [event for event in contents.of_kind("explore") if event["stage"] == stage] for stage in STAGES}
    explored = {stage: events for stage, events in explored.items() if events}
    if not explored:
        return []
    last = list(explored)[-1]
    steps = [event["step"] for event in explored[last]]

    def by_stage(key: str) -> list[charts.Curve]:
        return [charts.Curve(s, [e["step"] for e in es], [e[key] for e in es], s == "refit") for s, es in explored.items()]

    # Pruned and grown are often as many: the second is dashed, so that the first shows through.
    moved = [charts.Curve(key, steps, [event[key] for event in explored[last]], key == "grown") for key in ("pruned", "grown")]
    if any(event["regrown"] for event in explored[last]):
        moved.append(charts.Curve("pruned, grown at once", steps, [event["regrown"] for event in explored[last]]))
    names = ["most popular", *(f"decile {number}" for number in range(2, 10)), "least"]
    slots = zip(*(event["slots_per_row_by_decile"] for event in explored[last]), strict=True)
    deciles = [charts.Curve(name, steps, decile) for name, decile in zip(names, slots, strict=True)]
    drawn = {
        "Cells ever active, in a sample of rows": charts.shares(by_stage("ever_active"), "step", "share of cells"),
        f"Slots per row by decile of popularity ({last})": charts.fan(deciles, "step", "slots per row"),
        f"Values moved by each exploration ({last})": charts.counts(moved, {}, "step", "values"),
    }
    return [{"title": title, "svg": svg} for title, svg in drawn.items()]
