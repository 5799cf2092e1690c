"""From the name of a class to an object: imported and made before data is read, or one sentence that says what to do."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gcnrec.errors import UsageError, first_line, shown
from gcnrec.extensions.names import PAGE, Kind


@dataclass(frozen=True, slots=True)
class Own:
    """A class that the key `key` of a job names by its full name, and the settings that it takes."""

    key: str
    kind: Kind
    name: str
    settings: dict[str, Any]

    @property
    def shown(self) -> str:
        """As sentences have it: `model.name = 'package.module:Class'`."""
        return f"{self.key} = {shown(self.name)}"

    def make(self) -> Any:
        """The object that the class makes of its settings.

        Raises UsageError where the class cannot be imported, lacks a method, or refuses the settings.
        """
        found = self._class()
        lacking = [name for name in self.kind.methods if not callable(getattr(found, name, None))]
        if lacking:
            raise UsageError(f"{self.shown} lacks {' and '.join(lacking)}, which {self.kind.noun} must have; see {PAGE}")
        try:
            return found(deepcopy(self.settings))  # copy: a class may take its settings to pieces, each time it is made
        except ValueError as problem:
            raise UsageError(f"{self.shown} refuses its settings {shown(self.settings)}: {first_line(problem)}") from None
        except (Exception, SystemExit) as problem:
            raise UsageError(
                f"{self.shown} cannot be made of its settings {shown(self.settings)} ({_named(problem)}); a class takes them as "
                f"one dict and raises ValueError for wrong ones, see {PAGE}"
            ) from None

    def _class(self) -> type:
        module, _, name = self.name.partition(":")
        try:
            found = getattr(import_module(module), name, None)
        except ModuleNotFoundError as problem:
            if problem.name is None or not f"{module}.".startswith(f"{problem.name}."):
                raise self._broken(problem) from None
            raise UsageError(
                f"{self.shown} needs the package {shown(module.partition('.')[0])}, in which Python finds no module "
                f"{shown(problem.name)}; install it where gcnrec is installed, or name its folder in PYTHONPATH"
            ) from None
        except (Exception, SystemExit) as problem:
            raise self._broken(problem) from None
        if not isinstance(found, type):
            came = "no such name" if found is None else f"a {type(found).__name__}"
            raise UsageError(f"{self.shown} must be a class, and {module} has {came} there; name {self.kind.noun}, see {PAGE}")
        return found

    def _broken(self, problem: BaseException) -> UsageError:
        module = self.name.partition(":")[0]
        return UsageError(
            f"{self.shown} cannot be imported ({_named(problem)}); 'python -c \"import {module}\"' shows where, correct that"
        )


def _named(problem: BaseException) -> str:
    text = first_line(problem)
    return text if text == type(problem).__name__ else f"{type(problem).__name__}: {text}"


def require(every: Iterable[Own]) -> None:
    """Raise what `Own.make` of each does, so that a job is refused before its data is read."""
    for own in every:
        own.make()


def release_of(own: Own) -> dict[str, str]:
    """Where a class is from: `distribution` and `version`, or the `sha256` of a module that no installed distribution has.

    Empty where Python does not find it.
    """
    module = own.name.partition(":")[0]
    found = _distribution_of(own, module.partition(".")[0])
    if found is not None:
        return {"distribution": found.name, "version": found.version}
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return {}
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return {}
    return {"sha256": hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()}


def _distribution_of(own: Own, package: str) -> Distribution | None:
    """The installed distribution of a class: the one whose entry point names it, else one with its top-level package."""
    offered = next((point.dist for point in entry_points(group=own.kind.group) if point.value == own.name), None)
    if offered is not None:
        return offered
    try:
        return distribution(package)
    except PackageNotFoundError:
        names = _packages(tuple(sys.path)).get(package)
        return distribution(names[0]) if names else None


@cache
def _packages(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Top-level package -> distributions, of `sys.path`: reading the lists of files of all takes a second or two."""
    return packages_distributions()
