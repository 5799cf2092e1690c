"""Makes the files of this folder, which later versions must read: a dataset folder, five runs, and what one of them ends as.

    python tests/old/make.py

`data` is ingested from made-up Parquet. `dense`, `slots`, `graphsage` and `closed` are finished and evaluated. `interrupted` is
stopped within an epoch, after explorations; `resumed` is that run resumed to its end. compare.json holds what `gcnrec compare`
says of the finished ones, made.json what the numbers were computed with. Text files name `@HERE@` where this folder lies.
A change of a format is no reason to make them again: they are here so that later versions read what earlier ones wrote.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before numba and torch load

import llvmlite.binding as llvm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gcnrec.api.judging import compare
from gcnrec.config import Data, Job
from gcnrec.errors import Terminated
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import Dataset
from gcnrec.reports.progress import Quiet
from gcnrec.results.evaluate import evaluate_run, measure_baselines
from gcnrec.runs.folder import open_run
from gcnrec.steps import epochs
from gcnrec.system.machine import versions
from gcnrec.training.train import train, use_threads

HERE = "@HERE@"
FINISHED = ("dense", "slots", "graphsage", "closed")
RUNS = (*FINISHED, "interrupted", "resumed")
TEXTS = (".json", ".jsonl", ".toml")
USERS, ITEMS, TASTES = 60, 50, 5
BEGIN = 1_700_000_000
"""Of the times, in seconds."""
STOPPED = (2, 3)
"""Epoch and step that are reported when the signal comes; the next step, in the middle of the epoch, is the last."""

SPARSE: dict[str, dict[str, Any]] = {
    "model": {"propagation": "full", "width": 16},
    "table": {"budget": 0.5},
    "sparsity": {"policy": "dynamic", "interval": 0.5, "ratio": 0.6, "stop": 1.0, "batches": 2, "user_share": 0.5},
    "loss": {"temperature": 0.2},
}
JOBS: dict[str, dict[str, dict[str, Any]]] = {
    "dense": {
        "model": {"propagation": "full", "layers": 2, "width": 8},
        "train": {"epochs": 2, "refit": "train+valid"},
        "mixture": {"with": ["linkprop"], "weights": [1.0, 0.5]},
        "evaluate": {"baselines": ["itemknn"]},
        "run": {"checkpoint_steps": 5, "keep_checkpoints": 6},
    },
    "slots": {**SPARSE, "table": {"budget": 0.5, "dtype": "bfloat16"}, "evaluate": {"baselines": ["itemknn"]}},
    "graphsage": {"model": {"name": "graphsage", "layers": 2, "width": 8}, "sampler": {"fanouts": [3, 2]}},
    "closed": {"model": {"name": "itemknn"}},
    "interrupted": {**SPARSE, "train": {"epochs": 4}},
}
COMMON: dict[str, dict[str, Any]] = {
    "optimizer": {"learning_rate": 0.02},
    "train": {"epochs": 3, "batch_size": 64, "threads": 1},
    "evaluate": {"k": [5], "metric": "recall@5", "bootstrap": 50, "baselines": []},
    "run": {"checkpoint_steps": 4},
}


class Stopping(Quiet):
    """Asks this process to end at the step `STOPPED`."""

    def step(self, epoch: int, epochs: int, step: int, *figures: float) -> None:
        if (epoch, step) == STOPPED:
            signal.raise_signal(signal.SIGTERM)


def job(name: str) -> Job:
    """The job of the run `name`."""
    own = JOBS[name]
    return Job.parse({part: {**COMMON.get(part, {}), **own.get(part, {})} for part in {**COMMON, **own}}, [], name)


def build(folder: Path) -> None:
    """The dataset folder and the runs of today's version in `folder`."""
    dataset = ingest(write_inputs(folder / "inputs"), folder / "data", data_root=None, name="old")
    with use_threads(1):  # so that numbers do not depend on how many cores there are
        for name in FINISHED:
            run = train(job(name), dataset, folder / name)
            evaluate_run(run)
            measure_baselines(run)
        interrupt(dataset, folder / "interrupted")
        shutil.copytree(folder / "interrupted", folder / "resumed")
        evaluate_run(train(job("interrupted"), dataset, folder / "resumed", resume=True))
        base, *others = (open_run(folder / name) for name in FINISHED)
        write(folder / "compare.json", asdict(compare(base, others)))
    write(folder / "made.json", made_with())


def interrupt(dataset: Dataset, folder: Path) -> None:
    """Train `interrupted` into `folder` until SIGTERM stops it."""
    try:
        with patch.object(epochs, "REPORT_SECONDS", 0.0):  # else the observer does not hear of every step
            train(job("interrupted"), dataset, folder, observer=Stopping())
    except Terminated:
        return
    raise RuntimeError("the run was to be stopped and came to its end")


def write_inputs(folder: Path) -> Data:
    """Made-up Parquet in `folder`, and what to ingest: users like items of their taste, items have words of theirs."""
    folder.mkdir()
    draw = np.random.default_rng(11)
    tastes_U, tastes_I = np.arange(USERS) % TASTES, np.arange(ITEMS) % TASTES
    odds_UI = np.where(tastes_U[:, None] == tastes_I, 0.8, 0.08) * draw.uniform(0.4, 1.2, ITEMS)
    users_E, items_E = np.nonzero(draw.random((USERS, ITEMS)) < odds_UI)
    times_E = BEGIN + draw.integers(0, 30_000_000, len(users_E))
    events = {
        "user": [f"user-{user:02}" for user in users_E],
        "item": [f"item-{item:02}" for item in items_E],
        "time": times_E,
        "weight": draw.integers(1, 4, len(users_E)).astype(np.float32),
    }
    words = [[f"word-{taste}-{word}" for word in draw.permutation(6)[:3]] for taste in tastes_I]
    items = {
        "item": [f"item-{item:02}" for item in range(ITEMS)],
        "price": draw.lognormal(2.0, 0.5, ITEMS),
        "colour": [("red", "green", "blue")[taste % 3] for taste in tastes_I],
        "words": words,
        "words_counts": [[1, 2, 1]] * ITEMS,
    }
    users = {"user": [f"user-{user:02}" for user in range(USERS)], "age": draw.integers(18, 80, USERS)}
    for name, columns in {"events": events, "items": items, "users": users}.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return Data(
        train=str(folder / "events.parquet"), user="user", item="item", time="time", weight="weight", split="random",
        item_features=str(folder / "items.parquet"), user_features=str(folder / "users.parquet"), text_width=4,
    )  # fmt: skip


def made_with() -> dict[str, object]:
    """What the bits of results depend on beside job and data: the processor's instructions, and versions that compute."""
    return {
        "processor": llvm.get_host_cpu_name(),
        "features": llvm.get_host_cpu_features().flatten(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(("torch", "numba", "llvmlite", "numpy", "scipy")),
    }


def write(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def texts(folder: Path) -> list[Path]:
    """The files below `folder` that may name where it lies."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix in TEXTS]


def replace_in_texts(folder: Path, old: str, new: str) -> None:
    for path in texts(folder):
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def main() -> None:
    here = Path(__file__).resolve().parent
    names = ("data", *RUNS, "compare.json", "made.json")
    there = [name for name in names if (here / name).exists()]
    if there:
        sys.exit(f"{here} has {', '.join(there)} and nothing is overwritten; remove them first")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        os.chdir(folder)  # lineage.json tells the working directory
        build(folder)
        shutil.rmtree(folder / "inputs")
        replace_in_texts(folder, str(folder), HERE)
        telling = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file() and tells(path, folder)]
        if telling:
            sys.exit(f"{', '.join(telling)} would tell paths of this machine")
        for name in names:
            shutil.move(folder / name, here / name)


def tells(path: Path, folder: Path) -> bool:
    """Whether a file holds the path of `folder`, or a text any string that begins as an absolute path does."""
    held = path.read_bytes()
    return str(folder).encode() in held or (path.suffix in TEXTS and re.search(rb"""["'\s=:]/\w""", held) is not None)


if __name__ == "__main__":
    main()
