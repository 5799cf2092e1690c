"""Metrics by groups: what training saw and what it did not, segments of users, and values of an attribute of items."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from gcnrec.ranking.metrics import measured
from gcnrec.reports import charts
from gcnrec.reports.run_charts import Chart
from gcnrec.reports.sections.titles import shown_text
from gcnrec.reports.seed_statistics import Estimate
from gcnrec.reports.text import HEADLINE
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import Baseline

Table = dict[str, Any]
"""`title`, `heads` as (text, whether numbers), and `rows` of texts."""
_GROUPS = {
    "warm": "user and item seen, among all items",
    "warm_apart": "user and item seen, among seen items",
    "cold_items": "item not seen, among all items",
    "cold_items_apart": "item not seen, among such items",
    "cold_users": "user not seen, among all items",
    "new": "pair not met by any behaviour, among items not met",
    "repeats": "pair that the user took before, among all items",
    "pending": "pair met by another behaviour and not taken before, among all items",
}
_IN_SHORT = {
    "warm": "seen, among all items",
    "warm_apart": "seen, among seen items",
    "cold_items": "new item, among all items",
    "cold_items_apart": "new item, among new items",
    "cold_users": "new user, among all items",
    "new": "new pair",
    "repeats": "taken before",
    "pending": "met, not taken",
}
_MOST_SEGMENTS = 40
"""Segments that have a row."""
_COLD = ("cold_items", "cold_users")


def cells(name: str, others: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metric of each baseline; "" where it was not measured."""
    return [f"{values[name]:.4f}" if name in values else "" for values in map(measured, others)]


def cold_section(contents: RunContents) -> dict[str, Any]:
    """`rows` of metrics by kind of held-out pair, a `words` sentence and `charts`; rows are empty where no kind was counted."""
    return {"rows": _cold_rows(contents), "words": _cold_words(contents), "charts": _cold_charts(contents)}


def _cold_rows(contents: RunContents) -> list[dict[str, Any]]:
    """Metrics of the run and its baselines by kind of held-out pair: of cold nodes, new, repeated, pending."""
    others = [baseline.cold_start for baseline in contents.of_kind(Baseline)]
    rows = []
    for group, values in contents.metrics.cold_start.items():
        for name, value in measured(values).items():
            share = values.get("share")
            words = _GROUPS.get(group, group) + (f" ({share:.1%} of all pairs)" if share is not None else "")
            about = {"group": words, "users": f"{values['users']:,.0f}"}
            of_baselines = cells(name, [cold.get(group, {}) for cold in others])
            rows.append({**about, "name": name, "value": f"{value:.4f}", "baselines": of_baselines})
    return rows


def _cold_words(contents: RunContents) -> str:
    """The headline metric of what training saw next to that of new items and users, in a sentence; "" without both."""
    metric, groups = contents.headline, contents.metrics.cold_start
    found = {group: value for group, values in groups.items() if (value := measured(values).get(metric)) is not None}
    new = [f"{found[group]:.4f} where the {group[5:-1]} is new to it" for group in _COLD if group in found]
    if "warm" not in found or not new:
        return ""
    return f"{metric} is {found['warm']:.4f} for pairs of users and items that training saw, and {', '.join(new)}."


def _cold_charts(contents: RunContents) -> list[Chart]:
    """The headline metric by kind of pair, of the run and its baselines."""
    metric = contents.headline
    groups = {group: measured(values) for group, values in contents.metrics.cold_start.items()}
    wanted = [group for group, values in groups.items() if metric in values]
    if len(wanted) < 2:
        return []
    sources = {"this run": groups} | {each.name: each.cold_start for each in contents.of_kind(Baseline)}
    series = [
        charts.Spans(name, [_point(measured(found.get(group, {})).get(metric)) for group in wanted])
        for name, found in sources.items()
    ]
    svg = charts.forest([_IN_SHORT.get(group, group) for group in wanted], series, metric)
    return [{"title": f"{metric} by what training saw", "svg": svg}]


def _point(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value, math.nan, math.nan, 1)


def group_tables(contents: RunContents) -> list[Table]:
    """A table of segments, and one per attribute, as far as an evaluation was asked for them."""
    metrics = contents.metrics
    tables = [_segments(contents)] if metrics.segments else []
    return tables + [_attribute(name, rows) for name, rows in metrics.per.items() if rows]


def _segments(contents: RunContents) -> Table:
    """A row per segment of users, with metrics of the headline; of many segments, those with the most users."""
    found = contents.metrics.segments
    largest = sorted(found, key=lambda segment: -(found[segment].get("users") or 0))[:_MOST_SEGMENTS]
    first = found[largest[0]]
    names = [name for name in dict.fromkeys((*HEADLINE, contents.headline)) if name in first] or list(measured(first))[:2]
    rows = [
        [
            shown_text(segment),
            f"{found[segment].get('users') or 0:,.0f}",
            *("".join(cells(name, [found[segment]])) for name in names),
        ]
        for segment in largest
    ]
    of_all = f", the largest {len(rows)} of {len(found):,}" if len(found) > len(rows) else ""
    heads = [("segment", False), *((name, True) for name in ("users", *names))]
    return {"title": f"By segment of users{of_all}", "heads": heads, "rows": rows}


def _attribute(attribute: str, found: list[dict[str, Any]]) -> Table:
    """A row per value of an attribute of items, with recall."""
    names = [name for name in found[0] if name.startswith("recall@")]
    rows = []
    for row in found:
        value = "(none)" if row.get("value") is None else shown_text(row["value"])
        counts = [f"{row.get(name) or 0:,}" for name in ("items", "pairs")]
        rows.append([value, *counts, *("".join(cells(name, [row])) for name in names)])
    heads = [(shown_text(attribute), False), *((name, True) for name in ("items", "held-out pairs", *names))]
    return {"title": f"Recall by {shown_text(attribute)} of the items", "heads": heads, "rows": rows}
