"""The sound folders and files that cases damage copies of: data sets, finished and interrupted runs, a sweep, requests.

kept/       the world, never written to after it was made
here/       the working folder of cases, where the world was made: run folders name the path of their dataset
outside/    what no case may touch, next to the home folders of cases
results/    what sound cases gave
tiny/       a data set and its Parquet for cases that damage neither
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.errors import DeviceError, Terminated
from jobs.measure.fuzz.command import call

USERS, ITEMS, ROWS = 60, 40, 900
EPOCHS, STOPPED_AFTER = 4, 3
JOB = f"""
[model]
width = 8
start = "normal"

[optimizer]
learning_rate = 0.02

[train]
epochs = {EPOCHS}
batch_size = 256
threads = 1

[evaluate]
k = [5]
metric = "recall@5"
bootstrap = 20
baselines = ["popularity"]

[run]
checkpoint_every = 1
keep_checkpoints = 3
"""
RUNS = {
    "dense": ("data", []),
    "slots": ("data", ["table.budget=0.5", "sparsity.policy=dynamic", "sparsity.interval=1", "sparsity.batches=1"]),
    "closed": ("plain", ["model.name=itemknn"]),
    "mixture": ("plain", ["mixture.with=['itemknn', 'linkprop']", "mixture.weights=[1.0, 0.5, 0.25]"]),
}
"""Finished runs: their data set, and what they set."""
GRID = 'job = "job.toml"\n[grid]\ntrain.seed = [0, 1]\n'
LOOSE_FILES = ("job.toml", "grid.toml", "users.csv", "pairs.csv", "segments.csv")


def make(slot: str) -> None:
    """Make a world in the empty folder `slot`, which becomes the working folder's parent."""
    home = Path(slot)
    for name in ("here", "outside", "results"):
        (home / name).mkdir(parents=True)
    (home / "outside" / "secret.txt").write_text("no case reads or writes this\n")
    os.chdir(home / "here")
    write_inputs()
    columns = ["--user", "user", "--item", "item", "--split", "random", "--test-size", "0.2", "--valid-size", "0.1"]
    features = ["--item-features", "items.parquet", "--user-features", "users.parquet"]
    gcnrec("ingest", "--train", "tiny.parquet", *columns, "--time", "time", "--weight", "weight", *features, "--out", "data")
    gcnrec("ingest", "--train", "tiny.parquet", *columns, "--out", "plain")
    for name, (data, sets) in RUNS.items():
        train(name, data, sets)
    interrupt("begun")
    for seed in (0, 1):  # what `gcnrec sweep` would start in a process each
        train(f"sweep/runs/seed={seed}", "plain", [f"train.seed={seed}", "evaluate.baselines=[]"])
    shutil.copytree("plain", home / "tiny")
    shutil.copy("tiny.parquet", home)
    os.chdir(home)
    (home / "here").rename(home / "kept")
    (home / "here").mkdir()


def gcnrec(*arguments: str) -> None:
    code, _, printed, _ = call(list(arguments))
    if code:
        raise DeviceError(f"the world could not be made: {arguments}: {printed}")


def train(name: str, data: str, sets: list[str]) -> None:
    """A run that has all files of a finished one; drawing its report would take most of the time."""
    gcnrec("train", "job.toml", "--data", data, "--out", name, *[part for each in sets for part in ("--set", each)])
    gcnrec("evaluate", name)
    (Path(name) / "report.html").write_text("<!doctype html>\n")


def write_inputs() -> None:
    """Interactions, features, a job, a grid, and files of ids."""
    draw = np.random.default_rng(0)
    users, items = draw.integers(0, USERS, ROWS), draw.integers(0, ITEMS, ROWS)
    times = 1_700_000_000 + draw.integers(0, 10**7, ROWS)
    pq.write_table(pa.table({"user": users, "item": items, "weight": draw.random(ROWS), "time": times}), "tiny.parquet")
    pq.write_table(pa.table({"item": np.arange(ITEMS), "price": draw.random(ITEMS)}), "items.parquet")
    pq.write_table(pa.table({"user": np.arange(USERS), "age": draw.integers(18, 80, USERS)}), "users.parquet")
    Path("job.toml").write_text(JOB)
    Path("grid.toml").write_text(GRID + "[evaluate]\nbaselines = []\n")
    Path("users.csv").write_text("user\n" + "".join(f"{user}\n" for user in range(0, USERS, 3)))
    Path("pairs.csv").write_text(
        "user,item\n" + "".join(f"{user},{user % ITEMS}\n{user},{user * 7 % ITEMS}\n" for user in range(USERS))
    )
    Path("segments.csv").write_text("user,segment\n" + "".join(f"{user},{'ab'[user % 2]}\n" for user in range(USERS)))


def interrupt(name: str) -> None:
    """A run that SIGTERM stopped after an epoch."""
    from gcnrec.config import Job
    from gcnrec.loaders.schema import open_dataset
    from gcnrec.system.observer import Observer
    from gcnrec.training.train import train as fit

    class Stopping(Observer):
        def epoch(self, record: dict[str, Any]) -> None:
            if record["epoch"] == STOPPED_AFTER:
                signal.raise_signal(signal.SIGTERM)

    with suppress(Terminated):
        fit(Job.load(Path("job.toml")), open_dataset("data"), Path(name), observer=Stopping())
        raise DeviceError(f"the run {name} was to be stopped and came to its end")


def files_of(kept: Path, folder: str) -> list[str]:
    """The files of a folder of the world, as a case names them."""
    return [str(path.relative_to(kept)) for path in sorted((kept / folder).rglob("*")) if path.is_file()]


def lay_out(slot: Path, names: tuple[str, ...]) -> Path:
    """The working folder, empty but for copies of these parts of the world; the homes of cases are empty, too."""
    here = slot / "here"
    for folder in (here, slot / "home", slot / "scratch"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for name in names:
        source = slot / "kept" / name
        if source.is_dir():
            shutil.copytree(source, here / name, symlinks=True)
        else:
            shutil.copy2(source, here / name)
    return here
