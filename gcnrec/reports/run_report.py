"""`report.html`: one self-contained page about a run, made from the files of its folder alone; no external request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnrec.reports.run_charts import compared, learning, stored_values, support
from gcnrec.runs.contents import RunContents, scalars
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

    contents = RunContents(run.folder)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(**_content(contents))
    path: Path = run.folder / "report.html"
    with atomic_file(path) as beside:
        beside.write_text(page, encoding="utf-8")
    return path


def _content(contents: RunContents) -> dict[str, Any]:
    baselines = contents.baselines
    return {
        "name": contents.folder.name,
        "subtitle": _subtitle(contents),
        "headline": _headline(contents),
        "warnings": contents.warnings,
        "resumes": [_resume(event) for event in contents.of_kind("resume")],
        "curves": learning(contents),
        "compared": compared(contents),
        "support": stored_values(contents) + support(contents),
        "budget": _budget(contents),
        "split": contents.metrics.get("split", "test"),
        "metrics": [_metric_row(contents, name, value, baselines) for name, value in scalars(contents.metrics).items()],
        "baseline_names": list(baselines),
        "valid_metric": contents.job.evaluate.metric,
        "valid_baselines": [_valid_row(contents, event) for event in contents.valid_baselines],
        "cold": _cold(contents),
        "tables": _tables(contents),
        "notes": [event["text"] for event in contents.of_kind("note")],
        "job": contents.job_text,
    }


def _subtitle(contents: RunContents) -> str:
    model = contents.job.model
    parts = [
        model.name if model.closed_form else f"{model.name}, {model.layers} layer{'s' * (model.layers != 1)}, {model.width} wide"
    ]
    parts += [f"mixture of {contents.mixture['name']}"] if contents.mixture.get("partners") else []
    made = contents.lineage.get("gcnrec", {})
    parts += [contents.lineage.get("data", {}).get("name", ""), _moment(contents.lineage.get("created", ""))]
    parts += [f"gcnrec {made['version']} {made.get('commit', '')[:10]}".strip()] if made else []
    return " · ".join(part for part in parts if part)


def _resume(event: dict[str, Any]) -> str:
    """When a run was taken up again, and where."""
    return f"{_moment(event['time'])}: {event['stage']} after epoch {event['epoch']} and {event['step']:,} steps"


def _headline(contents: RunContents) -> list[dict[str, str]]:
    figures = [
        {"name": name, "value": f"{contents.metrics[name]:.4f}", "detail": _interval(contents, name)}
        for name in dict.fromkeys((*_HEADLINE, contents.headline))
        if name in contents.metrics
    ]
    for stage in ("fit", "refit"):
        epochs = contents.epochs(stage)
        if epochs:
            seconds = float(epochs[-1]["seconds"])
            count = epochs[-1]["epoch"]
            detail = "1 epoch" if count == 1 else f"{count} epochs"
            figures.append({"name": f"{stage} time", "value": _duration(seconds), "detail": detail})
    rates = [event["rows_per_second"] for event in contents.events if event.get("rows_per_second")]
    if rates:
        figures.append({"name": "throughput", "value": f"{sum(rates) / len(rates):,.0f}", "detail": "rows per second"})
    if "values" in contents.memory:
        bytes_stored = _size(contents.memory.get("value_bytes", 0))
        figures.append({"name": "stored values", "value": f"{contents.memory['values']:,}", "detail": bytes_stored})
    return figures


def _budget(contents: RunContents) -> list[tuple[str, str, str]]:
    """What a sparse table holds against its budget, and its bytes against those of a dense one; nothing for a dense table."""
    memory = contents.memory
    if contents.job.model.closed_form or contents.job.table.budget == 1.0 or "dense_bytes" not in memory:
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


def _metric_row(contents: RunContents, name: str, value: float, baselines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    beside = [f"{metrics[name]:.4f}" if name in metrics else "" for metrics in baselines.values()]
    return {"name": name, "value": f"{value:.4f}", "interval": _interval(contents, name), "baselines": beside}


def _valid_row(contents: RunContents, event: dict[str, Any]) -> dict[str, str]:
    """A baseline beside the best epoch on validation; only `why` where it was skipped."""
    if "skipped" in event:
        return {"name": event["name"], "why": event["skipped"]}
    return {
        "name": event["name"],
        "why": "",
        "users": f"{event['users']:,}",
        "value": f"{event['metrics'][contents.job.evaluate.metric]:.4f}",
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


def _cold(contents: RunContents) -> list[dict[str, Any]]:
    """Metrics by whether users and items had train edges, beside those of the baselines; nothing where all had."""
    others = [event.get("cold_start", {}) for event in contents.events if event["event"] == "baseline"]
    rows = []
    for group, values in contents.metrics.get("cold_start", {}).items():
        for name, value in scalars(values).items():
            beside = [f"{cold[group][name]:.4f}" if name in cold.get(group, {}) else "" for cold in others]
            about = {"group": _GROUPS.get(group, group), "users": f"{values['users']:,.0f}"}
            rows.append({**about, "name": name, "value": f"{value:.4f}", "baselines": beside})
    return rows


def _tables(contents: RunContents) -> list[dict[str, Any]]:
    memory = [
        (key, f"{value:,}" + (f"  ({_size(value)})" if key.endswith("_bytes") else ""))
        for key, value in contents.memory.items()
        if isinstance(value, int)
    ]
    tables = [
        {"title": "Mixture", "rows": _flat(contents.mixture), "numeric": False},
        {"title": "Memory", "rows": memory, "numeric": True},
        {"title": "Lineage", "rows": _flat(contents.lineage), "numeric": False},
    ]
    return [table for table in tables if table["rows"]]


def _interval(contents: RunContents, name: str) -> str:
    low, high = contents.metrics.get("intervals", {}).get(name, (None, None))
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
