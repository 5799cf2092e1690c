"""The charts of a run's report: how it learnt, how fast, where it stands, and what became of a sparse table's support."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from gcnrec.ranking.metrics import measured, split_name
from gcnrec.reports import charts
from gcnrec.reports.seed_statistics import Estimate
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import Epoch, Explore, ValidBaseline

Chart = dict[str, str]
"""`title` and `svg`; `alt` where the title does not say enough to who cannot see the chart."""
STAGES = ("fit", "refit")
_MANY_SECONDS = 600.0


def learning(contents: RunContents) -> Iterator[Chart]:
    """Curves of the epochs' figures, as far as they were measured: first the loss, then validation."""
    metric = contents.job.evaluate.metric
    wanted: list[tuple[str, Literal["epoch", "seconds"], str, charts.Unit, Callable[[Epoch], float | None]]] = [
        ("Loss by epoch", "epoch", "loss", "number", lambda epoch: epoch.loss),
        (f"Validation {metric} by epoch", "epoch", metric, "number", lambda epoch: epoch.valid.get(metric)),
        (f"Validation {metric} by time", "seconds", metric, "number", lambda epoch: epoch.valid.get(metric)),
        ("Throughput by epoch", "epoch", "rows per second", "count", lambda epoch: epoch.rows_per_second),
        ("Waiting for data", "epoch", "share of the epoch", "share", lambda epoch: epoch.stalled_share),
        ("Read from host memory by the GPU", "epoch", "GB per second", "number", lambda epoch: epoch.gigabytes_per_second),
        ("Rows found in the device's cache", "epoch", "share of the rows", "share", lambda epoch: epoch.cache_hits),
    ]
    for title, x, label, unit, value_of in wanted:
        points = {
            stage: [(getattr(epoch, x), value) for epoch in contents.epochs(stage) if (value := value_of(epoch)) is not None]
            for stage in STAGES
        }
        minutes = x == "seconds" and max((at for each in points.values() for at, _ in each), default=0.0) > _MANY_SECONDS
        curves = [
            charts.Curve(stage, [at / 60 if minutes else at for at, _ in each], [value for _, value in each], stage == "refit")
            for stage, each in points.items()
            if each
        ]
        if curves:
            svg = charts.lines(curves, "minutes" if minutes else x, label, unit)
            ends = "; ".join(f"{curve.name} from {curve.ys[0]:.4g} to {curve.ys[-1]:.4g}" for curve in curves)
            yield {"title": title, "svg": svg, "alt": f"{title}: {ends}"}


def stored_values(contents: RunContents) -> list[Chart]:
    """Values of a sparse table over the training, as far as epochs and explorations counted them, and the budget."""
    if contents.job.model.closed_form or not contents.job.is_sparse:
        return []
    curves = []
    for stage in STAGES:
        counted = {
            event.step: event.values
            for event in contents.events
            if isinstance(event, (Epoch, Explore)) and event.stage == stage and event.values is not None
        }
        if counted:
            steps = sorted(counted)
            curves.append(charts.Curve(stage, steps, [counted[step] for step in steps], stage == "refit"))
    budget = {"budget": float(contents.memory["budget_values"])} if "budget_values" in contents.memory else {}
    return [{"title": "Stored values", "svg": charts.lines(curves, "step", "values", "count", budget)}] if curves else []


def compared(contents: RunContents) -> list[Chart]:
    """The run and its baselines, and its recall by popularity of the items."""
    drawn = []
    metric, values, deciles = contents.headline, contents.metrics.values, contents.metrics.deciles
    others = {name: metrics[metric] for name, metrics in contents.baselines.items() if metric in metrics}
    if others and metric in values:
        ranked = sorted({"this run": values[metric], **others}.items(), key=lambda pair: -pair[1])
        svg = charts.bars([name for name, _ in ranked], [value for _, value in ranked], metric, "this run")
        drawn.append({"title": "Compared with closed-form baselines", "svg": svg})
    if deciles:
        names = [str(entry.get("decile", number)) for number, entry in enumerate(deciles, 1)]
        heights_of = [measured({name: value or 0.0 for name, value in entry.items()}) for entry in deciles]
        recalls = [name for name in heights_of[0] if split_name(name).kind == "recall"]
        for label in [metric] if metric in recalls else recalls[:1]:
            heights = [named[label] for named in heights_of]
            svg = charts.columns(names, heights, "decile of item popularity (1: most popular)", label)
            drawn.append({"title": "Recall by item popularity", "svg": svg})
    return drawn


def against_baselines(contents: RunContents) -> list[Chart]:
    """The best epoch on validation less each baseline, paired by user, as a forest plot."""
    events = [event for event in contents.of_kind(ValidBaseline) if not event.skipped]
    if not events:
        return []
    # An event has the baseline less the run; here, what the run gains is positive.
    gains = [Estimate(-event.difference, -event.high, -event.low, event.users) for event in events]
    metric = contents.job.evaluate.metric
    svg = charts.forest(
        [event.name for event in events], [charts.Spans("this run", gains)], f"{metric} of this run less theirs", 0.0
    )
    said = "; ".join(f"{event.name} {gain.mean:+.4f}" for event, gain in zip(events, gains, strict=True))
    return [{"title": "Gain over baselines on validation", "svg": svg, "alt": f"Gain in {metric} with 95% intervals: {said}"}]


def support(contents: RunContents) -> list[Chart]:
    """What explorations did to the support of a sparse table; nothing for a dense table, or without explorations."""
    explored = {stage: [event for event in contents.of_kind(Explore) if event.stage == stage] for stage in STAGES}
    explored = {stage: events for stage, events in explored.items() if events}
    if not explored:
        return []
    last = list(explored)[-1]
    steps = [event.step for event in explored[last]]

    # Pruned and grown are often as many: the second is dashed, so that the first shows through.
    moved = [
        charts.Curve("pruned", steps, [event.pruned for event in explored[last]]),
        charts.Curve("grown", steps, [event.grown for event in explored[last]], dashed=True),
    ]
    if any(event.regrown for event in explored[last]):
        moved.append(charts.Curve("pruned, grown at once", steps, [event.regrown for event in explored[last]]))
    names = ["most popular", *(f"decile {number}" for number in range(2, 10)), "least"]
    slots = zip(*(event.slots_per_row_by_decile for event in explored[last]), strict=True)
    deciles = [charts.Curve(name, steps, decile) for name, decile in zip(names, slots, strict=True)]
    active = [charts.Curve(s, [e.step for e in es], [e.ever_active for e in es], s == "refit") for s, es in explored.items()]
    drawn = {
        "Cells ever active, in a sample of rows": charts.lines(active, "step", "share of cells", "share"),
        f"Slots per row by decile of popularity ({last})": charts.fan(deciles, "step", "slots per row"),
        f"Values moved by each exploration ({last})": charts.lines(moved, "step", "values", "count"),
    }
    return [{"title": title, "svg": svg} for title, svg in drawn.items()]
