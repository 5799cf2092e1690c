"""`gcnrec sweep`: trains every combination of a grid, each in a process of its own, and sums them up after every run.

    runs/<name>/  a run folder each          jobs/<name>.toml  what it was started with      logs/<name>.txt  what it printed
    sweep.json    places and failures        sweep.parquet curves.parquet sweep.html         the results so far

A process of its own gives a run its own peak of memory, its own cores, and an end that the others survive. What is finished is
skipped, half-done runs are resumed, failed ones tried again. Compare seconds only of runs that shared the machine alike.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gcnrec.config import Job
from gcnrec.config.grid import Combination, Grid
from gcnrec.config.toml import to_toml
from gcnrec.errors import UsageError
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.ranking.seen import seen_rule
from gcnrec.reports.sweep_report import summarise
from gcnrec.reports.trials import Ended, ReportEnded, Sweep, Trial, write_sweep
from gcnrec.runs.paths import JOB, REPORT, metrics_path
from gcnrec.storage.files import atomic_file, local
from gcnrec.storage.locks import inherited_lock
from gcnrec.system.children import cores_of, failure, started, stop_all
from gcnrec.training.open_keys import continued, first_difference, located, swept

_POLL_SECONDS = 0.1


def sweep(grid: Grid, data: Path, out: Path, *, report: ReportEnded, jobs: int = 1) -> list[Ended]:
    """Train, evaluate and sum up every run of `grid` on the dataset folder `data`, `jobs` at a time; how each ended.

    A run that fails does not stop the others. KeyboardInterrupt and Terminated end the runs' processes and leave everything
    resumable; so does the end of this process, however it ends. Raises UsageError when `out` holds runs with other settings or
    of other data, or is being swept already.
    """
    dataset, out = open_dataset(data), local(out)
    _check_measured_alike(grid, dataset)
    for run in grid.runs:
        _check_same(run, out / "runs" / run.name, dataset)
    for folder in ("runs", "jobs", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    book = _Book(grid, out, report)
    with inherited_lock(out / "sweep.lock", "swept") as lock:
        waiting = [run for run in grid.runs if not book.skip_if_finished(run)]
        book.write()
        _work_off(waiting, book, lambda run, slot: _start(run, data, out, lock, cores_of(slot, jobs)), jobs)
    return [book.ended[run.name] for run in grid.runs]


@dataclass
class _Book:
    """How every run ended so far, reported to the caller and written into the folder after each."""

    grid: Grid
    out: Path
    report: ReportEnded
    ended: dict[str, Ended] = field(default_factory=dict)

    def skip_if_finished(self, run: Combination) -> bool:
        folder = self.out / "runs" / run.name
        finished = metrics_path(folder, "test").is_file() and (folder / REPORT).is_file()  # the last file of `gcnrec run`
        if finished:
            self._add(Ended(run.name, 0, 0.0, ""))
        return finished

    def close(self, child: _Child, code: int) -> None:
        log = self.out / "logs" / f"{child.name}.txt"
        self._add(Ended(child.name, code, time.monotonic() - child.begun, failure(code, log)))
        self.write()

    def write(self) -> None:
        failures = {name: ended.failure for name, ended in self.ended.items()}
        trials = tuple(
            Trial(self.out / "runs" / run.name, run.variant, run.budget, run.job.train.seed, failures.get(run.name, ""))
            for run in self.grid.runs
        )
        write_sweep(self.out, Sweep(trials, self.grid.compare))
        summarise(self.out)

    def _add(self, ended: Ended) -> None:
        self.ended[ended.name] = ended
        self.report(ended, len(self.ended), len(self.grid.runs))


@dataclass(frozen=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    begun: float


def _work_off(waiting: list[Combination], book: _Book, start: Callable[[Combination, int], _Child], jobs: int) -> None:
    """Keep `jobs` processes busy until nothing waits; none of them outlives this call."""
    busy: dict[int, _Child] = {}
    try:
        while waiting or busy:
            over = {slot: code for slot, child in busy.items() if (code := child.process.poll()) is not None}
            ended = [(busy.pop(slot), code if code >= 0 else 128 - code) for slot, code in over.items()]
            for slot in range(jobs):
                if waiting and slot not in busy:
                    busy[slot] = start(waiting.pop(0), slot)
            for child, code in ended:  # only now: summing up takes a second, in which no core should idle
                book.close(child, code)
            time.sleep(_POLL_SECONDS)
    finally:
        stop_all([child.process for child in busy.values()])


def _start(run: Combination, data: Path, out: Path, lock: int, cores: set[int] | None) -> _Child:
    folder, job_file = out / "runs" / run.name, out / "jobs" / f"{run.name}.toml"
    with atomic_file(job_file) as path:
        path.write_text(to_toml(swept(run.job, open_dataset(data))), encoding="utf-8")
    arguments = ["run", str(job_file), "--data", str(data), "--out", str(folder), "--resume"]
    own = cores if run.job.train.threads is None else None
    return _Child(run.name, started(arguments, out / "logs" / f"{run.name}.txt", lock, own), time.monotonic())


def _check_measured_alike(grid: Grid, dataset: Dataset) -> None:
    """UsageError when lists of two runs would leave out different items, so that their figures do not compare."""
    rules = {seen_rule(run.job.evaluate.seen, dataset) for run in grid.runs}
    if len(rules) > 1:
        raise UsageError(
            "the runs of a sweep are compared, and the grid has several values of evaluate.seen; set one in [evaluate]"
        )


def _check_same(run: Combination, folder: Path, dataset: Dataset) -> None:
    """UsageError when the run in `folder` has other settings, is of other data, or was measured by an earlier version's lists."""
    path = folder / JOB
    if not path.is_file():
        return
    made = Job.load(path)
    if made.data.digest != dataset.digest:
        raise UsageError(
            f"{folder} was made on other data ({made.data.folder}) than {dataset.folder}; choose another --out, or that --data"
        )
    if made.evaluate.seen is None and dataset.keeps_repeats:
        raise UsageError(
            f"{folder} was made by an earlier version, which counts hits that no list can hold on data with repeats = 'keep'; "
            "choose another --out, or remove that run"
        )
    different = first_difference(made, continued(located(run.job), made))
    if different is not None:
        key, before, now = different
        raise UsageError(
            f"{folder} was made with {key} = {before!r}, the grid now has {now!r}; choose another --out, or remove that run"
        )
