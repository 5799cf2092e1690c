"""A run as notebooks show it at the end of a cell: headline figures and two charts as HTML, without scripts or requests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from gcnrec.reports.page import rendered
from gcnrec.reports.run_charts import compared, learning
from gcnrec.reports.run_report import headline, subtitle
from gcnrec.runs.contents import RunContents
from gcnrec.runs.folder import Run

_CHARTS = 2
_RULES = re.compile(r"<style.*?</style>", re.DOTALL)
"""Matplotlib's rules for all elements: they would hold for the notebook's own drawings, too. The cell has them for its charts."""


def run_cell(folder: Path) -> str:
    """The run of a folder as one HTML element; colours are the page's or read on light and on dark.

    Charts are loss and validation metric by epoch; a run without epochs has comparisons with its baselines in their place.
    DataError where a file of the folder is damaged.
    """
    contents = RunContents(folder)
    content = {
        "name": folder.name,
        "subtitle": subtitle(contents),
        "headline": headline(contents),
        "warnings": contents.warnings,
        "charts": [
            {**chart, "svg": _RULES.sub("", chart["svg"])}
            for chart in islice(chain(learning(contents), compared(contents)), _CHARTS)
        ],
    }
    return rendered("run_cell.html.j2", content)


@dataclass(frozen=True, repr=False)
class ShownRun(Run):
    """A run that a notebook shows as figures and charts."""

    def _repr_html_(self) -> str:
        return run_cell(self.folder)

    @classmethod
    def of(cls, run: Run) -> ShownRun:
        """The same run."""
        return cls(run.folder, run.job, run.lineage, run.dataset)
