"""GRID.toml: a job, lists of settings, and named variants. Every combination is one run of `gcnrec sweep`.

    job = "gowalla.toml"                    # relative to this file; may be left out
    compare = "dynamic"                     # the variant that the others are compared with; default: the first

    [train]                                 # sections of a job file: they change keys of `job`, or are the job
    refit = false

    [grid]                                  # lists: every combination of their values ...
    table.budget = [0.5, 0.25]
    train.seed = [0, 1, 2]

    [variants.dynamic]                      # ... once per variant, a named bundle of settings
    sparsity.policy = "dynamic"

    [variants.thin]
    table.budget = 1.0
    "table.budget=0.5".model.width = 32     # only where the grid's table.budget is 0.5
    "table.budget=0.25".model.width = 16

A later one wins: `job`, sections, grid, variant, conditions of the variant, `--set`. The values of the lists other than
`table.budget` and `train.seed` follow a variant's name (`dynamic temperature=0.1`), or are it without [variants]. `compare` takes
such a name, or that of a table of [variants], which stands for its first. Runs differ neither in [data] nor in `evaluate.metric`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnrec.config.job import Job
from gcnrec.config.settings import Settings, settings_of
from gcnrec.config.toml import read_job, value_of
from gcnrec.errors import UsageError, nearest, shown

BUDGET, SEED = "table.budget", "train.seed"
_OWN_KEYS = ("job", "compare", "grid", "variants")
_MOST_RUNS = 10_000
_LONGEST_NAME = 180
"""Bytes of a run's name, which becomes the names of files."""


@dataclass(frozen=True)
class Combination:
    """One run: its folder's name, the variant and the budget that it stands for, its whole job.

    `budget` is the grid's, not the job's: a dense table of a quarter of the columns stands for a budget of 0.25.
    """

    name: str
    variant: str
    budget: float
    job: Job


@dataclass(frozen=True)
class Grid:
    """All runs, the variant to compare with, and the file that a relative `data.card` starts from."""

    runs: tuple[Combination, ...]
    compare: str
    job_path: Path


def load_grid(path: Path, overrides: list[str] | None = None) -> Grid:
    """Read GRID.toml and make every combination's job, with `section.key=value` overrides over all of them.

    Raises UsageError, for an unknown or impossible setting with the sentence that a job file gets.
    """
    document = read_job(path)
    unknown = set(document) - set(Job.model_fields) - set(_OWN_KEYS)
    for key in sorted(unknown):
        raise UsageError(f"{path}: unknown key {shown(key)}{nearest(key, (*Job.model_fields, *_OWN_KEYS))}")
    job_path = _job_path(document, path)
    base = settings_of(read_job(job_path), str(job_path)) if "job" in document else {}
    base |= settings_of({key: value for key, value in document.items() if key not in _OWN_KEYS}, str(path))
    axes = _axes(document.get("grid", {}), f"{path} [grid]", overrides or [])
    bundles = _bundles(document.get("variants", {}), path)
    _refuse_too_many(math.prod(map(len, axes.values())) * len(bundles), path)
    runs: list[Combination] = []
    labels: dict[str, str] = {}
    for name, bundle in bundles:
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            changes = _bundle_at(bundle, point, axes, f"{path} [variants.{name}]")
            runs.append(_combination(name, point, base | point | changes, overrides or [], path))
            labels.setdefault(name, runs[-1].variant)
    _check(runs, path)
    labels |= {run.variant: run.variant for run in runs}
    return Grid(tuple(runs), _compared(document.get("compare"), labels, path), job_path)


def _job_path(document: dict[str, Any], path: Path) -> Path:
    """The job file that a grid names, else the grid file itself."""
    job = document.get("job", path.name)
    if not isinstance(job, str):
        raise UsageError(f"{path}: job must name a job file, got {shown(job)}")
    return path.parent / job


def _refuse_too_many(count: int, path: Path) -> None:
    if count > _MOST_RUNS:
        raise UsageError(f"{path}: {count:,} combinations are more than {_MOST_RUNS:,} runs; list fewer values in [grid]")


def _axes(table: Any, where: str, overrides: list[str]) -> dict[str, list[Any]]:
    axes = settings_of(table, where)
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{where}: {key} must be a list of values, got {shown(values)}")
        if any(override.partition("=")[0].strip() == key for override in overrides):
            raise UsageError(f"--set {key}: the grid lists its values; change them in {where}")
    return axes


def _bundles(variants: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(variants, dict) or not all(isinstance(bundle, dict) for bundle in variants.values()):
        raise UsageError(f"{path}: variants must be tables of settings such as [variants.thin], got {shown(variants)}")
    return list(variants.items()) or [("", {})]


def _bundle_at(bundle: dict[str, Any], point: Settings, axes: dict[str, list[Any]], where: str) -> Settings:
    """The settings of a variant at one point of the grid: its own, then settings of the conditions that hold there."""
    changes = settings_of({key: value for key, value in bundle.items() if "=" not in key}, where)
    for condition, table in bundle.items():
        if "=" not in condition:
            continue
        key, value = _condition(condition, where)
        if key not in axes or value not in axes[key]:
            raise UsageError(f"{where}: {shown(condition)} never holds; [grid] must list {shown(value)} under {shown(key)}")
        if point[key] == value:
            changes |= settings_of(table, f"{where} {condition!r}")
    return changes


def _condition(text: str, where: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    if not value.strip():
        raise UsageError(f"{where}: expected a condition such as 'table.budget=0.5', got {shown(text)}")
    return key.strip(), value_of(value, f"{where}: condition {shown(text)}")


def _combination(name: str, point: Settings, settings: Settings, overrides: list[str], path: Path) -> Combination:
    others = {key: value for key, value in point.items() if key not in (BUDGET, SEED)}
    folder = _file_name([name, *_labels(point)])
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, rest = key.partition(".")
        sections.setdefault(section, {})[rest] = value
    job = Job.parse(sections, overrides, f"{path}, run {folder}")
    variant = " ".join(part for part in (name, *_labels(others)) if part) or "run"
    return Combination(folder, variant, float(point.get(BUDGET, job.table.budget)), job)


def _labels(point: Settings) -> list[str]:
    """`budget=0.5`; the section is kept where two keys would look alike."""
    counts = Counter(map(_short, point))
    return [f"{_short(key) if counts[_short(key)] == 1 else key}={_plain(value)}" for key, value in point.items()]


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _plain(value: Any) -> str:
    return ",".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _file_name(parts: list[str]) -> str:
    """One file's name, which neither leads to another folder nor is hidden."""
    return re.sub(r"^\.|[^\w.=,+-]+", "_", "-".join(part for part in parts if part)) or "run"


def _check(runs: list[Combination], path: Path) -> None:
    """UsageError when two runs share a name, or differ in what makes them comparable."""
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise UsageError(f"{path}: {count} runs would be called {name!r}; list every value once")
        if len(name.encode()) > _LONGEST_NAME:
            raise UsageError(
                f"{path}: a run would be called {shown(name)}, longer than a file's name may be; shorten its [variants.NAME], or "
                "list fewer keys in [grid]"
            )
    for run in runs:
        if run.job.data != runs[0].job.data:
            raise UsageError(f"{path}: [data] must be the same in every run, {run.name} has its own; sweep each data set apart")
        if run.job.evaluate.metric != runs[0].job.evaluate.metric:
            raise UsageError(f"{path}: evaluate.metric must be the same in every run, {run.name} has its own; choose one")


def _compared(compare: Any, labels: dict[str, str], path: Path) -> str:
    """The variant that `compare` names. `labels`: variant or name of a bundle -> variant, of a bundle its first."""
    if compare is None:
        return next(iter(labels.values()))
    if not isinstance(compare, str) or compare not in labels:
        raise UsageError(
            f"{path}: compare must name a variant, got {shown(compare)}{nearest(str(compare), filter(None, labels))}"
        )
    return labels[compare]
