"""`gcnrec tune`: trains a generation of trials at a time, ends poor ones early, and sums up after each.

    study.json  what is known of each trial       runs/<trial>/  a run folder each      logs/<trial>.txt  what it printed
    tune.html   the results so far                jobs/<trial>.toml  what it was started with      best.toml  the best job

A trial is `gcnrec train` without refit: test data stays unread. Each is a process of its own with as many threads as the job
says, by default one. So what it computes does not depend on other trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import Popen
from typing import Any

from gcnrec.config.grid import Combination
from gcnrec.config.toml import to_toml
from gcnrec.config.tuning import Params, Search
from gcnrec.errors import DataError, DivergedError, UsageError
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.runs.contents import RunContents
from gcnrec.runs.paths import JOB
from gcnrec.storage.files import atomic_file, local
from gcnrec.storage.locks import inherited_lock
from gcnrec.system.children import cores_of, failure, started, stop_all
from gcnrec.training.open_keys import swept
from gcnrec.tuning.page import write_tune_page
from gcnrec.tuning.propose import proposed, require_sampler, total
from gcnrec.tuning.prune import Curve, pruned_at
from gcnrec.tuning.study import Record, Study, opened

_POLL_SECONDS = 0.3
_REPEATED = tuple(each.exit_code for each in (UsageError, DataError, DivergedError))
"""Exit codes of failures that a second try repeats."""
Report = Callable[[dict[str, Any], str, int], None]
"""Reports a trial that ended, as fields and as text, and how many have."""


def tune(search: Search, data: Path, out: Path, *, report: Report, jobs: int) -> Study:
    """Train the trials of `search` on the dataset folder `data`, `jobs` at a time; returns what is known of them.

    Trials that ended are not trained again; begun ones are resumed. A trial whose process fails, for want of memory for example,
    is tried once more, and then recorded as failed with its reason. KeyboardInterrupt, Terminated and the end of this process
    leave everything resumable. Raises UsageError where `out` has another search, is being tuned, or no trial of a first
    generation can be trained.
    """
    require_sampler(search.settings.sampler)
    dataset, out = open_dataset(data), local(out)
    for folder in ("runs", "jobs", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with inherited_lock(out / "tune.lock", "tuned") as lock:
        study, trials = opened(out, search, dataset.digest), total(search)
        for first in range(0, trials, search.settings.generation):
            count = min(search.settings.generation, trials - first)
            earlier = [record for record in study.ended if record.number < first]
            params = proposed(search, earlier, first, count)
            curves: list[Curve] = [record.curve for record in earlier if record.state == "complete" and search.settings.prune]
            bed = _Bed(search, study.metric, dataset, out, lock, jobs, curves)
            with closing(_generation(bed, {first + place: each for place, each in enumerate(params)}, study)) as ending:
                for record in ending:
                    study.add(record)
                    report(*_said(record, study.metric), len(study.records))
            _sum_up(search, study, out)
            _refuse_failures(study, first + count)
    return study


@dataclass(frozen=True)
class _Bed:
    """Where trials of a generation run. `curves` are those of complete earlier trials, which may end a trial."""

    search: Search
    metric: str
    dataset: Dataset
    out: Path
    lock: int
    jobs: int
    curves: list[Curve]

    def start(self, run: Combination, slot: int) -> Popen[bytes]:
        """A process that trains a trial, or goes on with it."""
        job_file = self.out / "jobs" / f"{run.name}.toml"
        with atomic_file(job_file) as path:
            path.write_text(to_toml(swept(run.job, self.dataset)), encoding="utf-8")
        folder = self.out / "runs" / run.name
        arguments = ["train", str(job_file), "--data", str(self.dataset.folder), "--out", str(folder), "--resume"]
        return started(arguments, self.log(run.name), self.lock, cores_of(slot, self.jobs))

    def log(self, name: str) -> Path:
        """What a trial printed."""
        return self.out / "logs" / f"{name}.txt"

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Each validated epoch of a trial so far, and its metric."""
        folder = self.out / "runs" / name
        if not (folder / JOB).is_file():
            return []
        return [(epoch.epoch, epoch.valid[self.metric]) for epoch in RunContents(folder).validations(self.metric)]


@dataclass(frozen=True)
class _Waiting:
    """A trial to start; `again`: a second time."""

    number: int
    params: Params
    run: Combination
    again: bool = False


@dataclass(frozen=True)
class _Running:
    trial: _Waiting
    process: Popen[bytes]

    @property
    def may_end_otherwise(self) -> bool:
        """Whether the failed trial is worth a second try, which goes on from its last checkpoint."""
        return not self.trial.again and self.process.poll() not in _REPEATED


def _generation(bed: _Bed, params: dict[int, Params], study: Study) -> Generator[Record]:
    """The records of trials that had not ended, as they end. A failed trial waits for a second try, after all others."""
    waiting, busy = list[_Waiting](), dict[int, _Running]()
    for number, each in params.items():
        if number in study.records:
            continue
        try:
            waiting.append(_Waiting(number, each, bed.search.trial(number, each)))
        except UsageError as problem:
            yield Record(number=number, params=each, state="failed", problem=str(problem))
    try:
        while waiting or busy:
            for slot in range(bed.jobs):
                if waiting and slot not in busy:
                    trial = waiting.pop(0)
                    busy[slot] = _Running(trial, bed.start(trial.run, slot))
            time.sleep(_POLL_SECONDS)
            for slot, running in list(busy.items()):
                if (record := _ended(bed, running)) is None:
                    continue
                del busy[slot]
                if record.state == "failed" and running.may_end_otherwise:
                    waiting.append(replace(running.trial, again=True))
                else:
                    yield record
    finally:
        stop_all([running.process for running in busy.values()])


def _ended(bed: _Bed, running: _Running) -> Record | None:
    """The record of a trial that has ended, or is not worth its time and is stopped; None while it goes on."""
    trial, code = running.trial, running.process.poll()
    curve = bed.curve(trial.run.name)
    at = pruned_at(curve, bed.curves)
    about = {"number": trial.number, "params": trial.params}
    if at is not None:
        stop_all([running.process])
        return Record(**about, state="pruned", curve=[point for point in curve if point[0] <= at])
    if code is None:
        return None
    if code:
        problem = failure(code if code > 0 else 128 - code, bed.log(trial.run.name))
        return Record(**about, state="failed", problem=f"{problem} (tried twice)" if trial.again else problem)
    return Record(**about, state="complete", curve=curve)


def _sum_up(search: Search, study: Study, out: Path) -> None:
    """Write the page and the best job."""
    best = study.best
    if best is not None and best.best is not None:
        epoch, value = best.best
        about = f"trial {best.number} of {search.path.name}: validation {study.metric} {value:.4f} after epoch {epoch}"
        with atomic_file(out / "best.toml") as path:
            path.write_text(search.best_toml(best.params, about), encoding="utf-8")
    write_tune_page(study, search.space, total(search), out / "tune.html")


def _said(record: Record, metric: str) -> tuple[dict[str, Any], str]:
    """What is reported of an ended trial: fields, and a line."""
    fields = {"name": f"trial-{record.number:04d}", **record.model_dump(exclude={"curve", "number"})}
    if record.best is None or record.state == "failed":
        return fields, record.problem or "it was never validated"
    epoch, value = record.best
    early = f", ended early at epoch {record.curve[-1][0]}" if record.state == "pruned" else ""
    return fields | {"epoch": epoch, metric: value}, f"{metric} {value:.4f} after epoch {epoch}{early}"


def _refuse_failures(study: Study, until: int) -> None:
    """UsageError where none of the trials so far could be trained."""
    failed = [record for record in study.ended if record.number < until and record.state == "failed"]
    if len(failed) == until:
        raise UsageError(f"none of {until} trials could be trained, the first because: {failed[0].problem}")
