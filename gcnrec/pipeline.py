"""Whole commands of the command line as functions that print nothing.

Every stage is a folder on disk: cards and Parquet -> dataset folder -> run folder -> report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnrec.config import Data, Job
from gcnrec.errors import DataError, Taken, UsageError, shown
from gcnrec.extensions.load import require
from gcnrec.storage.places import StrPath, place
from gcnrec.system.observer import SILENT

if TYPE_CHECKING:
    from gcnrec.loaders.on_demand import DataRequest
    from gcnrec.loaders.schema import Dataset
    from gcnrec.reports.run_cell import ShownRun
    from gcnrec.results.backtest import Backtest, Windows
    from gcnrec.runs.folder import Run
    from gcnrec.system.observer import Observer
    from gcnrec.workers.world import World

RUNS = Path("runs")


def train_job(
    job: Job | StrPath, dataset: Dataset | StrPath, out: StrPath, *, resume: bool = False, observer: Observer = SILENT,
    world: World | None = None, progress: bool = False,
) -> ShownRun:  # fmt: skip
    """Train `job`, or the job of a file, on `dataset`, or that of a folder, into the run folder `out`; returns the finished run.

    A notebook shows the run as figures and two charts. `resume` continues where a previous call stopped, to the same results.
    In the main thread, Ctrl-C and SIGTERM finish the current step and save a checkpoint, then raise KeyboardInterrupt or
    Terminated; a second signal raises at once. `progress` shows a bar. `world`: the workers that train together, which this
    process leads, as `gcnrec.training.train.train` has them; default this process alone.
    Raises UsageError when `out` exists (or, resuming, was made by another job), or is being written by another process,
    DivergedError at a loss that is not finite.
    """
    from gcnrec.loaders.schema import opened
    from gcnrec.reports.progress import watched
    from gcnrec.reports.run_cell import ShownRun
    from gcnrec.training.train import train

    given = job if isinstance(job, Job) else Job.load(job)
    require(given.own)
    with watched(progress, observer, given.evaluate.metric) as heard:
        return ShownRun.of(train(given, opened(dataset), place(out), resume=resume, observer=heard, world=world))


def run_job(
    job: Job, data: DataRequest, out: Path | None, resume: bool, observer: Observer, world: World | None = None
) -> tuple[dict[str, Any], Path]:
    """Ingest if needed, train, evaluate the run and the baselines on test, report; returns metrics and the report's path.

    `world`: the workers that train together, which this process leads; default this process alone.

    The report lies in the run folder, which is `out`, or as `run_folder` has it.
    """
    from gcnrec.reports.run_report import write_report
    from gcnrec.results.evaluate import evaluate_run, measure_baselines
    from gcnrec.runs.events import observed_by
    from gcnrec.runs.folder import writing
    from gcnrec.system.signals import stops
    from gcnrec.training.train import train

    require(job.own)
    name = job.run.name or data.job_path.stem
    folder = run_folder(RUNS, name, out, resume)
    dataset = begun_or_ingested(data, [folder] if resume else [], observer)
    if not len(dataset.test):  # known before the hours that training takes
        raise DataError(
            f"{dataset.folder} holds no test pairs, which 'gcnrec run' ends with; "
            "ingest with another split or test_size, or use 'gcnrec train', which needs none"
        )
    if resume or out is not None:
        run = train(job, dataset, folder, resume=resume, observer=observer, world=world)
    else:
        run = _numbered(job, dataset, name, observer, world)
    with stops(run.folder), writing(run.folder, observer), observed_by(run.folder, observer):
        metrics = evaluate_run(run, observer=observer, world=world)
        measure_baselines(run, observer)
        return metrics, write_report(run, observer)


def backtest_job(job: Job, request: DataRequest, windows: Windows, out: Path, observer: Observer) -> Backtest:
    """Run `job` at several moments, as `gcnrec.results.backtest` says, into the folder `out`; writes `backtest.html` there."""
    from gcnrec.loaders.on_demand import DataRequest
    from gcnrec.reports.studies.backtest_page import write_backtest_page
    from gcnrec.results.backtest import backtest
    from gcnrec.runs.folder import open_run

    require(job.own)

    def judge(data: Data, folder: Path) -> dict[str, Any]:
        asked = DataRequest(data, request.job_path, None, request.data_root)
        metrics, _ = run_job(job.model_copy(update={"data": data}), asked, folder, True, observer)
        return {**metrics, "train": open_run(folder).dataset.graph.num_edges}

    found = backtest(request, windows, out, judge, job.evaluate.metric, observer)
    write_backtest_page(found, out)
    return found


def _numbered(job: Job, dataset: Dataset, name: str, observer: Observer, world: World | None) -> Run:
    """A new run in the first free folder: a name that another run takes first is chosen again."""
    from gcnrec.training.train import train

    while True:
        try:
            return train(job, dataset, run_folder(RUNS, name, None, False), observer=observer, world=world)
        except Taken:
            continue


def run_folder(runs: Path, name: str, out: Path | None, resume: bool) -> Path:
    """Where a run goes: `out`, or the first free of `runs/name`, `runs/name-2`, ...; resuming takes the last of these.

    Raises UsageError when `out` exists and is not resumed, or when there is nothing to resume.
    """
    from gcnrec.runs.paths import taken

    if out is not None:
        if out.exists() and not resume:
            raise UsageError(taken(out))
        return out
    last, free, number = None, runs / name, 1
    while free.exists() or free.is_symlink():
        number += 1
        last, free = free, runs / f"{name}-{number}"
    if not resume:
        return free
    if last is None:
        raise UsageError(f"there is no run to resume at {runs / name}; start it without --resume")
    return last


def begun_or_ingested(request: DataRequest, runs: Iterable[Path], observer: Observer) -> Dataset:
    """The dataset that the first begun one of `runs` names; where none has begun, as `open_or_ingest`.

    A run goes on with the rows that it began with, whatever has become of the input files. Raises DataError where the job has
    other settings of `[data]` by now, UsageError where another dataset is asked for by `force`.
    """
    from gcnrec.loaders.on_demand import as_recorded, check_recipe, open_or_ingest
    from gcnrec.loaders.schema import open_dataset
    from gcnrec.runs.contents import RunContents
    from gcnrec.runs.paths import LINEAGE

    begun = next((run for run in runs if (run / LINEAGE).is_file()), None)
    if begun is not None and request.force:
        raise UsageError(f"--force ingests again, and {begun} goes on with the data it began with; leave one of them out")
    if begun is None or request.folder is not None:
        return open_or_ingest(request, observer)
    folder = RunContents(begun).dataset_folder
    if request.data.folder is not None and Path(request.data.folder).resolve() != folder:
        return open_or_ingest(request, observer)
    dataset = open_dataset(folder)
    check_recipe(dataset, request, f"continue {begun} with {begun / 'job.toml'}, or begin another run")
    return as_recorded(dataset, request)


def list_lengths(text: str | None) -> tuple[int, ...] | None:
    """`10,20,50` as numbers."""
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]*(,[1-9][0-9]*)*", text):
        raise UsageError(f"--k expects list lengths such as 10,20,50, got {shown(text)}")
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9}){0,99}", text):
        raise UsageError(f"--k expects at most 100 list lengths of 1 to 999,999,999, got {shown(text)}")
    return tuple(sorted({int(part) for part in text.split(",")}))


def describe(path: Path) -> dict[str, Any]:
    """What the dataset or run folder at `path` holds, without opening its arrays. Raises UsageError when it is neither."""
    from gcnrec.loaders.schema import read_info
    from gcnrec.runs.contents import RunContents

    if (path / "dataset.json").is_file():
        return {key: value for key, value in read_info(path).items() if key not in ("files", "inputs")}
    if (path / "lineage.json").is_file():
        contents, names = RunContents(path), ("lineage", "mixture", "metrics", "metrics.valid", "memory")
        found = {name: contents.document(f"{name}.json") for name in names if (path / f"{name}.json").is_file()}
        baselines = contents.valid_baselines_in_brief
        return found | ({"baselines": baselines} if baselines else {}) | {"warnings": contents.warnings}
    raise UsageError(f"{path} must be a dataset folder (with dataset.json) or a run folder (with lineage.json), is neither")
