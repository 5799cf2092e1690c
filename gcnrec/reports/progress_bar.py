"""Progress on a terminal: bars with the time that is left, finished epochs as lines above them. Everything goes to stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gcnrec.reports.figures import Remaining, figures, rate
from gcnrec.system.observer import Observer

if TYPE_CHECKING:
    from gcnrec.reports.trials import Ended, ReportEnded


_BAR_WIDTH = 12
"""Leaves room for the figures in 80 columns."""


class Bar(Observer):
    """A bar over the steps of the current epoch, and one over other long work while there is some."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(_BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn("{task.fields[about]}"),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
        )
        self._training = self.progress.add_task("", total=None, about="", left="", visible=False)
        self._work = self.progress.add_task("", total=None, about="", left="", visible=False)
        self._left, self._work_left = Remaining(time.monotonic), Remaining(time.monotonic)
        self._what = ""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        self.progress.update(
            self._training,
            description=f"epoch {epoch}/{epochs}",
            completed=step,
            total=steps,
            about=f"loss {loss:.4f}  {rate(rows_per_second)}",
            left=self._left.after("training", (epoch - 1) * steps + step, epochs * steps).strip(),
            visible=True,
        )

    def epoch(self, record: dict[str, Any]) -> None:
        line = f"{record.get('stage', 'fit')} epoch {record['epoch']}  {figures(record, self._metric)}"
        self._console.print(line, markup=False)

    def work(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what = what
            self.progress.reset(self._work)
        left = self._work_left.after(what, done, total).strip() if total else ""
        going = done < total or not total
        self.progress.update(self._work, description=what, completed=done, total=total or None, left=left, visible=going)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {text}", markup=False, style="yellow")


@contextmanager
def runs_bar(total: int) -> Iterator[ReportEnded]:
    """Reports every run of a sweep that ended as a line; a terminal also shows a bar over the runs."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    left = Remaining(time.monotonic)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, left="")

        def report(ended: Ended, done: int, of: int) -> None:
            took = f"{ended.seconds:,.0f} s" if ended.seconds else "finished before"
            console.print(f"{done}/{of}  {ended.name}  {ended.failure or took}", markup=False)
            bar.update(task, completed=done, left=left.after("runs", done, of).strip())

        yield report
