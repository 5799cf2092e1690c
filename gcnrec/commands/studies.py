"""Commands over several runs: backtest, compare, sweep, tune."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcnrec.commands.observed import LogJson, observing
from gcnrec.console import output
from gcnrec.console.arguments import (
    AsJson,
    DataFolder,
    DataRoot,
    IngestAgain,
    JobFile,
    Overrides,
    Replace,
    count,
    integer,
    place_or_address,
    place_to_write,
    source_or_address,
)
from gcnrec.errors import UsageError
from gcnrec.extensions.load import require
from gcnrec.system.signals import working

if TYPE_CHECKING:
    from gcnrec.config.grid import Grid


def backtest(
    job: JobFile,
    cuts: Annotated[int, typer.Option(metavar="N", parser=count, help="Test windows.")] = 4,
    every: Annotated[str, typer.Option(metavar="SPAN", help="Length of a window: 7d, 12h, 2w.")] = "7d",
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=place_to_write, help="The folder to write; default runs/<job>-backtest.")
    ] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Train and evaluate a job at several moments in time; write DIR/backtest.html. The same command continues."""
    from gcnrec.config import Job
    from gcnrec.loaders.on_demand import DataRequest
    from gcnrec.pipeline import backtest_job
    from gcnrec.reports.text import backtest_lines
    from gcnrec.results.backtest import Windows, seconds_of

    settings, windows = Job.load(job, set_), Windows(cuts, seconds_of(every))
    folder = out or Path("runs") / f"{job.stem}-backtest"
    with observing(as_json, log_json, settings.evaluate.metric) as observer:
        found = backtest_job(settings, DataRequest(settings.data, job, None, data_root), windows, folder, observer)
    output.show(asdict(found) if as_json else [*backtest_lines(found), f"{folder}  (open {folder / 'backtest.html'})"])


def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", parser=source_or_address, help="The run to compare with.")],
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", parser=source_or_address, help="Runs, or files of 'evaluate --lists'.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", parser=place_or_address, help="Also write a page with forest plots.")
    ] = None,
    force: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Differences per metric with paired bootstrap intervals and Holm's p-values; same data and users or refused."""
    from gcnrec.reports.studies.comparison import ComparisonPage
    from gcnrec.reports.text import comparison_lines
    from gcnrec.results.compare import compare_runs as contrast
    from gcnrec.results.given.lists import open_judged
    from gcnrec.runs.folder import open_run

    if force and out is None:
        raise UsageError("--force belongs to --out, the page that it replaces; add it, or leave --force out")
    with observing(as_json) as observer:
        page = None if out is None else ComparisonPage(out, force)
        if base.is_file():
            raise UsageError(f"the first argument must be a run, {base} is a file; name the run that the lists were judged by")
        others = [open_judged(run) if run.is_file() or run.suffix == ".parquet" else open_run(run, observer) for run in runs]
        comparison = contrast(open_run(base, observer), others)
        if page is not None:
            page.write(comparison)
    where = [] if page is None else ["", f"{page.path}  (open it in a browser)"]
    output.show(asdict(comparison) if as_json else [*comparison_lines(comparison), *where])


def sweep(
    grid: Annotated[Path, typer.Argument(metavar="GRID.toml", help="The grid file.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", parser=place_to_write, help="Where the runs and their summary go; again to continue.")
    ],
    data: DataFolder = None,
    data_root: DataRoot = None,
    set_: Overrides = None,
    jobs: Annotated[int, typer.Option(metavar="N", parser=count, help="Runs at a time, each on its share of the cores.")] = 1,
    force: IngestAgain = False,
    log_json: LogJson = False,
) -> None:
    """Train every combination of a grid; write DIR/sweep.parquet, curves.parquet and sweep.html, skip what is finished.

    A grid file is a job file, or names one, with lists and bundles of settings:

    \b
      job = "gowalla.toml"                  # next to this file; sections below change its keys
      compare = "dynamic"                   # the variant to compare with, or its first; default the first of all
      [train]
      refit = false
      [grid]                                # every combination of these ...
      table.budget = [0.5, 0.25]
      train.seed = [0, 1, 2]
      [variants.dynamic]                    # ... once per variant
      sparsity.policy = "dynamic"
      [variants.thin]
      table.budget = 1.0
      "table.budget=0.5".model.width = 32   # only where the grid's table.budget is 0.5
      "table.budget=0.25".model.width = 16

    A run that fails does not stop the others; the exit code is then the highest of theirs.
    """
    from gcnrec.loaders.on_demand import DataRequest
    from gcnrec.pipeline import begun_or_ingested
    from gcnrec.reports.progress import runs_reported
    from gcnrec.sweep import sweep as train_all

    plan = _planned(grid, set_)
    with observing(False, log_json) as observer:
        request = DataRequest(plan.runs[0].job.data, plan.job_path, data, data_root, force)
        dataset = begun_or_ingested(request, [out / "runs" / run.name for run in plan.runs], observer)
    with working(), runs_reported(len(plan.runs), log_json) as report:
        ended = train_all(plan, dataset.folder, out, report=report, jobs=jobs)
    failed = [one for one in ended if one.code]
    output.show([f"{len(ended) - len(failed)} of {len(ended)} runs finished", f"{out}  (open {out / 'sweep.html'})"])
    if failed:
        output.end_with_failed(
            max(one.code for one in failed), f"{len(failed)} of {len(ended)} runs failed", out / "logs", log_json
        )


def _planned(grid: Path, set_: list[str] | None) -> Grid:
    """The runs of a grid, whose classes of other packages can be made."""
    from gcnrec.config.grid import load_grid

    plan = load_grid(grid, set_)
    require(own for run in plan.runs for own in run.job.own)
    return plan


def tune(
    job: JobFile,
    trials: Annotated[int | None, typer.Option(metavar="N", parser=count, help="Trainings in all; 30 by default.")] = None,
    sampler: Annotated[str | None, typer.Option(metavar="tpe|random|grid", help="What proposes settings.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", parser=integer, help="Seed of the search.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=place_to_write, help="The folder to write; default runs/<job>-tune.")
    ] = None,
    data: DataFolder = None,
    data_root: DataRoot = None,
    set_: Overrides = None,
    jobs: Annotated[int | None, typer.Option(metavar="N", parser=count, help="Trials at a time; as many as cores.")] = None,
    force: IngestAgain = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Search the settings of a job by validation; write DIR/best.toml and tune.html. The same command continues.

    The job file says what to search:

    \b
      [tune.space]
      optimizer.learning_rate = { low = 1e-4, high = 1e-2, log = true }
      model.layers = [1, 2, 3]

    Trials do not refit and never read test data. A trial ends early where it is below the median of earlier trials.
    """
    from gcnrec.config.tuning import load_search
    from gcnrec.loaders.on_demand import DataRequest, open_or_ingest
    from gcnrec.reports.progress import trials_reported
    from gcnrec.reports.text import search_lines
    from gcnrec.system.machine import available_cores
    from gcnrec.tuning.propose import require_sampler, total
    from gcnrec.tuning.search import tune as searched

    search = load_search(job, set_ or [], {"trials": trials, "sampler": sampler, "seed": seed})
    require_sampler(search.settings.sampler)
    require(search.job.own)
    folder = out or Path("runs") / f"{job.stem}-tune"
    with observing(as_json, log_json) as observer:
        dataset = open_or_ingest(DataRequest(search.job.data, job, data, data_root, force), observer)
    with working(), trials_reported(total(search), log_json) as report:
        study = searched(search, dataset.folder, folder, report=report, jobs=jobs or available_cores())
    where = [f"{folder / 'best.toml'}  (open {folder / 'tune.html'})"]
    output.show(study.summary if as_json else [*search_lines(study.summary, study.metric), *where])


COMMANDS = (backtest, compare, sweep, tune)
"""In the order of the help."""
