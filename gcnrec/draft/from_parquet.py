"""From Parquet without a card to a job file, and what to type next. Nothing is asked, nothing is overwritten."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gcnrec.config.job import Job
from gcnrec.config.toml import to_parquet
from gcnrec.draft.choices import Choice, Features, Machine, Sizes, data_choices, model_choices
from gcnrec.draft.contents import contents
from gcnrec.draft.job_text import job_text
from gcnrec.draft.roles import Named, Roles, roles
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.features.encode import FeatureFile
from gcnrec.loaders.ingest.inputs import open_input
from gcnrec.loaders.recipe import folder_name, name_of
from gcnrec.storage.files import atomic_file
from gcnrec.system.observer import SILENT

JOB = "job.toml"
NO_FEATURES = Features()
_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True, slots=True)
class Draft:
    """What was seen in the input `text`, what was decided, and the job as TOML."""

    text: str
    sizes: Sizes
    roles: Roles
    choices: tuple[Choice, ...]
    job: str

    @property
    def name(self) -> str:
        """What runs of the job are called."""
        return folder_name(name_of(self.text))

    def commands(self, job: Path, run: Path) -> list[str]:
        """What to type next, with the job at the path `job` and its run in the folder `run`."""
        path, folder, lists = (shlex.quote(str(each)) for each in (job, run, f"{run.name}-recs.parquet"))
        return [
            f"gcnrec check {path}",
            f"gcnrec run {path} --out {folder}",
            f"gcnrec recommend {folder} --k 20 --out {lists}",
        ]


def drafted(
    text: str,
    named: Named,
    machine: Machine | None = None,
    features: Features = NO_FEATURES,
    look: Callable[[str, int, int], None] = SILENT.work,
) -> Draft:
    """Look at the Parquet that `text` names: a file, folder, glob or URI; `named`: columns that the caller knows.

    `machine`: what sizes have to fit, default this one. Raises DataError where an input cannot be read, or a column of users or
    items cannot be found; UsageError for a name that is none of its columns.
    """
    _refuse_others(text)
    source = open_input(text)
    found, machine = roles(text, contents(source, look), named), machine or Machine.here()
    if features.user is not None:
        FeatureFile("user", features.user, None, found.user.path).opened()
    if features.item is not None:
        FeatureFile("item", features.item, None, found.item.path).opened()
    sizes = Sizes.of(source.rows, found)
    choices = (*data_choices(source, found, machine, features), *model_choices(sizes, machine, found, features))
    head = (
        f"Written by 'gcnrec init' for {text}: {sizes}.",
        "Comments say what a key means and why it has its value here; 'gcnrec settings KEY' says more.",
        "A key behind # is one to try: remove the # to switch it on. 'gcnrec check JOB.toml' predicts memory and minutes.",
    )
    Job.parse(_settings(choices), [], "gcnrec init")
    return Draft(text, sizes, found, choices, job_text(head, choices))


def _refuse_others(text: str) -> None:
    """DataError for a text table, UsageError for a dataset folder, each with what to type."""
    path = Path(text)
    if text.endswith(_TABLES) and path.is_file():
        then = f"gcnrec init {shlex.quote(str(path.with_suffix('.parquet')))}"
        raise DataError(f"{text} must be Parquet, is a text table; type {to_parquet(path)} and then {then}")
    if (path / "dataset.json").is_file():
        raise UsageError(f"{text} is a dataset folder already; train on it by 'gcnrec run JOB.toml --data {text}'")


def _settings(choices: tuple[Choice, ...]) -> dict[str, dict[str, object]]:
    """The sections that the choices make."""
    found: dict[str, dict[str, object]] = {}
    for choice in choices:
        if choice.on:
            found.setdefault(choice.section, {})[choice.key] = choice.value
    return found


def place_of(out: Path) -> Path:
    """Where the job goes: `out`, or `job.toml` in it where it is a folder or has no `.toml` at its end."""
    return out if out.suffix == ".toml" and not out.is_dir() else out / JOB


def refuse_existing(path: Path) -> None:
    """UsageError where something is at `path`."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists and is never overwritten; name another --out, or remove it")


def write_new(path: Path, text: str) -> None:
    """Write a file that must not be there yet. UsageError where it is, DataError where it cannot be written."""
    with atomic_file(path) as work:
        work.write_text(text, encoding="utf-8")
        refuse_existing(path)
