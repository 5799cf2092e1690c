"""`report.html`: one self-contained page about a run, made from the files of its folder alone; no external request."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnrec import charts
from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.events import epochs_of, read_events
from gcnrec.loaders.atomic import atomic_file

if TYPE_CHECKING:
    from gcnrec.artifacts import Run

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_HEADLINE = ("recall@20", "ndcg@20")


def write_report(run: Run) -> Path:
    """Write `report.html` into the run folder, replacing an earlier one, and return its path.

    Reads `metrics.jsonl`, `metrics.json`, `memory.json`, `lineage.json` and `job.toml`; only the last must be there.
    """
    import jinja2

    facts = Facts(run.folder)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(**_content(facts))
    path: Path = run.folder / "report.html"
    with atomic_file(path) as beside:
        beside.write_text(page, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Facts:
    """The files of a run folder, parsed."""

    folder: Path

    @cached_property
    def job_text(self) -> str:
        return (self.folder / "job.toml").read_text(encoding="utf-8")

    @cached_property
    def job(self) -> Job:
        return Job.load(self.folder / "job.toml")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return _read_json(self.folder / "metrics.json") or _read_json(self.folder / "metrics.valid.json")

    @cached_property
    def memory(self) -> dict[str, Any]:
        return _read_json(self.folder / "memory.json")

    @cached_property
    def lineage(self) -> dict[str, Any]:
        return _read_json(self.folder / "lineage.json")

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return read_events(self.folder)

    def epochs(self, stage: str) -> list[dict[str, Any]]:
        return epochs_of(self.events, stage)

    @property
    def baselines(self) -> dict[str, dict[str, Any]]:
        return {event["name"]: event["metrics"] for event in self.events if event["event"] == "baseline"}

    @property
    def headline(self) -> str:
        """The metric that charts compare by: the one that validation chose by, if it was measured."""
        chosen = self.job.evaluate.metric
        return chosen if chosen in self.metrics else next(iter(_scalars(self.metrics)), chosen)


def _content(facts: Facts) -> dict[str, Any]:
    baselines = facts.baselines
    return {
        "name": facts.folder.name,
        "subtitle": _subtitle(facts),
        "headline": _headline(facts),
        "curves": _curves(facts),
        "compared": _compared(facts),
        "support": _support(facts),
        "budget": _budget(facts),
        "split": facts.metrics.get("split", "test"),
        "metrics": [_metric_row(facts, name, value, baselines) for name, value in _scalars(facts.metrics).items()],
        "baseline_names": list(baselines),
        "cold": _cold(facts),
        "tables": _tables(facts),
        "notes": [event["text"] for event in facts.events if event["event"] == "note"],
        "job": facts.job_text,
    }


def _subtitle(facts: Facts) -> str:
    model = facts.job.model
    parts = [model.name if model.closed_form else f"{model.name}, {model.layers} layers, {model.width} wide"]
    parts += [f"{key} {value}" for key, value in _flat(facts.lineage) if key in ("data.name", "dataset.name", "created")]
    return " · ".join(parts)


def _headline(facts: Facts) -> list[dict[str, str]]:
    figures = [
        {"name": name, "value": f"{facts.metrics[name]:.4f}", "detail": _interval(facts, name)}
        for name in dict.fromkeys((*_HEADLINE, facts.headline))
        if name in facts.metrics
    ]
    for stage in ("fit", "refit"):
        epochs = facts.epochs(stage)
        if epochs:
            seconds = float(epochs[-1]["seconds"])
            figures.append({"name": f"{stage} time", "value": _duration(seconds), "detail": f"{epochs[-1]['epoch']} epochs"})
    rates = [event["rows_per_second"] for event in facts.events if event.get("rows_per_second")]
    if rates:
        figures.append({"name": "throughput", "value": f"{sum(rates) / len(rates):,.0f}", "detail": "rows per second"})
    if "values" in facts.memory:
        bytes_stored = _size(facts.memory.get("value_bytes", 0))
        figures.append({"name": "stored values", "value": f"{facts.memory['values']:,}", "detail": bytes_stored})
    return figures


def _curves(facts: Facts) -> list[dict[str, str]]:
    stages = {stage: facts.epochs(stage) for stage in ("fit", "refit")}
    stages = {stage: epochs for stage, epochs in stages.items() if epochs}
    metric = facts.job.evaluate.metric
    wanted: list[tuple[str, str, str, Callable[[dict[str, Any]], Any]]] = [
        ("Loss by epoch", "epoch", "loss", lambda event: event.get("loss")),
        (f"Validation {metric} by epoch", "epoch", metric, lambda event: (event.get("valid") or {}).get(metric)),
        (f"Validation {metric} by time", "seconds", metric, lambda event: (event.get("valid") or {}).get(metric)),
        ("Throughput by epoch", "epoch", "rows per second", lambda event: event.get("rows_per_second")),
        ("Time that training stood still for data", "epoch", "share of the epoch", lambda event: event.get("stalled_share")),
        ("Read from host memory by the GPU", "epoch", "GB per second", lambda event: event.get("gigabytes_per_second")),
        ("Rows found in the device's cache", "epoch", "share of the rows", lambda event: event.get("cache_hits")),
    ]
    drawn = []
    for title, x, label, value_of in wanted:
        curves = []
        for stage, epochs in stages.items():
            points = [(event[x], value_of(event)) for event in epochs if value_of(event) is not None]
            if points:
                curves.append(charts.Curve(stage, [p[0] for p in points], [p[1] for p in points], stage == "refit"))
        if curves:
            drawn.append({"title": title, "svg": charts.lines(curves, x, label)})
    return drawn


def _compared(facts: Facts) -> list[dict[str, str]]:
    drawn = []
    metric = facts.headline
    others = {name: metrics[metric] for name, metrics in facts.baselines.items() if metric in metrics}
    if others and metric in facts.metrics:
        ranked = sorted({"this run": facts.metrics[metric], **others}.items(), key=lambda pair: -pair[1])
        svg = charts.bars([name for name, _ in ranked], [value for _, value in ranked], metric, "this run")
        drawn.append({"title": "Beside closed-form baselines", "svg": svg})
    deciles = facts.metrics.get("deciles") or []
    if deciles:
        names = [str(entry.get("decile", number)) for number, entry in enumerate(deciles, 1)]
        recalls = [key for key in deciles[0] if key.startswith("recall@")]
        label = metric if metric in recalls else recalls[0]
        heights = [entry[label] or 0.0 for entry in deciles]
        svg = charts.columns(names, heights, "decile of item popularity (1: most popular)", label)
        drawn.append({"title": "Recall by item popularity", "svg": svg})
    return drawn


def _support(facts: Facts) -> list[dict[str, str]]:
    """What explorations did to the support of a sparse table; nothing for a dense one, or one that never explored."""
    explored = {stage: [e for e in facts.events if e["event"] == "explore" and e["stage"] == stage] for stage in ("fit", "refit")}
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
    budget = {"budget": float(facts.memory["budget_values"])} if "budget_values" in facts.memory else {}
    drawn = {
        "Cells ever active, in a sample of rows": charts.lines(by_stage("ever_active"), "step", "share of cells"),
        f"Slots per row by decile of popularity ({last})": charts.fan(deciles, "step", "slots per row"),
        f"Values moved by each exploration ({last})": charts.counts(moved, {}, "step", "values"),
        "Stored values": charts.counts(by_stage("values"), budget, "step", "values"),
    }
    return [{"title": title, "svg": svg} for title, svg in drawn.items()]


def _budget(facts: Facts) -> list[tuple[str, str, str]]:
    """What a sparse table holds against its budget, and its bytes against those of a dense one; nothing for a dense table."""
    memory = facts.memory
    if facts.job.model.closed_form or facts.job.table.budget == 1.0 or "dense_bytes" not in memory:
        return []

    def values(name: str, key: str) -> tuple[str, str, str]:
        return name, f"{memory[key]:,}", f"{memory[key] / max(memory['budget_values'], 1):.1%} of the budget"

    def size(name: str, key: str) -> tuple[str, str, str]:
        return name, _size(memory[key]), f"{memory[key] / memory['dense_bytes']:.1%} of a dense table"

    return [
        ("budget", f"{memory['budget_values']:,}", ""),
        values("stored values", "values"),
        values("most values ever stored", "values_max_seen"),
        size("bytes of values", "value_bytes"),
        size("bytes of positions", "index_bytes"),
        size("bytes of optimizer state", "state_bytes"),
        size("most bytes held: table, state and explorations", "peak_table_bytes"),
        size("a dense table of the base width, with its state", "dense_bytes"),
        ("embeddings served", _size(memory["served_bytes"]), ""),
    ]


def _metric_row(facts: Facts, name: str, value: float, baselines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    beside = [f"{metrics[name]:.4f}" if name in metrics else "" for metrics in baselines.values()]
    return {"name": name, "value": f"{value:.4f}", "interval": _interval(facts, name), "baselines": beside}


_GROUPS = {
    "warm": "user and item seen, among all items",
    "warm_apart": "user and item seen, among seen items",
    "cold_items": "item not seen, among all items",
    "cold_items_apart": "item not seen, among such items",
    "cold_users": "user not seen, among all items",
}


def _cold(facts: Facts) -> list[dict[str, Any]]:
    """Metrics by whether users and items had train edges, beside those of the baselines; nothing where all had."""
    others = [event.get("cold_start", {}) for event in facts.events if event["event"] == "baseline"]
    rows = []
    for group, values in facts.metrics.get("cold_start", {}).items():
        for name, value in _scalars(values).items():
            beside = [f"{cold[group][name]:.4f}" if name in cold.get(group, {}) else "" for cold in others]
            about = {"group": _GROUPS.get(group, group), "users": f"{values['users']:,.0f}"}
            rows.append({**about, "name": name, "value": f"{value:.4f}", "baselines": beside})
    return rows


def _tables(facts: Facts) -> list[dict[str, Any]]:
    memory = [
        (key, f"{value:,}" + (f"  ({_size(value)})" if key.endswith("_bytes") else ""))
        for key, value in facts.memory.items()
        if isinstance(value, int)
    ]
    tables = [
        {"title": "Memory", "rows": memory, "numeric": True},
        {"title": "Lineage", "rows": _flat(facts.lineage), "numeric": False},
    ]
    return [table for table in tables if table["rows"]]


def _interval(facts: Facts, name: str) -> str:
    low, high = facts.metrics.get("intervals", {}).get(name, (None, None))
    return f"{low:.4f} to {high:.4f}" if low is not None else ""


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics proper, in their order: names such as `recall@20`."""
    return {name: float(value) for name, value in metrics.items() if "@" in name and isinstance(value, (int, float))}


def _flat(nested: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Leaves of nested JSON as (dotted path, text); lists of plain values stay together."""
    if isinstance(nested, dict):
        return [leaf for key, value in nested.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(nested, list):
        return [(prefix, ", ".join(map(str, nested)))]
    return [(prefix, str(nested))]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as problem:
        raise DataError(f"{path} must be JSON, cannot be read ({problem}); write it again with 'gcnrec evaluate'") from None
    return dict(document)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(number_of_bytes: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number_of_bytes >= size:
            return f"{number_of_bytes / size:.1f} {unit}"
    return f"{number_of_bytes:.0f} B"
