"""Keys that a job leaves open until its data is known, and what they become.

`loss.temperature`, `model.start_scale`: see `gcnrec.training.defaults`. `train.refit`: a split by time is refitted. What a run
began with stays when it is resumed, whatever the default is by then.
`evaluate.baselines`: "auto" stays what it is but in a sweep.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from gcnrec.config import Job
from gcnrec.config.toml import to_toml
from gcnrec.graph import BipartiteGraph
from gcnrec.loaders.schema import Dataset
from gcnrec.runs.paths import JOB
from gcnrec.training.defaults import Default, defaults, with_defaults

BY_TIME = ("temporal", "leave_last")
"""Splits whose validation pairs are newer than train's, and older than test's."""


def settled(job: Job, dataset: Dataset, begun: Job | None = None) -> Job:
    """`job` with its open keys as those of `begun`, a run that is resumed, else as the data has it."""
    if begun is not None:
        return continued(job, begun)
    job = with_defaults(job, dataset.graph)
    return _with(job, "train", "refit", _refit(dataset)) if job.train.refit is None else job


def continued(job: Job, begun: Job) -> Job:
    """`job` with what it leaves open as `begun` has it."""
    for section, key in (("loss", "temperature"), ("model", "start_scale")):
        if key not in getattr(job, section).model_fields_set:
            job = _with(job, section, key, getattr(getattr(begun, section), key))
    if job.train.refit is None:
        job = _with(job, "train", "refit", begun.train.refit)
    if job.evaluate.baselines == "auto":  # runs of earlier versions have none
        job = _with(job, "evaluate", "baselines", begun.evaluate.baselines)
    return job


def swept(job: Job, graph: BipartiteGraph) -> Job:
    """`job` as one of a sweep, whose job file names every key: `auto` compares with no baselines, which each run would repeat."""
    job = with_defaults(job, graph)
    return _with(job, "evaluate", "baselines", ()) if job.evaluate.baselines == "auto" else job


def begun_job(folder: Path) -> Job | None:
    """What the run in `folder` was begun with; None where there is none."""
    path = folder / JOB
    return Job.load(path) if path.is_file() else None


def decided(job: Job, dataset: Dataset) -> tuple[Default, ...]:
    """The keys that the job leaves open and the data decides, with their values and reasons."""
    found = defaults(job, dataset.graph)
    if job.train.refit is None and (value := _refit(dataset)):
        reason = f"the split is {dataset.info['split']}, whose newest pairs matter most; train.refit=false leaves the refit out"
        found += (Default("train", "refit", value, reason),)
    return found


def commented(job: Job, dataset: Dataset) -> str:
    """The job file with every key, as a run of it keeps it; a comment says why the data decided one."""
    return to_toml(settled(job, dataset), {default.key: default.reason for default in decided(job, dataset)})


def notes(job: Job, dataset: Dataset) -> list[str]:
    """`decided` as lines."""
    return [f"{default.setting}: {default.reason}" for default in decided(job, dataset)]


def _refit(dataset: Dataset) -> Literal["train+valid", False]:
    return "train+valid" if dataset.info.get("split") in BY_TIME and len(dataset.valid) else False


def _with(job: Job, section: str, key: str, value: object) -> Job:
    part = getattr(job, section).model_copy(update={key: value})
    return job.model_copy(update={section: part})
