"""The runs of a sweep as tables: one row per run, one row per run and epoch. Reads run folders, however they were made.

sweep.parquet   run, variant, budget, seed, status, failure; every setting that differs by its dotted key;
                epochs, fit_seconds, refit_seconds, epoch_seconds, step_seconds; valid.<metric> (the best), valid_epoch;
                test.<metric> for each; the counts and bytes of memory.json
curves.parquet  run, variant, budget, seed, stage, epoch, seconds, loss, valid.<metric>
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from gcnrec.config import Job
from gcnrec.errors import DataError, UsageError
from gcnrec.runs.contents import RunContents
from gcnrec.runs.documents import read_json
from gcnrec.runs.events import Epoch
from gcnrec.runs.manifest import check_whole
from gcnrec.runs.paths import JOB, MEMORY, metrics_path
from gcnrec.storage.documents import Document, checked, write_json

FORMAT = 1
_COUNTS = ("values", "value_bytes", "index_bytes", "state_bytes", "peak_table_bytes", "served_bytes", "dense_bytes")


@dataclass(frozen=True)
class Trial:
    """A run folder and its place in a sweep; `budget` is its place in the grid. The folder may not exist yet."""

    folder: Path
    variant: str
    budget: float
    seed: int
    failure: str = ""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def status(self) -> str:
        """`done` (judged on test), `failed`, `begun` or `waiting`."""
        if self.failure:
            return "failed"
        if metrics_path(self.folder, "test").is_file():
            return "done"
        return "begun" if (self.folder / JOB).is_file() else "waiting"

    @cached_property
    def contents(self) -> RunContents:
        """What its files say so far. DataError where it is done and one of them is not as it was written."""
        if self.status == "done":
            check_whole(self.folder, [self.folder / JOB, self.folder / MEMORY, metrics_path(self.folder, "test")])
        return RunContents(self.folder)

    @property
    def job(self) -> Job | None:
        """None before it has begun."""
        return self.contents.job if (self.folder / JOB).is_file() else None

    @cached_property
    def test(self) -> dict[str, float]:
        """The metrics on test by name; empty when it was not judged."""
        return self.contents.metrics_of("test").values

    def last(self, stage: str) -> Epoch | None:
        """The last epoch of `stage` (`fit` or `refit`); None before the first has ended."""
        return next(reversed(self.contents.epochs(stage)), None)


@dataclass(frozen=True)
class Sweep:
    """The runs and the variant that the others are compared with."""

    trials: tuple[Trial, ...]
    compare: str

    @property
    def done(self) -> list[Trial]:
        """The trials that are finished."""
        return [trial for trial in self.trials if trial.status == "done"]

    @property
    def metric(self) -> str:
        """`evaluate.metric`, by which validation chose. Raises UsageError when the runs differ in it, or none has begun."""
        metrics = sorted({trial.job.evaluate.metric for trial in self.trials if trial.job})
        if len(metrics) != 1:
            found = ", ".join(metrics) or "none"
            raise UsageError(f"the runs of a sweep must share one evaluate.metric, found {found}; give runs of one kind")
        return metrics[0]


class _Place(Document):
    """A run of sweep.json."""

    variant: str
    budget: float
    seed: int
    failure: str = ""


class _Runs(Document):
    """sweep.json."""

    compare: str
    runs: dict[Annotated[str, Field(pattern=r"^[^/\x00]+$")], _Place]


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write `sweep.json`: the place of every run of `folder`/runs, and why a run failed."""
    runs = {
        trial.name: {"variant": trial.variant, "budget": trial.budget, "seed": trial.seed, "failure": trial.failure}
        for trial in sweep.trials
    }
    write_json(folder / "sweep.json", {"format": FORMAT, "compare": sweep.compare, "runs": runs})


def read_sweep(folder: Path) -> Sweep:
    """The sweep in `sweep.json`. DataError when the file is missing, damaged or of another format."""
    path = folder / "sweep.json"
    document = read_json(path)
    if document.get("format") != FORMAT:
        raise DataError(f"{path} must have format {FORMAT}, got {document.get('format')!r}; sweep into another folder")
    found = checked(_Runs, document, str(path), "sweep into another folder")
    trials = (
        Trial(folder / "runs" / name, place.variant, place.budget, place.seed, place.failure)
        for name, place in found.runs.items()
    )
    return Sweep(tuple(trials), found.compare)


def results(sweep: Sweep) -> pa.Table:
    """One row per run, with the columns of `sweep.parquet`; null for what is not known yet."""
    keys = varying([trial.job for trial in sweep.trials if trial.job])
    return _table([_row(trial, keys) for trial in sweep.trials])


def curves(sweep: Sweep) -> pa.Table:
    """One row per run and epoch, in the order of the runs."""
    rows = []
    for trial in sweep.trials:
        for epoch in trial.contents.of_kind(Epoch):
            figures = {"stage": epoch.stage, "epoch": epoch.epoch, "seconds": epoch.seconds, "loss": epoch.loss}
            rows.append(_place(trial) | figures | {f"valid.{name}": value for name, value in epoch.valid.items()})
    return _table(rows)


def varying(jobs: Sequence[Job]) -> list[str]:
    """The settings, by dotted key, in which jobs differ."""
    flat = [_flat(job) for job in jobs]
    return [key for key in flat[0] if any(settings[key] != flat[0][key] for settings in flat)] if flat else []


def _row(trial: Trial, keys: list[str]) -> dict[str, Any]:
    settings = _flat(trial.job) if trial.job else {}
    row = _place(trial) | {"status": trial.status, "failure": trial.failure or None}
    row |= {key: settings.get(key) for key in keys}
    row |= _times(trial)
    if trial.job:
        metric = trial.job.evaluate.metric
        best = trial.contents.best_validation(metric)
        row |= {f"valid.{metric}": best.get(metric), "valid_epoch": best.get("epoch")}
    row |= {f"test.{name}": value for name, value in trial.test.items()}
    return row | {name: trial.contents.memory.get(name) for name in _COUNTS}


def _place(trial: Trial) -> dict[str, Any]:
    return {"run": trial.name, "variant": trial.variant, "budget": trial.budget, "seed": trial.seed}


def _times(trial: Trial) -> dict[str, float | None]:
    """Seconds of both stages; of the fit also epochs, and seconds per epoch and step, compilation included."""
    fit, refit = trial.last("fit"), trial.last("refit")
    return {
        "epochs": fit.epoch if fit else None,
        "fit_seconds": fit.seconds if fit else None,
        "epoch_seconds": fit.seconds / fit.epoch if fit else None,
        "step_seconds": fit.seconds / fit.step if fit and fit.step else None,
        "refit_seconds": refit.seconds if refit else None,
    }


def _flat(job: Job) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, section in job.model_dump().items() for key, value in section.items()}


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Numbers and text as they are; a setting of several types (`model.width = "auto"` or 64), or a list, as JSON text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds in ({str}, {bool}):
        return pa.array(values, pa.float64() if float in kinds else None)
    return pa.array([None if value is None else json.dumps(value) for value in values])


@dataclass(frozen=True)
class Ended:
    """A run that ended: exit code, seconds in this sweep (0 when it was finished before), why it failed or ""."""

    name: str
    code: int
    seconds: float
    failure: str


ReportEnded = Callable[[Ended, int, int], None]
"""Reports a run that ended, the number of runs that have, and of all."""
