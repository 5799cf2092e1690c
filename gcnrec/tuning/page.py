"""`tune.html`: one self-contained page about a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcnrec.config.tuning import Range, Space, Value
from gcnrec.reports import charts
from gcnrec.reports.figures import plain
from gcnrec.reports.page import write_page
from gcnrec.tuning.study import Record, Study

_LEAST = 4
"""Judged trials without which the importance of settings says nothing."""


def write_tune_page(study: Study, space: Space, trials: int, path: Path) -> Path:
    """Write the page about a search of so many `trials` to `path`, replacing an earlier one."""
    judged = [(trial, trial.best[1]) for trial in study.ended if trial.best and trial.state != "failed"]
    best = study.best
    content = {
        "name": path.parent.name,
        "metric": study.metric,
        "trials": trials,
        "done": len(study.ended),
        "pruned": sum(trial.state == "pruned" for trial in study.ended),
        "failed": [trial for trial in study.ended if trial.state == "failed"],
        "best": None if best is None else _row(best, space),
        "charts": _drawn(study.metric, judged, space) if judged else [],
        "has_shares": len(judged) >= _LEAST,
        "settings": list(space.dimensions),
        "rows": [_row(trial, space) for trial in sorted(study.ended, key=_rank)],
    }
    return write_page("tune.html.j2", content, path)


def importance(judged: Sequence[tuple[Record, float]], space: Space) -> dict[str, float]:
    """The share of the variance of the metric between groups of each setting's values, 0 to 1 (eta squared; Fisher 1925).

    Values of a list are a group each, those of a range quarters of the trials. Shares of several settings need not add up to 1.
    """
    heights = [value for _, value in judged]
    whole = sum((value - math.fsum(heights) / len(heights)) ** 2 for value in heights)
    found = {}
    for key, dimension in space.dimensions.items():
        groups = _groups([trial.params[key] for trial, _ in judged], dimension)
        between = 0.0
        for members in groups:
            mean = math.fsum(heights[place] for place in members) / len(members)
            between += len(members) * (mean - math.fsum(heights) / len(heights)) ** 2
        found[key] = between / whole if whole else 0.0
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def _groups(values: Sequence[Any], dimension: list[Value] | Range) -> list[list[int]]:
    if not isinstance(dimension, Range):
        groups = [[place for place, value in enumerate(values) if value == one] for one in dimension]
    else:
        order = sorted(range(len(values)), key=lambda place: (values[place], place))
        quarter = math.ceil(len(order) / 4)
        groups = [order[first : first + quarter] for first in range(0, len(order), quarter)]
    return [group for group in groups if group]


def _drawn(metric: str, judged: Sequence[tuple[Record, float]], space: Space) -> list[dict[str, str]]:
    groups = []
    for name, states in (("complete", ("complete",)), ("ended early", ("pruned",))):
        points = [(trial.number, value) for trial, value in judged if trial.state in states]
        if points:
            groups.append(charts.Curve(name, [number for number, _ in points], [value for _, value in points]))
    drawn = [{"title": f"validation {metric} of each trial", "svg": charts.dots(groups, "trial", metric)}]
    if len(judged) >= _LEAST:
        shares = importance(judged, space)
        svg = charts.bars(list(shares), list(shares.values()), "share of the variance", next(iter(shares)))
        drawn.append({"title": "what the metric depends on", "svg": svg})
    axes = [charts.Axis(key, _ticks(dimension)) for key, dimension in space.dimensions.items()]
    lines = [[_share(dimension, trial.params[key]) for key, dimension in space.dimensions.items()] for trial, _ in judged]
    if len(axes) > 1:
        svg = charts.parallel(axes, lines, [value for _, value in judged], "")
        drawn.append({"title": "settings of each trial, the best coloured", "svg": svg})
    return drawn


def _share(dimension: list[Value] | Range, value: Any) -> float:
    """Where a value lies on its axis, 0 to 1."""
    if not isinstance(dimension, Range):
        return dimension.index(value) / max(len(dimension) - 1, 1)
    scale = math.log if dimension.log else float
    return (scale(value) - scale(dimension.low)) / (scale(dimension.high) - scale(dimension.low))


def _ticks(dimension: list[Value] | Range) -> list[tuple[float, str]]:
    values = [dimension.low, dimension.high] if isinstance(dimension, Range) else dimension
    return [(_share(dimension, value), _text(value)) for value in values]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(trial: Record, space: Space) -> dict[str, Any]:
    epoch, value = trial.best or (None, None)
    return {
        "number": trial.number,
        "state": trial.state,
        "epoch": plain(epoch),
        "value": "-" if value is None else f"{value:.4f}",
        "params": [_text(trial.params[key]) for key in space.dimensions],
    }


def _rank(trial: Record) -> tuple[bool, float, int]:
    """Judged trials first, the best on top."""
    return trial.best is None or trial.state == "failed", -(trial.best[1] if trial.best else 0.0), trial.number
