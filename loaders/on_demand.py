"""The dataset of a job: found where it lies, or ingested. What decides its rows is its key, so that it is never used for others.

A second process that wants the same dataset waits for the first, and uses what that made.
"""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from typing import Any

from gcnrec.config import Data
from gcnrec.config.data import PATHS
from gcnrec.config.toml import validated
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.conditions.moments import words_of_the_moment
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.recipe import (
    BOUNDS,
    PLACES,
    RULES,
    Inputs,
    absolute,
    conditions_of,
    dataset_key,
    first_change,
    folder_name,
    inputs_of,
    recipe_of,
)
from gcnrec.loaders.schema import Dataset, open_dataset, read_info, refuse_existing, turn_at
from gcnrec.loaders.sources import Asked, read_card, resolve_card
from gcnrec.system.observer import Observer

DATASETS = Path("data")
DOWNLOADS = DATASETS / "downloads"


@dataclass(frozen=True, slots=True)
class DataRequest:
    """The data that a job asks for: `data` of the file `job_path`, or the dataset `folder`; a card's files are in `data_root`.

    `force`: ingest again, whatever is there.
    """

    data: Data
    job_path: Path
    folder: Path | None = None
    data_root: Path | None = None
    force: bool = False


def open_or_ingest(request: DataRequest, observer: Observer) -> Dataset:
    """The dataset of a job: `folder` if given, else `data.folder` or `data/<name>-<key>`, ingested when it is not there.

    Raises DataError when an existing `data.folder` was made with other settings, or of files that have changed since.
    """
    data, job_path = request.data, request.job_path
    if request.folder is not None:
        if request.force:
            raise UsageError("--force ingests again, and --data names a dataset that is ready; leave one of them out")
        named = open_dataset(request.folder)
        if data.digest not in (None, named.digest):
            observer.warn(f"{request.folder} holds other data than {job_path} names by data.digest = {data.digest[:12]!r}")
        return named
    if data.folder is not None and data.card is None and data.train is None:  # made elsewhere
        if request.force:
            raise UsageError(f"--force ingests again, which needs data.train or data.card, {job_path} has data.folder alone")
        return as_recorded(open_dataset(data.folder), request)
    asked = read_card(data, job_path.parent)
    made = _given(asked, Path(data.folder), request, observer) if data.folder else _kept(asked, request, observer)
    return as_recorded(made, request)


def ingest_flags(
    card: Path | None, given: dict[str, Any], out: Path, *, data_root: Path | None, force: bool, observer: Observer
) -> Dataset:
    """`gcnrec ingest`: the card's [data] with the given flags over it, or the flags alone, into `out`."""
    if card is None and "train" not in given:
        raise UsageError("ingest needs a card, or --train with --user and --item")
    if not force:
        refuse_existing(out, observer.warn)
    data = validated(Data, {"card": str(card), **given} if card else given, "ingest")
    return _ingest(data, out, near=None, data_root=data_root, force=force, observer=observer)


def _given(asked: Asked, folder: Path, request: DataRequest, observer: Observer) -> Dataset:
    """The dataset that `data.folder` names, ingested where it is absent. What is there may lie on a disk for reading only."""
    if request.force or not folder.exists():
        with turn_at(folder, observer.note):
            if request.force or not folder.exists():  # nor made while this process waited
                return _ingest_job(request, folder, request.force, observer)
    dataset = open_dataset(folder)
    if request.data.digest is None:
        check_recipe(dataset, request, "remove the folder, name another data.folder, or ingest it again with --force")
        _check_inputs(dataset, asked, request, observer)
    return dataset


def _check_inputs(dataset: Dataset, asked: Asked, request: DataRequest, observer: Observer) -> None:
    """DataError where an ingestion would read other rows by now; a warning where that is not known."""
    words = _words_of_the_moment(asked.data)
    if words:
        raise DataError(
            f"{dataset.folder} holds the rows of the moment at which it was ingested, by {', '.join(words)} in a condition of "
            f"{request.job_path}; ingest it again with --force, or leave data.folder out"
        )
    rules = dataset.info.get("rules", 1)
    if rules != RULES or "inputs" not in dataset.info:
        observer.warn(
            f"{dataset.folder} was ingested by rules {rules} of another version, this one has rules {RULES}, so its rows may be "
            "others; ingest it again with --force to be sure"
        )
        return
    as_it_is = f"use it as it is with --data {dataset.folder}"
    try:
        now = inputs_of(asked.data, request.data_root, asked.pinned)
    except DataError as problem:
        raise DataError(f"{dataset.folder} was ingested of files that are not there now ({problem}); {as_it_is}") from None
    change = first_change({key: dataset.info["inputs"].get(key, []) for key in now}, now)
    if change:
        raise DataError(f"{dataset.folder} was ingested of other files, {change}; ingest it again with --force, or {as_it_is}")


def _kept(asked: Asked, request: DataRequest, observer: Observer) -> Dataset:
    """The dataset of the job's settings and files below `DATASETS`, ingested where it is absent; a second process waits."""
    inputs = inputs_of(asked.data, request.data_root, asked.pinned)
    moment = datetime.now(UTC).isoformat() if _words_of_the_moment(asked.data) else ""
    key = dataset_key(asked.data, request.data_root, inputs, (asked.text, moment))
    name = folder_name(asked.data.name or (asked.path or request.job_path).stem)
    target = DATASETS / f"{name}-{key}"
    pattern = f"{escape(name)}-{key}" if asked.data.name else f"*-{key}"
    found = None if request.force else _found(pattern, inputs)
    if found is None:
        with turn_at(DATASETS / key, observer.note):
            found = None if request.force else _found(pattern, inputs)
            if found is None:
                _name_older(target, asked, observer)
                # What has that name and is of other files was made while they changed: it is replaced.
                return _ingest_job(request, target, target.exists(), observer)
    if found != target:
        observer.note(f"{found} is of the same files and settings, and is used")
    return open_dataset(found)


def _found(pattern: str, inputs: Inputs) -> Path | None:
    """The first dataset folder of such a name that was made of these files, by this version's rules.

    Without a lock: a folder appears in one rename, whole.
    """
    for folder in sorted(DATASETS.glob(pattern)):
        if (folder / "dataset.json").is_file():
            info = read_info(folder)
            if info.get("rules") == RULES and {key: info.get("inputs", {}).get(key) for key in inputs} == inputs:
                return folder
    return None


def _name_older(target: Path, asked: Asked, observer: Observer) -> None:
    """Note the datasets of the same name, or of the name that earlier versions gave it, which stay and are not used."""
    before = re.sub(r"[^\w.-]+", "-", Path(str(asked.data.train)).stem).strip("-")
    names = {target.name.rpartition("-")[0], asked.path.stem if asked.path else before}
    folders = [path for name in names for path in DATASETS.glob(f"{escape(name)}-{'[0-9a-f]' * 10}") if path != target]
    if folders:
        newest = max(folders, key=lambda path: path.stat().st_mtime)
        count = "another dataset" if len(folders) == 1 else f"{len(folders)} other datasets, the newest"
        observer.note(f"{count} of that name stays at {newest}: of other files, settings or rules; remove what no run needs")


def _words_of_the_moment(data: Data) -> list[str]:
    return [word for condition in conditions_of(data) for word in words_of_the_moment(condition)]


def _ingest_job(request: DataRequest, out: Path, force: bool, observer: Observer) -> Dataset:
    near, data_root = request.job_path.parent, request.data_root
    return _ingest(request.data, out, near=near, data_root=data_root, force=force, observer=observer)


def _ingest(data: Data, out: Path, *, near: Path | None, data_root: Path | None, force: bool, observer: Observer) -> Dataset:
    """Ingest into `out` when no other process writes there; what that one made is used where it is the same.

    With `force`, which would replace what the other makes, Busy instead.
    """
    resolved, name = resolve_card(data, near, data_root, DOWNLOADS, observer.note)
    with nullcontext(False) if force else turn_at(out, observer.note) as waited:
        if waited and out.exists() and _is_of(open_dataset(out), resolved, data_root):
            observer.note(f"{out} has just been made of the same files and settings, and is used")
            return open_dataset(out)
        return ingest(resolved, out, data_root=data_root, name=name, force=force, progress=observer.note, work=observer.work)


def _is_of(dataset: Dataset, data: Data, data_root: Path | None) -> bool:
    """Whether this version would ingest the same from `data`."""
    settings = json.loads(json.dumps(recipe_of(data, data_root)))
    had = {key: dataset.info.get(key) for key in ("rules", "data", "inputs")}
    return had == {"rules": RULES, "data": settings, "inputs": inputs_of(data, data_root)}


def as_recorded(dataset: Dataset, request: DataRequest) -> Dataset:
    """The dataset. DataError when the job names the digest of another."""
    wanted = request.data.digest
    if wanted not in (None, dataset.digest):
        raise DataError(
            f"{dataset.folder} must hold the data that {request.job_path} names by data.digest = {wanted[:12]!r}, its digest is "
            f"{dataset.digest[:12]!r}; ingest that data again, or name other data with --data"
        )
    return dataset


def check_recipe(dataset: Dataset, request: DataRequest, remedy: str) -> None:
    """DataError unless the dataset recorded what the job sets. Paths of a card are skipped: they are where it was found."""
    data = request.data
    recorded = dataset.info.get("data", {})
    skipped = PLACES | BOUNDS | {"memory_limit", *(PATHS if data.card else ())}
    for key, value in data.model_dump(mode="json", exclude_unset=True, exclude=skipped).items():
        wanted = absolute(value, request.data_root) if key in PATHS and value else value
        had = recorded.get(key, Data.model_fields[key].default)
        if had != wanted:
            raise DataError(
                f"{dataset.folder} was ingested with data.{key} = {had!r}, {request.job_path} has {value!r}; {remedy}"
            )
