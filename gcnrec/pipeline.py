"""Whole commands of the command line as functions that print nothing.

Every stage is a folder on disk: cards and Parquet -> dataset folder -> run folder -> report.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnrec.config import Data, Job
from gcnrec.config.toml import validated
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.recipe import PATHS, PLACES, absolute

if TYPE_CHECKING:
    from gcnrec.loaders.schema import Dataset
    from gcnrec.system.observer import Observer

DATASETS = Path("data")
DOWNLOADS = DATASETS / "downloads"


@dataclass(frozen=True, slots=True)
class DataRequest:
    """The data that a job asks for: `data` of the file `job_path`, or the dataset `folder`; a card's files are in `data_root`."""

    data: Data
    job_path: Path
    folder: Path | None = None
    data_root: Path | None = None


def run_job(job: Job, data: DataRequest, folder: Path, resume: bool, observer: Observer) -> tuple[dict[str, Any], Path]:
    """Ingest if needed, train into `folder`, evaluate it and the baselines on test, report; returns metrics and report."""
    from gcnrec.reports.run_report import write_report
    from gcnrec.results.evaluate import evaluate_run, measure_baselines
    from gcnrec.runs.folder import writing
    from gcnrec.training.train import train

    dataset = open_or_ingest(data, observer)
    if not len(dataset.test):  # known before the hours that training takes
        raise DataError(
            f"{dataset.folder} holds no test pairs, which 'gcnrec run' ends with; "
            "ingest with another split or test_size, or use 'gcnrec train', which needs none"
        )
    run = train(job, dataset, folder, resume=resume, observer=observer)
    with writing(run.folder, observer):
        metrics = evaluate_run(run, observer=observer)
        measure_baselines(run, observer)
        return metrics, write_report(run)


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
    while free.exists():
        number += 1
        last, free = free, runs / f"{name}-{number}"
    if not resume:
        return free
    if last is None:
        raise UsageError(f"there is no run to resume at {runs / name}; start it without --resume")
    return last


def open_or_ingest(request: DataRequest, observer: Observer) -> Dataset:
    """The dataset of a job: `folder` if given, else `data.folder` or `data/<name>-<digest>`, ingested when it is not there.

    Raises DataError when an existing `data.folder` was made with other settings.
    """
    from gcnrec.loaders.schema import open_dataset
    from gcnrec.loaders.sources import find_card

    data, job_path, data_root = request.data, request.job_path, request.data_root
    if request.folder is not None:
        named = open_dataset(request.folder)
        if data.digest not in (None, named.digest):
            observer.warn(f"{request.folder} holds other data than {job_path} names by data.digest = {data.digest[:12]!r}")
        return named
    if data.folder is not None and data.card is None and data.train is None:  # made elsewhere
        return _as_recorded(open_dataset(data.folder), request)
    card = find_card(data.card, job_path.parent) if data.card else None
    name = card.stem if card else re.sub(r"[^\w.-]+", "-", Path(str(data.train)).stem).strip("-")
    target = Path(data.folder) if data.folder else DATASETS / f"{name}-{recipe_digest(data, card, data_root)[:10]}"
    if target.exists():
        dataset = open_dataset(target)
        if data.digest is None:
            _check_recipe(dataset, request)
    else:
        dataset = _ingest(data, target, near=job_path.parent, data_root=data_root, force=False, observer=observer)
    return _as_recorded(dataset, request)


def ingest_flags(
    card: Path | None, given: dict[str, Any], out: Path, *, data_root: Path | None, force: bool, observer: Observer
) -> Dataset:
    """`gcnrec ingest`: the card's [data] with the given flags over it, or the flags alone, into `out`."""
    if card is None and "train" not in given:
        raise UsageError("ingest needs a card, or --train with --user and --item")
    if out.exists() and not force:
        raise DataError(f"{out} exists and is never overwritten; choose another --out, or add --force")
    data = validated(Data, {"card": str(card), **given} if card else given, "ingest")
    return _ingest(data, out, near=None, data_root=data_root, force=force, observer=observer)


def recipe_digest(data: Data, card: Path | None, data_root: Path | None) -> str:
    """sha256 of everything that decides what a dataset holds: [data], the card's text, size and time of local inputs."""
    recipe = data.model_dump(mode="json", exclude=PLACES | {"memory_limit"}, exclude_none=True)
    base = data_root or Path()
    stamps = [stamp for key in PATHS if key in recipe for stamp in _stamps(base / recipe[key])]
    text = card.read_bytes().decode("utf-8", "surrogateescape") if card else ""  # a card that is no UTF-8 is refused when read
    return hashlib.sha256(json.dumps([recipe, stamps, text], sort_keys=True).encode()).hexdigest()


def list_lengths(text: str | None) -> tuple[int, ...] | None:
    """`10,20,50` as numbers."""
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UsageError(f"--k expects list lengths such as 10,20,50, got {text!r}")
    return tuple(sorted({int(part) for part in text.split(",")}))


def describe(path: Path) -> dict[str, Any]:
    """What the dataset or run folder at `path` holds, without opening its arrays. Raises UsageError when it is neither."""
    from gcnrec.loaders.schema import read_info
    from gcnrec.runs.contents import RunContents

    if (path / "dataset.json").is_file():
        return {key: value for key, value in read_info(path).items() if key != "files"}
    if (path / "lineage.json").is_file():
        contents, names = RunContents(path), ("lineage", "mixture", "metrics", "metrics.valid", "memory")
        found = {name: contents.document(f"{name}.json") for name in names if (path / f"{name}.json").is_file()}
        baselines = contents.valid_baselines_in_brief
        return found | ({"baselines": baselines} if baselines else {}) | {"warnings": contents.warnings}
    raise UsageError(f"{path} must be a dataset folder (with dataset.json) or a run folder (with lineage.json), is neither")


def _ingest(data: Data, out: Path, *, near: Path | None, data_root: Path | None, force: bool, observer: Observer) -> Dataset:
    from gcnrec.loaders.parquet import ingest
    from gcnrec.loaders.sources import resolve_card

    resolved, name = resolve_card(data, near, data_root, DOWNLOADS, observer.note)
    return ingest(resolved, out, data_root=data_root, name=name, force=force, progress=observer.note, work=observer.work)


def _as_recorded(dataset: Dataset, request: DataRequest) -> Dataset:
    """The dataset. DataError when the job names the digest of another."""
    wanted = request.data.digest
    if wanted not in (None, dataset.digest):
        raise DataError(
            f"{dataset.folder} must hold the data that {request.job_path} names by data.digest = {wanted[:12]!r}, its digest is "
            f"{dataset.digest[:12]!r}; ingest that data again, or name other data with --data"
        )
    return dataset


def _check_recipe(dataset: Dataset, request: DataRequest) -> None:
    """DataError unless the dataset recorded what the job sets. Paths of a card are skipped: they are where it was found."""
    data = request.data
    recorded = dataset.info.get("data", {})
    skipped = PLACES | {"memory_limit", *(PATHS if data.card else ())}
    for key, value in data.model_dump(mode="json", exclude_unset=True, exclude=skipped).items():
        wanted = absolute(value, request.data_root) if key in PATHS and value else value
        had = recorded.get(key, Data.model_fields[key].default)
        if had != wanted:
            raise DataError(
                f"{dataset.folder} was ingested with data.{key} = {had!r}, {request.job_path} has {value!r}; "
                "remove the folder or name another data.folder"
            )


def _stamps(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of a local file, or of all files under a local folder; nothing for globs and URIs."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            state = file.stat()
            yield file.name, state.st_size, state.st_mtime_ns
