"""Results as lines of text; `gcnrec.commands` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gcnrec.config.toml import as_toml
from gcnrec.errors import shown
from gcnrec.ranking.metrics import measured, split_name
from gcnrec.reports.figures import plain

if TYPE_CHECKING:
    from gcnrec.results.backtest import Backtest
    from gcnrec.results.compare import Comparison
    from gcnrec.runs.changes import Change

HEADLINE = ("recall@20", "ndcg@20")
_COUNTS = ("users", "pairs")
_WIDEST = 110
"""Characters of a line of a table, and of a list of texts on one line."""


def metric_lines(metrics: dict[str, Any]) -> list[str]:
    """Metrics by name and list length, intervals of the headline ones, then segments and attributes, if there are any."""
    names = [split_name(name) for name in measured(metrics)]
    lengths = sorted({name.k for name in names})
    kinds = list(dict.fromkeys(name.kind for name in names))
    head = (f"{metrics['split']} split" if "split" in metrics else "", *(f"@{k}" for k in lengths))
    cells = [[f"{metrics[name]:.4f}" if (name := f"{kind}@{k}") in metrics else "" for k in lengths] for kind in kinds]
    lines = columns([head, *((kind, *row) for kind, row in zip(kinds, cells, strict=True))]) if names else []
    for name, (low, high) in metrics.get("intervals", {}).items():
        if name in HEADLINE:
            lines.append(f"{name}  {metrics[name]:.4f}, 95% interval {low:.4f} to {high:.4f}")
    lines += [f"{key}  {metrics[key]}" for key in ("export", "mixture", "seen") if key in metrics]
    if "sampled_from" in metrics:
        lines.append(f"sample: {metrics['users']:,} of {metrics['sampled_from']:,} users with held-out items")
    if metrics.get("users_without_list"):
        lines.append(f"without a list: {metrics['users_without_list']:,} of {metrics['users']:,} users, who have zeros")
    lines += [f"dropped: {count:,} {key.replace('_', ' ')}" for key, count in metrics.get("dropped", {}).items()]
    for group, values in metrics.get("cold_start", {}).items():
        share = f", {values['share']:.1%} of all" if "share" in values else ""
        lines += ["", f"{group}: {values['users']:,.0f} users, {values['pairs']:,.0f} pairs{share}", *metric_lines(values)]
    for segment, values in metrics.get("segments", {}).items():
        lines += ["", f"segment {_on_one_line(segment)}: {values['users']:,} users", *metric_lines(values)]
    for attribute, rows in metrics.get("per", {}).items():
        lines += ["", *_recall_lines(attribute, rows)]
    return lines


def _recall_lines(attribute: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Recall by the values of an attribute: a line for each value, with its items and held-out pairs."""
    recalls = [name for name in rows[0] if name.startswith("recall@")]
    cells = [(attribute, "items", "pairs", *recalls)]
    for row in rows:
        value = "(none)" if row["value"] is None else row["value"]
        value = f"{value} ({row['values']:,} values)" if row["values"] > 1 else value
        recall = ["" if row[name] is None else f"{row[name]:.4f}" for name in recalls]
        cells.append((value, f"{row['items']:,}", f"{row['pairs']:,}", *recall))
    return columns(cells)


def search_lines(summary: dict[str, Any], metric: str) -> list[str]:
    """What a search has found."""
    lines = [f"{summary['trials']} trials, {summary['pruned']} ended early, {summary['failed']} failed"]
    if "best" in summary:
        lines.append(f"best: trial {summary['best']}, validation {metric} {summary[metric]:.4f} after epoch {summary['epoch']}")
        lines += [f"  {key} = {_setting(value)}" for key, value in summary["params"].items()]
    return lines


def _setting(value: Any) -> str:
    """A value as a job file has it, four digits of a number with a fraction."""
    return f"{value:.4g}" if isinstance(value, float) else as_toml(value)


def dataset_lines(info: dict[str, Any]) -> list[str]:
    """Sizes of a dataset, and what ingestion counted other than zero; its sentences are reported while it works."""
    sizes = [(key, plain(value)) for key, value in info.items() if key == "name" or key.startswith("num_")]
    report = [(key, plain(value)) for key, value in info.get("report", {}).items() if value and key != "lines"]
    return [*columns(sizes), *(["", "report", *columns(report)] if report else [])]


def comparison_lines(comparison: Comparison) -> list[str]:
    """A table per run: the metric, both values, the difference with its interval, Holm's p-value."""
    lines = [f"base {comparison.base}, {comparison.split} split, {comparison.num_users:,} users; {comparison.test}"]
    for run in dict.fromkeys(row.run for row in comparison.rows):
        cells = [("metric", "base", "value", "difference", "95% interval", "p (Holm)")]
        for row in comparison.rows:
            if row.run == run:
                interval = f"{row.low:+.4f} to {row.high:+.4f}"
                figures = (f"{row.base:.4f}", f"{row.value:.4f}", f"{row.difference:+.4f}", interval, f"{row.p_holm:.4f}")
                cells.append((row.metric, *figures))
        lines += ["", run, *columns(cells)]
    return lines


def backtest_lines(found: Backtest) -> list[str]:
    """A row per test window, and the mean of the metric over windows."""
    cells = [("test from", "until", "train", "users", found.metric, "95% interval")]
    for cut in found.cuts:
        interval = f"{cut.low:.4f} to {cut.high:.4f}" if cut.low is not None and cut.high is not None else ""
        cells.append((cut.test_from, cut.test_until, f"{cut.train:,}", f"{cut.users:,}", f"{cut.value:.4f}", interval))
    return [*columns(cells), f"mean {found.metric} of {len(found.cuts)} windows: {found.mean:.4f}"]


def change_lines(earlier: str, found: Sequence[Change]) -> list[str]:
    """A table per kind of change: the name, the value before and now, and for counts the difference."""
    lines = [f"since {earlier}"]
    for kind in dict.fromkeys(change.kind for change in found):
        lines += ["", kind, *columns([("", "before", "now", ""), *(changed(each) for each in found if each.kind == kind)])]
    return lines


def changed(change: Change) -> tuple[str, str, str, str]:
    """The cells of a change: its name, both values, and what was added."""
    before, now = change.before, change.now
    added = f"{now - before:+,}" if isinstance(before, int) and isinstance(now, int) else ""
    return change.name, plain(before), plain(now), added


def figure_lines(facts: dict[str, Any]) -> list[str]:
    """Any figures: nested sections become headings, records a table, sentences lines, long lists their length.

    An empty section is left out.
    """
    facts = {key: value for key, value in facts.items() if value != {}}
    flat = [(key, _figure(key, value)) for key, value in facts.items() if not (_is_section(value) or _are_sentences(value))]
    lines = columns(flat)
    for key, value in facts.items():
        if _are_sentences(value):
            lines += ["", key, *(f"  {_on_one_line(each)}" for each in value)]
        elif _is_section(value):
            parts = value if isinstance(value, list) else [value]
            tables = [_table(parts)] if len(parts) > 1 and _are_records(parts) else [figure_lines(part) for part in parts]
            for table in tables:
                lines += ["", key, *(f"  {line}" for line in table)]
    return lines[1:] if lines and not lines[0] else lines


def _figure(key: str, value: Any) -> str:
    """A value as text; a count that averages made a float is whole again."""
    return plain(int(value) if key in _COUNTS and isinstance(value, float) and value.is_integer() else value)


def _table(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line of names, then a line for each record; `-` where a record lacks a value."""
    names = tuple(dict.fromkeys(name for record in records for name in record))
    return columns([names, *(tuple(_figure(name, record.get(name)) for name in names) for record in records)])


def _are_records(parts: Sequence[dict[str, Any]]) -> bool:
    """Whether sections are short and flat enough for a table."""
    return not any(_is_section(value) for part in parts for value in part.values()) and max(map(len, _table(parts))) <= _WIDEST


def _are_sentences(value: Any) -> bool:
    """Whether a list holds texts that are too long for one line."""
    is_texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return is_texts and len(value) > 1 and sum(map(len, value)) > _WIDEST and any(" " in each for each in value)


def bench_line(row: dict[str, Any]) -> str:
    """One row of a bench."""
    if not row.get("summary"):
        rate = row["rate"] or 0.0
        used = _of_workers(row) if "workers" in row else f"{row['peak_bytes'] / 2**20:>9.1f} MiB"
        return f"{row['bench']}  {row['variant']:<28} {row['seconds'] * 1e3:>11.2f} ms {rate:>14,.0f} /s {used}"
    if "left_out" in row:
        return f"{row['bench']}  {row['left_out']}"
    speedup = "unknown" if row["speedup"] is None else f"{row['speedup']:.2f}x"
    by_cpu = f", by CPU seconds of a worker {row['cpu_speedup']:.2f}x" if "cpu_speedup" in row else ""
    absent = f"; absent: {', '.join(row['absent'])}" if row["absent"] else ""
    return f"{row['bench']}  {row['ours']} against {row['best_peer']}: {speedup}{by_cpu}{absent}"


def _of_workers(row: dict[str, Any]) -> str:
    """What several workers use for a step: CPU of one and of all, and bytes that travel, where they are known."""
    sent = "" if row["bytes_exchanged"] is None else f" {row['bytes_exchanged'] / 1e6:>8.2f} MB sent"
    return f"{row['cpu_seconds_a_worker'] * 1e3:>9.1f} CPU ms a worker {row['cpu_seconds'] * 1e3:>9.1f} in all{sent}"


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows of cells as aligned lines; a cell with a line break or a control character has it escaped."""
    table = [tuple(_on_one_line(str(cell)) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else shown(text)


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))
