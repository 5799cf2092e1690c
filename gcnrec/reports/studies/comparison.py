"""The page of `gcnrec compare --out FILE.html`: runs less a base run, as forest plots, sentences and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from gcnrec.errors import UsageError
from gcnrec.ranking.metrics import PER_USER, split_name
from gcnrec.reports import charts
from gcnrec.reports.page import write_page
from gcnrec.reports.run_charts import Chart
from gcnrec.reports.seed_statistics import Estimate
from gcnrec.reports.text import HEADLINE
from gcnrec.results.compare import Comparison, Difference
from gcnrec.results.outputs import Output

_LEVEL = 0.05
"""A difference counts where Holm's p-value is below."""


@dataclass(frozen=True)
class ComparisonPage:
    """Where the page goes. UsageError for a name that does not end in .html, and as of `Output`."""

    path: Path
    force: bool = False

    def __post_init__(self) -> None:
        if self.path.suffix.lower() != ".html":
            raise UsageError(f"--out of compare is a page, {self.path} must end in .html; rename it")
        Output(self.path, self.force)

    def write(self, comparison: Comparison) -> Path:
        """Write the page, and return its path."""
        names = _names([comparison.base, *dict.fromkeys(row.run for row in comparison.rows)])
        content = {
            "name": f"Compared with {names[comparison.base]}",
            "split": comparison.split,
            "users": f"{comparison.num_users:,}",
            "test": comparison.test,
            "base": comparison.base,
            "said": _said(comparison.rows, names),
            "charts": _drawn(comparison.rows, names, comparison.num_users),
            "rows": [_row(row) for row in comparison.rows],
        }
        return write_page("compare.html.j2", content, self.path)


def _names(paths: Sequence[str]) -> dict[str, str]:
    """What each run is called: the last part of its path, or the whole path where two share that."""
    last = [PurePath(path).name or path for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def _said(rows: Sequence[Difference], names: dict[str, str]) -> list[str]:
    """A sentence per run on its first headline metric."""
    said = []
    for run in dict.fromkeys(row.run for row in rows):
        of_run = {row.metric: row for row in rows if row.run == run}
        row = of_run[next((name for name in HEADLINE if name in of_run), next(iter(of_run)))]
        figures = f"{row.difference:+.4f}, 95% interval {row.low:+.4f} to {row.high:+.4f}, p {row.p_holm:.4f} after Holm"
        verdict = "is not shown to differ"
        if row.p_holm < _LEVEL:
            verdict = "is better" if row.difference > 0 else "is worse"
        said.append(f"{names[run]} {verdict} in {row.metric}: {figures}.")
    return said


def _drawn(rows: Sequence[Difference], names: dict[str, str], users: int) -> list[Chart]:
    """A forest plot per list length: a row per metric from 0 to 1, a series per run."""
    drawn = []
    runs = list(dict.fromkeys(row.run for row in rows))
    found = {(row.run, row.metric): row for row in rows}
    metrics = [split_name(metric) for metric in dict.fromkeys(row.metric for row in rows)]
    for k in sorted({metric.k for metric in metrics}):
        kinds = [metric.kind for metric in metrics if metric.k == k and metric.kind in PER_USER]
        if not kinds:
            continue
        series = [charts.Spans(names[run], [_estimate(found.get((run, f"{kind}@{k}")), users) for kind in kinds]) for run in runs]
        svg = charts.forest([f"{kind}@{k}" for kind in kinds], series, "difference, with 95% interval", 0.0)
        drawn.append({"title": f"Lists of {k}", "svg": svg, "alt": f"Differences in metrics of lists of {k}; the table has them"})
    return drawn


def _estimate(row: Difference | None, users: int) -> Estimate | None:
    return None if row is None else Estimate(row.difference, row.low, row.high, users)


def _row(row: Difference) -> list[str]:
    figures: tuple[Any, ...] = (f"{row.base:.4f}", f"{row.value:.4f}", f"{row.difference:+.4f}")
    return [row.run, row.metric, *figures, f"{row.low:+.4f} to {row.high:+.4f}", f"{row.p_value:.4f}", f"{row.p_holm:.4f}"]
