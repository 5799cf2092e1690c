"""Where a run comes from: what `lineage.json` says.

Results are equal for equal data, job, number of threads, machine and versions: all of these are written down.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numba
from pydantic import Field, model_validator

from gcnrec.extensions.load import Own, release_of
from gcnrec.loaders.ingest.leakage import PREFIX
from gcnrec.loaders.schema import Dataset
from gcnrec.storage.documents import Document
from gcnrec.storage.remote.address import masked
from gcnrec.system.machine import available_cores, machine, versions
from gcnrec.version import __version__

FORMAT = 1
_SIZES = ("cores", "memory_gib")
"""Of the machine: what a result does not depend on."""
_LIBRARIES = ("llvmlite", "pydantic", "safetensors", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda")
ENVIRONMENT = ("ATEN_", "CUBLAS_", "CUDA_", "GOMP_", "KMP_", "MKL_", "NUMBA_", "NVIDIA_TF32", "OMP_", "OPENBLAS_", "PYTORCH_")
"""Beginnings of the variables that change how libraries compute, or on what."""


class Version(Document):
    """The gcnrec that trained a run."""

    version: str = ""
    commit: str = ""


class Source(Document):
    """The dataset of a run; more keys are what leaks in it (`gcnrec.loaders.ingest.leakage`)."""

    name: str = ""
    folder: str = ""
    digest: str = ""

    @model_validator(mode="after")
    def _counted(self) -> Source:
        for name, value in (self.model_extra or {}).items():
            if name.startswith(PREFIX) and type(value) not in (int, float):
                raise ValueError(f"{name!a} must be a number")
        return self


class Lineage(Document):
    """lineage.json."""

    created: str = ""
    gcnrec: Version = Version()
    data: Source
    machine: dict[str, str | int | float | None] = Field(default_factory=dict)
    libraries: dict[str, str | None] = Field(default_factory=dict)
    threads: int | None = None
    device: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    extensions: dict[str, dict[str, str]] = Field(default_factory=dict)


def lineage_of(dataset: Dataset, threads: int | None, device: str, own: Iterable[Own] = ()) -> dict[str, Any]:
    """`lineage.json` of a run that begins now on `device`; `threads` None: as many as the process may use.

    `own`: the classes of other packages that its job names, of which it says the release.
    Environment variables are read here, as far as they change a computation.
    """
    data = {"name": dataset.name, "folder": str(dataset.folder.resolve()), "digest": dataset.digest}
    leaks = {key: value for key, value in dataset.info.get("report", {}).items() if key.startswith(PREFIX)}
    releases = {each.name: release_of(each) for each in own}
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "working_directory": str(Path.cwd()),
        "gcnrec": {"version": __version__, **_checkout(Path(__file__).resolve().parents[2])},
        "data": data | leaks,
        "machine": machine(),
        "libraries": {name: version for name, version in versions(_LIBRARIES).items() if version},
        "threads": threads or min(available_cores(), numba.config.NUMBA_NUM_THREADS),
        "device": device,
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(ENVIRONMENT)},
        **({"extensions": releases} if releases else {}),
    }


def command_line() -> str:
    """The command of this process, without passwords and queries of addresses in it."""
    return shlex.join([Path(sys.argv[0]).name, *map(masked, sys.argv[1:])])


@dataclass(frozen=True, slots=True)
class Here:
    """The process that a run goes on in: its `circumstances`, for a resume event, and what differs from the run's beginning."""

    circumstances: dict[str, Any]
    changes: list[str]

    @staticmethod
    def now(begun: dict[str, Any], now: dict[str, Any]) -> Here:
        """From the `lineage.json` of the beginning and that of a run which begins now."""
        return Here(circumstances(now), changes(begun, now))


def circumstances(lineage: dict[str, Any]) -> dict[str, Any]:
    """Threads, device and versions of a `lineage.json`."""
    found = lineage.get("machine", {})
    packages = {name: version for name, version in found.items() if name not in _SIZES and not isinstance(version, (int, float))}
    own = {"gcnrec": lineage.get("gcnrec", {}).get("version")}
    return {
        "threads": lineage.get("threads"),
        "device": lineage.get("device"),
        "versions": {**packages, **lineage.get("libraries", {}), **own},
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What may change bits between two lineages, as `threads 1 (now 2)`: threads, device, CPU, versions, commit, environment."""
    flat = [_flat(lineage) for lineage in (before, now)]
    names = list(dict.fromkeys([*flat[0], *flat[1]]))
    absent = "absent"
    pairs = [(name, flat[0].get(name, absent), flat[1].get(name, absent)) for name in names]
    return [f"{name} {had} (now {has})" for name, had, has in pairs if had != has]


def _flat(lineage: dict[str, Any]) -> dict[str, Any]:
    of_process = circumstances(lineage)
    values = {"threads": of_process["threads"], "device": of_process["device"], **of_process["versions"]}
    values |= {f"{name} {key}": value for name, each in lineage.get("extensions", {}).items() for key, value in each.items()}
    values |= {"commit": lineage.get("gcnrec", {}).get("commit"), **lineage.get("environment", {})}
    return {name: value for name, value in values.items() if value is not None}


@cache
def _checkout(folder: Path) -> dict[str, Any]:
    """The commit of a checkout, and whether its tracked files have been changed since; nothing for an installed package."""
    if not (folder / ".git").exists():
        return {}
    head, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {} if head is None else {"commit": head, "changed": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
