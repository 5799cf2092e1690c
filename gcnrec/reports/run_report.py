"""`report.html`: one self-contained page about a run, made from the files of its folder alone; no external request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnrec.reports.run_charts import compared, learning, stored_values, support
from gcnrec.runs.contents import Facts, scalars
from gcnrec.system.files import atomic_file

if TYPE_CHECKING:
    from gcnrec.runs.folder import Run

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


def _content(facts: Facts) -> dict[str, Any]:
    baselines = facts.baselines
    return {
        "name": facts.folder.name,
        "subtitle": _subtitle(facts),
        "headline": _headline(facts),
        "warnings": facts.warnings,
        "resumes": [_resume(event) for event in facts.of_kind("resume")],
        "curves": learning(facts),
        "compared": compared(facts),
        "support": stored_values(facts) + support(facts),
        "budget": _budget(facts),
        "split": facts.metrics.get("split", "test"),
        "metrics": [_metric_row(facts, name, value, baselines) for name, value in scalars(facts.metrics).items()],
        "baseline_names": list(baselines),
        "valid_metric": facts.job.evaluate.metric,
        "valid_baselines": [_valid_row(facts, event) for event in facts.valid_baselines],
        "cold": _cold(facts),
        "tables": _tables(facts),
        "notes": [event["text"] for event in facts.of_kind("note")],
        "job": facts.job_text,
    }


def _subtitle(facts: Facts) -> str:
    model = facts.job.model
    parts = [
        model.name if model.closed_form else f"{model.name}, {model.layers} layer{'s' * (model.layers != 1)}, {model.width} wide"
    ]
    parts += [f"mixture of {facts.mixture['name']}"] if facts.mixture.get("partners") else []
    made = facts.lineage.get("gcnrec", {})
    parts += [facts.lineage.get("data", {}).get("name", ""), _moment(facts.lineage.get("created", ""))]
    parts += [f"gcnrec {made['version']} {made.get('commit', '')[:10]}".strip()] if made else []
    return " · ".join(part for part in parts if part)


def _resume(event: dict[str, Any]) -> str:
    """When a run was taken up again, and where."""
    return f"{_moment(event['time'])}: {event['stage']} after epoch {event['epoch']} and {event['step']:,} steps"


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
            count = epochs[-1]["epoch"]
            detail = "1 epoch" if count == 1 else f"{count} epochs"
            figures.append({"name": f"{stage} time", "value": _duration(seconds), "detail": detail})
    rates = [event["rows_per_second"] for event in facts.events if event.get("rows_per_second")]
    if rates:
        figures.append({"name": "throughput", "value": f"{sum(rates) / len(rates):,.0f}", "detail": "rows per second"})
    if "values" in facts.memory:
        bytes_stored = _size(facts.memory.get("value_bytes", 0))
        figures.append({"name": "stored values", "value": f"{facts.memory['values']:,}", "detail": bytes_stored})
    return figures


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


def _valid_row(facts: Facts, event: dict[str, Any]) -> dict[str, str]:
    """A baseline beside the best epoch on validation; only `why` where it was skipped."""
    if "skipped" in event:
        return {"name": event["name"], "why": event["skipped"]}
    return {
        "name": event["name"],
        "why": "",
        "users": f"{event['users']:,}",
        "value": f"{event['metrics'][facts.job.evaluate.metric]:.4f}",
        "own": f"{event['own']:.4f}",
        "difference": f"{event['difference']:+.4f}",
        "interval": f"{event['low']:+.4f} to {event['high']:+.4f}",
        "seconds": f"{event['seconds']:.1f} s",
    }


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
        for name, value in scalars(values).items():
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
        {"title": "Mixture", "rows": _flat(facts.mixture), "numeric": False},
        {"title": "Memory", "rows": memory, "numeric": True},
        {"title": "Lineage", "rows": _flat(facts.lineage), "numeric": False},
    ]
    return [table for table in tables if table["rows"]]


def _interval(facts: Facts, name: str) -> str:
    low, high = facts.metrics.get("intervals", {}).get(name, (None, None))
    return f"{low:.4f} to {high:.4f}" if low is not None else ""


def _flat(nested: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Leaves of nested JSON as (dotted path, text); lists of plain values stay together."""
    if isinstance(nested, dict):
        return [leaf for key, value in nested.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(nested, list):
        return [(prefix, ", ".join(map(str, nested)))]
    return [(prefix, str(nested))]


def _moment(iso: str) -> str:
    """An ISO time in UTC as people read it."""
    return iso.replace("T", " ").replace("+00:00", " UTC")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(number_of_bytes: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number_of_bytes >= size:
            return f"{number_of_bytes / size:.1f} {unit}"
    return f"{number_of_bytes:.0f} B"
