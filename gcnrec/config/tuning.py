"""`[tune]` of a job file: the settings that `gcnrec tune` searches, and the job of a trial.

    [tune]
    trials = 30
    sampler = "tpe"                  # "random"; "grid": every combination of lists

    [tune.space]
    optimizer.learning_rate = { low = 1e-4, high = 1e-2, log = true }
    model.layers = [1, 2, 3]

Other commands that read the file leave the section aside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gcnrec.config.grid import Combination
from gcnrec.config.job import Job
from gcnrec.config.settings import settings_of
from gcnrec.config.toml import TUNE, Section, read_search, set_key, tables_to_toml, validated
from gcnrec.config.values import Seed
from gcnrec.errors import UsageError, shown

_MOST_TRIALS = 10_000
_OF_A_TRIAL = ("train.refit=false", "evaluate.baselines=[]", "mixture.with=[]")
"""A trial is judged by its own validation: it is not refitted, and compared with nothing."""
Value = bool | int | float | str
Params = dict[str, Any]
"""`section.key` -> value of a trial."""


class Range(Section):
    """Numbers from `low` to `high`, both included: whole ones where both are integers, on a logarithmic scale with `log`."""

    low: Annotated[int | float, Field(allow_inf_nan=False)]
    high: Annotated[int | float, Field(allow_inf_nan=False)]
    log: bool = False

    @model_validator(mode="after")
    def _rules(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must begin above 0, got low = {self.low:g}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Tune(Section):
    """How settings are searched. `Space` has the settings."""

    trials: Annotated[int, Field(ge=1, le=_MOST_TRIALS)] = 30
    """Trainings in all; "grid" has as many as combinations."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """What proposes settings: Optuna's tree of Parzen estimators, uniform draws, or every combination of lists."""
    seed: Seed = 0
    generation: Annotated[int, Field(ge=1, le=64)] = 4
    """Trials that are proposed together, from all earlier generations. So no result depends on how many train at a time."""
    prune: bool = True
    """Whether a trial ends early where its best epoch so far is below the median of earlier trials at that epoch."""


@dataclass(frozen=True)
class Space:
    """The settings to search by `section.key`: a list of values, or a range."""

    dimensions: Mapping[str, list[Value] | Range]

    def combinations(self) -> list[Params]:
        """Every combination of lists, the last setting fastest. UsageError for a range, and for too many."""
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                raise UsageError(f"tune.space: {key} is a range, and sampler = 'grid' takes lists; list its values")
        lists = [dimension for dimension in self.dimensions.values() if not isinstance(dimension, Range)]
        if (count := math.prod(map(len, lists))) > _MOST_TRIALS:
            raise UsageError(f"tune.space has {count:,} combinations, at most {_MOST_TRIALS:,} are possible; list fewer values")
        return [dict(zip(self.dimensions, values, strict=True)) for values in itertools.product(*lists)]

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            key: dimension.model_dump() if isinstance(dimension, Range) else dimension
            for key, dimension in self.dimensions.items()
        }


@dataclass(frozen=True)
class Search:
    """A job file to tune: its sections without `[tune]`, with `overrides`; `path` is where relative paths start."""

    path: Path
    sections: Mapping[str, Any]
    overrides: Sequence[str]
    settings: Tune
    space: Space

    @property
    def job(self) -> Job:
        """The job without any change."""
        return Job.parse(_copied(self.sections), list(self.overrides), str(self.path))

    def trial(self, number: int, params: Params) -> Combination:
        """The job of a trial, which trains and is validated, nothing else. UsageError where settings contradict each other."""
        overrides = [*self.overrides, *_OF_A_TRIAL]
        if self.job.train.threads is None:
            overrides.append("train.threads=1")  # numbers do not depend on how many trials share the cores
        job = Job.parse(self._with(params), overrides, f"{self.path}, trial {number}")
        return Combination(f"trial-{number:04d}", "", 1.0, job)

    def best_toml(self, params: Params, about: str) -> str:
        """The job file with `params` and the overrides, as far as settings are given, from any folder; `about` leads."""
        sections = self._with(params)
        for override in self.overrides:
            set_key(sections, override)
        data = sections.get("data", {})
        if isinstance(card := data.get("card"), str) and (self.path.parent / card).is_file():
            sections["data"] = {**data, "card": str((self.path.parent / card).resolve())}
        return f"# {about}\n\n{tables_to_toml(sections)}"

    def _with(self, params: Params) -> dict[str, Any]:
        sections = _copied(self.sections)
        for key, value in params.items():
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
        return sections


def load_search(path: Path, overrides: Sequence[str], changes: Mapping[str, Any]) -> Search:
    """Read a job file with `[tune]`, whose keys `changes` replace. UsageError as `Job.load` raises, and for a space of no use."""
    sections = read_search(path)
    table = sections.pop(TUNE, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: [tune] must be a table of settings, got {shown(table)}")
    where = f"{path} [tune.space]"
    space = _space(table.pop("space", {}), where)
    for override in overrides:
        set_key({}, override)  # refused before anything is read
        if (key := override.partition("=")[0].strip()) in space.dimensions:
            raise UsageError(f"--set {key}: the search varies it; change it in {where}")
    settings = validated(Tune, {**table, **{key: value for key, value in changes.items() if value is not None}}, f"{path} [tune]")
    search = Search(path, sections, tuple(overrides), settings, space)
    if search.job.model.closed_form:
        raise UsageError(
            f"{path}: model.name = '{search.job.model.name}' has no epochs to validate; 'gcnrec run' chooses its exponents"
        )
    if settings.sampler == "grid":
        space.combinations()
    return search


def _space(table: Any, where: str) -> Space:
    if not isinstance(table, dict) or not table:
        raise UsageError(
            f"{where} must list settings to search, such as optimizer.learning_rate = {{ low = 1e-4, high = 1e-2, log = true }} "
            f"or model.layers = [1, 2, 3], got {shown(table)}"
        )
    return Space({key: _dimension(value, f"{where}: {key}") for key, value in settings_of(table, where).items()})


def _dimension(value: Any, where: str) -> list[Value] | Range:
    if isinstance(value, dict):
        return validated(Range, value, where)
    if not isinstance(value, list) or not value or len({repr(each) for each in value}) < len(value):
        raise UsageError(f"{where} must be a list of different values or a range {{ low, high }}, got {shown(value)}")
    return value


def _copied(sections: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(section) if isinstance(section, dict) else section for name, section in sections.items()}
