"""Where a run comes from: what `lineage.json` says, and the job as one that can be run again from anywhere.

Results are equal for equal data, job, number of threads, machine and versions: all of these are written down.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numba
import torch

from gcnrec.config import Data, Job
from gcnrec.loaders.recipe import PLACES
from gcnrec.loaders.schema import Dataset
from gcnrec.system.machine import available_cores, machine, versions
from gcnrec.tables.placement import uses_gpu
from gcnrec.version import __version__

FORMAT = 1
_LIBRARIES = ("llvmlite", "pydantic", "safetensors", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda")
ENVIRONMENT = ("ATEN_", "CUBLAS_", "CUDA_", "GOMP_", "KMP_", "MKL_", "NUMBA_", "NVIDIA_TF32", "OMP_", "OPENBLAS_", "PYTORCH_")
"""Beginnings of the variables that change how libraries compute, or on what."""
_LEAKS = "leakage_"


def resolved(job: Job, dataset: Dataset) -> Job:
    """`job` with `[data]` as `dataset` was made, its folder and digest, and with absolute paths: what job.toml of a run holds."""
    recipe = {key: value for key, value in dataset.info.get("data", {}).items() if key not in PLACES}
    data = Data.model_validate({**recipe, "folder": str(dataset.folder.resolve()), "digest": dataset.digest})
    return located(job).model_copy(update={"data": data})


def located(job: Job) -> Job:
    """`job` with the earlier run that it starts from as an absolute path."""
    if job.train.init_from is None:
        return job
    earlier = str(Path(job.train.init_from).resolve())
    return job.model_copy(update={"train": job.train.model_copy(update={"init_from": earlier})})


def lineage_of(job: Job, dataset: Dataset) -> dict[str, Any]:
    """`lineage.json` of a run that begins now. Environment variables are read here, and only those that change a computation."""
    data = {"name": dataset.name, "folder": str(dataset.folder.resolve()), "digest": dataset.digest}
    leaks = {key: value for key, value in dataset.info.get("report", {}).items() if key.startswith(_LEAKS)}
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "working_directory": str(Path.cwd()),
        "gcnrec": {"version": __version__, **_checkout(Path(__file__).resolve().parents[2])},
        "data": data | leaks,
        "machine": machine(),
        "libraries": {name: version for name, version in versions(_LIBRARIES).items() if version},
        "threads": job.train.threads or min(available_cores(), numba.config.NUMBA_NUM_THREADS),
        "device": _device(job),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(ENVIRONMENT)},
    }


def command() -> str:
    """How this process was started, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _device(job: Job) -> str:
    if not uses_gpu(job):
        return "cpu"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cuda"


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
