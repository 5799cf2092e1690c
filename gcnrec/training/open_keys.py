"""Keys that a job leaves open until its data is known, and what they become.

`loss.temperature`, `model.start_scale`: see `gcnrec.training.defaults`. `train.refit`: a split by time is refitted.
`mixture.with`: a trained model of data with several behaviours ranks together with closed forms.
`loss.negative_weight`: items that users rated low are negatives where ingestion kept them.
`evaluate.seen`: lists hold what a user has seen where ingestion kept repeats. What a run began with stays when it is resumed,
whatever the default is by then.
`evaluate.baselines`: "auto" stays what it is but in a sweep.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gcnrec.config import Data, Job
from gcnrec.config.following import following
from gcnrec.config.toml import to_toml, validated
from gcnrec.errors import DataError, UsageError
from gcnrec.extensions.load import release_of
from gcnrec.graph import BipartiteGraph
from gcnrec.loaders.recipe import PLACES
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.seen import seen_rule
from gcnrec.runs.paths import JOB
from gcnrec.training.defaults import Default, defaults
from gcnrec.training.workers.shared import by_columns

if TYPE_CHECKING:
    from gcnrec.system.observer import Observer

WITHOUT_EFFECT = ("table.placement", "table.cache_bytes", "train.transfer_blocks", "train.loss_limit", "evaluate.memory_limit")
"""Keys that change no number of a run, as all of `[run]`: a run may go on with other values than it began with."""
NEGATIVE_WEIGHT = 0.03
"""Of a user's own negative, against all other negatives of a positive together: of the weights tried, the largest without a
measured loss of recall (jobs/records/2026-11-30-negatives-cpu2.json)."""
BY_TIME = ("temporal", "leave_last")
"""Splits whose validation pairs are newer than train's, and older than test's."""


def resolved(job: Job, dataset: Dataset) -> Job:
    """`job` with `[data]` as `dataset` was made, its folder and digest, and with absolute paths: what job.toml of a run holds.

    The memory limit is the job's own: no row depends on it.
    """
    recipe = {key: value for key, value in dataset.info.get("data", {}).items() if key not in PLACES}
    place = {"folder": str(dataset.folder.resolve()), "digest": dataset.digest, "memory_limit": job.data.memory_limit}
    try:
        data = validated(Data, {**recipe, **place}, f"{dataset.folder / 'dataset.json'}: data")
    except UsageError as problem:
        raise DataError(f"{problem}; it is damaged, ingest again") from None
    return located(job).model_copy(update={"data": data})


def located(job: Job) -> Job:
    """`job` with the earlier run that it starts from as an absolute path."""
    if job.train.init_from is None:
        return job
    earlier = str(Path(job.train.init_from).resolve())
    return job.model_copy(update={"train": job.train.model_copy(update={"init_from": earlier})})


MOST_PARTS = 64
"""Of a batch, as `train.parts` has it."""


def settled(job: Job, dataset: Dataset, begun: Job | None = None) -> Job:
    """`job` with its open keys as in `begun`, the run to resume, else as the data has it."""
    if begun is not None:
        return continued(job, begun)
    job = _with(with_defaults(job, dataset.graph), "evaluate", "seen", seen_rule(job.evaluate.seen, dataset))
    job = _with(job, "mixture", "partners", "auto") if _mixes(job, dataset) else job
    job = _with(job, "loss", "negative_weight", NEGATIVE_WEIGHT) if _draws_negatives(job, dataset) else job
    return _with(job, "train", "refit", _refit(dataset)) if job.train.refit is None else job


def shared(job: Job, workers: int, observer: Observer) -> Job:
    """`job` with as many parts as there are workers where it leaves them open, and says so; columns are shared without parts.

    UsageError for a number of workers that is no number of parts.
    """
    if job.train.parts is not None or workers == 1 or by_columns(job.model):
        return job
    if workers & (workers - 1) or workers > MOST_PARTS:
        raise UsageError(f"--workers must be 1, 2, 4, 8, 16, 32 or 64, as the parts of a batch are, got {workers}")
    observer.note(f"train.parts={workers}: as many as workers; the same job gives the same numbers with fewer of them")
    return _with(job, "train", "parts", workers)


def continued(job: Job, begun: Job) -> Job:
    """`job` with what it leaves open as `begun` has it."""
    for section, key in (("loss", "temperature"), ("model", "start_scale")):
        if key not in getattr(job, section).model_fields_set:
            job = _with(job, section, key, getattr(getattr(begun, section), key))
    if job.train.refit is None:
        job = _with(job, "train", "refit", begun.train.refit)
    if job.loss.negative_weight is None:
        job = _with(job, "loss", "negative_weight", begun.loss.negative_weight)
    if job.train.parts is None:
        job = _with(job, "train", "parts", begun.train.parts)
    if "partners" not in job.mixture.model_fields_set:
        job = _with(job, "mixture", "partners", begun.mixture.partners)
    if job.evaluate.baselines == "auto":  # runs of earlier versions have none
        job = _with(job, "evaluate", "baselines", begun.evaluate.baselines)
    if job.evaluate.seen is None:  # as runs of earlier versions have it
        job = _with(job, "evaluate", "seen", begun.evaluate.seen)
    return job


def first_difference(begun: Job, job: Job) -> tuple[str, object, object] | None:
    """The first key, with its value in each, by which `job` would train otherwise than `begun`; `[data]` is not compared."""
    before, now = (each.model_dump(exclude={"data": True, "run": True, "export": True}) for each in (begun, job))
    for section, values in now.items():
        for key, value in values.items():
            if f"{section}.{key}" not in WITHOUT_EFFECT and before[section][key] != value:
                return f"{section}.{key}", before[section][key], value
    return None


def swept(job: Job, dataset: Dataset) -> Job:
    """`job` as one of a sweep, whose job file names every key: `auto` compares with no baselines, which each run would repeat."""
    job = with_defaults(job, dataset.graph)
    job = _with(job, "mixture", "partners", "auto") if _mixes(job, dataset) else job
    return _with(job, "evaluate", "baselines", ()) if job.evaluate.baselines == "auto" else job


def with_defaults(job: Job, graph: BipartiteGraph) -> Job:
    """`job` with its open keys as `defaults` has them."""
    for default in _defaults(job, graph):
        job = _with(job, default.section, default.name, default.value)
    return job


def begun_job(folder: Path) -> Job | None:
    """What the run in `folder` was begun with; None where there is none."""
    path = folder / JOB
    return Job.load(path) if path.is_file() else None


def decided(job: Job, dataset: Dataset) -> tuple[Default, ...]:
    """The keys that the job leaves open and the data decides, with their values and reasons."""
    found = _defaults(job, dataset.graph)
    if job.train.refit is None and (value := _refit(dataset)):
        reason = f"the split is {dataset.info['split']}, whose newest pairs matter most; train.refit=false leaves the refit out"
        found += (Default("train", "refit", value, reason),)
    if _mixes(job, dataset):
        reason = "what users met by other behaviours tells closed forms most; mixture.with=[] leaves them out"
        found += (Default("mixture", "with", "auto", reason),)
    if _draws_negatives(job, dataset):
        reason = "users rated items low, which a positive is compared with; loss.negative_weight=0 leaves them out"
        found += (Default("loss", "negative_weight", NEGATIVE_WEIGHT, reason),)
    if job.evaluate.seen is None and dataset.keeps_repeats:
        reason = "ingestion kept repeats, which lists hold only where they leave nothing out; evaluate.seen=all leaves them out"
        found += (Default("evaluate", "seen", "none", reason),)
    return found


def commented(job: Job, dataset: Dataset) -> str:
    """The job file with every key, as a run of it keeps it; a comment says why the data or another key decided one.

    Behind a class of another package stands its release.
    """
    whole = settled(job, dataset)
    releases = {own.key: _in_words(release_of(own)) for own in whole.own}
    return to_toml(whole, {**following(whole), **releases, **{default.key: default.reason for default in decided(job, dataset)}})


def _in_words(release: dict[str, str]) -> str:
    """The distribution and its version, or the digest of a module without one."""
    return f"sha256 {release['sha256']}" if "sha256" in release else " ".join(release.values())


def notes(job: Job, dataset: Dataset) -> list[str]:
    """`decided` as lines."""
    return [f"{default.setting}: {default.reason}" for default in decided(job, dataset)]


def _defaults(job: Job, graph: BipartiteGraph) -> tuple[Default, ...]:
    return () if job.model.closed_form else defaults(job.model, job.loss, job.is_sparse, graph)


def _mixes(job: Job, dataset: Dataset) -> bool:
    """Whether closed forms rank with a trained model although the job does not name them."""
    is_open = not job.model.closed_form and "partners" not in job.mixture.model_fields_set
    reads_others = bool(dataset.graph.others) and job.model.behaviours != "none"
    return is_open and reads_others and len(dataset.valid) > 0


def _draws_negatives(job: Job, dataset: Dataset) -> bool:
    """Whether training draws items that users rated low although the job does not say so."""
    is_open = job.loss.negative_weight is None and job.loss.name != "directau" and not job.model.closed_form
    return is_open and dataset.negatives is not None and dataset.negatives.num_edges > 0


def _refit(dataset: Dataset) -> Literal["train+valid", False]:
    return "train+valid" if dataset.info.get("split") in BY_TIME and len(dataset.valid) else False


def _with(job: Job, section: str, key: str, value: object) -> Job:
    part = getattr(job, section).model_copy(update={key: value})
    return job.model_copy(update={section: part})
