"""`report.html`: one self-contained page about a run, made from the files of its folder and its dataset; no external request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gcnrec.errors import GcnrecError
from gcnrec.reports.figures import duration, size
from gcnrec.reports.page import write_page
from gcnrec.reports.run_charts import STAGES, against_baselines, compared, learning, stored_values, support
from gcnrec.reports.sections.data import data_section
from gcnrec.reports.sections.examples import examples_section
from gcnrec.reports.sections.groups import cells, cold_section, group_tables
from gcnrec.reports.sections.model_card import model_card
from gcnrec.reports.sections.words import memory_words
from gcnrec.reports.text import HEADLINE, changed
from gcnrec.runs.changes import changes
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import Epoch, Note, Resume, ValidBaseline
from gcnrec.runs.folder import Run, writing
from gcnrec.runs.paths import CARD, LINEAGE, MIXTURE, REPORT
from gcnrec.runs.tracking import track_report
from gcnrec.storage.files import atomic_file
from gcnrec.system.observer import SILENT, Observer


def write_report(run: Run, observer: Observer = SILENT) -> Path:
    """Write `report.html` into the run folder, replacing an earlier one, and return its path; the run's trackers get it, too."""
    page = write_run_page(run.folder, run)
    track_report(run.job.run, run.job.model_dump(mode="json", exclude_none=True), run.folder, page, observer)
    return page


def write_run_page(folder: Path, run: Run | None = None) -> Path:
    """As `write_report`; of a folder alone, in which only job.toml must be, the page says what its files say.

    `MODEL_CARD.md` is written with the page, so that both have the same figures.
    """
    contents = RunContents(folder)
    content = _content(contents, run)
    with atomic_file(folder / CARD) as path:
        path.write_text(model_card(contents, content), encoding="utf-8")
    return write_page("report.html.j2", content, folder / REPORT)


def refresh_report(run: Run, observer: Observer) -> None:
    """Write `report.html` of a run that has one, so that it shows what was measured since; what fails is a warning."""
    if (run.folder / REPORT).is_file():
        try:
            with writing(run.folder, observer):
                write_report(run, observer)
        except GcnrecError as problem:
            observer.warn(f"{run.folder / REPORT} shows earlier figures, as it cannot be written: {problem}")


def _content(contents: RunContents, run: Run | None) -> dict[str, Any]:
    """What the template of the page shows, by name."""
    metrics, baselines = contents.metrics, contents.baselines
    others = baselines.values()
    rows = [
        {"name": name, "value": f"{value:.4f}", "interval": _interval(contents, name), "baselines": cells(name, others)}
        for name, value in metrics.values.items()
    ]
    return {
        "name": contents.folder.name,
        "subtitle": subtitle(contents),
        "headline": headline(contents),
        "warnings": contents.warnings,
        "resumes": [
            f"{_moment(event.time)}: {event.stage} after epoch {event.epoch} and {event.step:,} steps"
            for event in contents.of_kind(Resume)
        ],
        "curves": list(learning(contents)),
        "compared": [*compared(contents), *against_baselines(contents)],
        "support": stored_values(contents) + support(contents),
        "budget": _budget(contents),
        "split": metrics.split,
        "metrics": rows,
        "baseline_names": list(baselines),
        "valid_metric": contents.job.evaluate.metric,
        "valid_baselines": [_valid_row(contents, event) for event in contents.of_kind(ValidBaseline)],
        "data": data_section(contents, run.dataset if run else None),
        "examples": examples_section(run) if run else {},
        "cold": cold_section(contents),
        "groups": group_tables(contents),
        "memory_words": memory_words(contents),
        "memory": [(key, f"{count:,}", size(count) if key.endswith("_bytes") else "") for key, count in contents.memory.items()],
        "tables": _tables(contents),
        "notes": [note.text for note in contents.of_kind(Note)],
        "job": contents.job_text,
    }


def subtitle(contents: RunContents) -> str:
    """Model, mixture, data, time and version in one line."""
    model, mixture, lineage = contents.job.model, contents.mixture, contents.lineage
    parts = [
        model.name if model.closed_form else f"{model.name}, {model.layers} layer{'s' * (model.layers != 1)}, {model.width} wide"
    ]
    parts += [f"mixture of {mixture.name}"] if mixture and mixture.partners else []
    parts += [lineage.data.name, _moment(lineage.created)]
    parts += [f"gcnrec {lineage.gcnrec.version} {lineage.gcnrec.commit[:10]}".strip()] if lineage.gcnrec.version else []
    return " · ".join(part for part in parts if part)


def headline(contents: RunContents) -> list[dict[str, str]]:
    """The figures at the top: `name`, `value`, and a `detail` such as an interval."""
    values = contents.metrics.values
    figures = [
        {"name": name, "value": f"{values[name]:.4f}", "detail": _interval(contents, name)}
        for name in dict.fromkeys((*HEADLINE, contents.headline))
        if name in values
    ]
    for stage in STAGES:
        for last in contents.epochs(stage)[-1:]:
            detail = "1 epoch" if last.epoch == 1 else f"{last.epoch} epochs"
            figures.append({"name": f"{stage} time", "value": duration(last.seconds, 1), "detail": detail})
    rates = [epoch.rows_per_second for epoch in contents.of_kind(Epoch) if epoch.rows_per_second]
    if rates:
        figures.append({"name": "throughput", "value": f"{sum(rates) / len(rates):,.0f}", "detail": "rows per second"})
    if "values" in contents.memory:
        bytes_stored = size(contents.memory.get("value_bytes", 0))
        figures.append({"name": "stored values", "value": f"{contents.memory['values']:,}", "detail": bytes_stored})
    return figures


_BUDGET = {
    "budget_values", "values", "values_max_seen", "value_bytes", "index_bytes", "state_bytes", "peak_table_bytes", "served_bytes",
}  # fmt: skip
"""Counts of memory.json that the budget's table shows."""


def _budget(contents: RunContents) -> list[tuple[str, str, str]]:
    """Values of a sparse table by its budget, and its bytes by a dense table; nothing for a dense table."""
    memory = contents.memory
    if contents.job.model.closed_form or not contents.job.is_sparse or not memory.get("dense_bytes") or _BUDGET - memory.keys():
        return []

    def values(name: str, key: str) -> tuple[str, str, str]:
        return name, f"{memory[key]:,}", f"{memory[key] / max(memory['budget_values'], 1):.1%} of the budget"

    def held(name: str, key: str) -> tuple[str, str, str]:
        return name, size(memory[key]), f"{memory[key] / memory['dense_bytes']:.1%} of a dense table"

    return [
        ("budget", f"{memory['budget_values']:,}", ""),
        values("stored values", "values"),
        values("most values ever stored", "values_max_seen"),
        held("bytes of values", "value_bytes"),
        held("bytes of positions", "index_bytes"),
        held("bytes of optimizer state", "state_bytes"),
        held("most bytes held: table, state and explorations", "peak_table_bytes"),
        held("a dense table of the base width, with its state", "dense_bytes"),
        ("embeddings served", size(memory["served_bytes"]), ""),
    ]


def _valid_row(contents: RunContents, baseline: ValidBaseline) -> dict[str, str]:
    """A baseline and the best epoch on validation; only `why` where it was skipped."""
    if baseline.skipped:
        return {"name": baseline.name, "why": baseline.skipped}
    return {
        "name": baseline.name,
        "why": "",
        "users": f"{baseline.users:,}",
        "value": "".join(cells(contents.job.evaluate.metric, [baseline.metrics])),
        "own": f"{baseline.own:.4f}",
        "difference": f"{baseline.difference:+.4f}",
        "interval": f"{baseline.low:+.4f} to {baseline.high:+.4f}",
        "seconds": f"{baseline.seconds:.1f} s",
    }


def _tables(contents: RunContents) -> list[dict[str, Any]]:
    tables = [
        _since_earlier(contents),
        {"title": "Mixture", "rows": _flat(contents.document(MIXTURE))},
        {"title": "Lineage", "rows": _flat(contents.document(LINEAGE))},
    ]
    return [table for table in tables if table["rows"]]


def _since_earlier(contents: RunContents) -> dict[str, Any]:
    """Rows added, and what differs from the run that this one continues; no rows without such a run."""
    earlier, rows = contents.job.train.init_from, []
    if earlier and all((folder / LINEAGE).is_file() for folder in (Path(earlier), contents.folder)):
        for change in changes(Path(earlier), contents.folder):
            name, before, now, added = changed(change)
            rows.append((f"{change.kind}: {name}", f"{before} \N{RIGHTWARDS ARROW} {now}" + (f" ({added})" if added else "")))
    return {"title": f"Since {earlier}", "rows": rows}


def _interval(contents: RunContents, name: str) -> str:
    interval = contents.metrics.intervals.get(name)
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def _flat(nested: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Leaves of nested JSON as (dotted path, text); lists of plain values stay together."""
    if isinstance(nested, dict):
        return [leaf for key, value in nested.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(nested, list):
        return [(prefix, ", ".join(map(_leaf, nested)))]
    return [(prefix, _leaf(nested))]


def _leaf(value: Any) -> str:
    """A value as text; of a number with a fraction six digits, which is more than metrics and weights mean."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _moment(iso: str) -> str:
    """An ISO time in UTC as text."""
    return iso.replace("T", " ").replace("+00:00", " UTC")
