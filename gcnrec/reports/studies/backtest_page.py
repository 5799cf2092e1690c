"""`backtest.html`: the windows of a backtest as a forest plot, sentences and a table."""

from __future__ import annotations

import math
from pathlib import Path

from gcnrec.reports import charts
from gcnrec.reports.page import write_page
from gcnrec.reports.seed_statistics import Estimate
from gcnrec.results.backtest import Backtest, Cut

PAGE = "backtest.html"


def write_backtest_page(found: Backtest, folder: Path) -> Path:
    """Write the page about a backtest into its folder, replacing an earlier one, and return its path."""
    names = [_window(cut) for cut in found.cuts]
    points = [Estimate(cut.value, _known(cut.low), _known(cut.high), cut.users) for cut in found.cuts]
    svg = charts.forest(names, [charts.Spans(found.metric, points)], f"{found.metric}; dotted: mean", found.mean)
    said = "; ".join(f"{name} {cut.value:.4f}" for name, cut in zip(names, found.cuts, strict=True))
    content = {
        "name": folder.name,
        "metric": found.metric,
        "count": len(found.cuts),
        "mean": f"{found.mean:.4f}",
        "said": _said(found),
        "charts": [
            {"title": f"Test {found.metric} of each window", "svg": svg, "alt": f"Test {found.metric}: {said}"},
            *_growth(found),
        ],
        "rows": [_row(cut) for cut in found.cuts],
    }
    return write_page("backtest.html.j2", content, folder / PAGE)


def _growth(found: Backtest) -> list[dict[str, str]]:
    """Interactions that each window was trained on; nothing for a single window."""
    if len(found.cuts) < 2:
        return []
    curve = charts.Curve("train", list(range(1, len(found.cuts) + 1)), [float(cut.train) for cut in found.cuts])
    return [{"title": "Interactions of train", "svg": charts.lines([curve], "window", "interactions", "count")}]


def _said(found: Backtest) -> list[str]:
    """The range over windows, and what a mean over few of them says."""
    best, worst = (choose(found.cuts, key=lambda cut: cut.value) for choose in (max, min))
    if len(found.cuts) == 1:
        return [f"{found.metric} is {found.mean:.4f} in one window; more windows (--cuts) say what holds over time."]
    return [
        f"{found.metric} is {found.mean:.4f} in the mean of {len(found.cuts)} windows, from {worst.value:.4f} (test from "
        f"{_moment(worst.test_from)}) to {best.value:.4f} (test from {_moment(best.test_from)}).",
        "Intervals speak about users of one window; the spread of windows speaks about time.",
    ]


def _row(cut: Cut) -> list[str]:
    interval = f"{cut.low:.4f} to {cut.high:.4f}" if cut.low is not None and cut.high is not None else ""
    return [_moment(cut.test_from), _moment(cut.test_until), f"{cut.train:,}", f"{cut.users:,}", f"{cut.value:.4f}", interval]


def _window(cut: Cut) -> str:
    """When the test of a window begins: the day, and the hour where it is another than midnight."""
    day, hour = cut.test_from[:10], cut.test_from[11:16]
    return day if hour == "00:00" else f"{day} {hour}"


def _moment(iso: str) -> str:
    """An ISO time in UTC as text."""
    return iso.replace("T", " ").replace("+00:00", " UTC")


def _known(bound: float | None) -> float:
    return math.nan if bound is None else bound
