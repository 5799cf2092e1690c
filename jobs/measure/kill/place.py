"""The folders of a trial: the bed of inputs that all share and none may change, and a place with all that one command writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.loaders.synthetic import World, write_world
from jobs.measure.kill import commands
from jobs.measure.kill.digests import digests
from jobs.measure.kill.processes import CHECKOUT, QUIET

WORLD = World(users=500, items=300, edges=14_000, blocks=6)
_HELD = 300
"""Test pairs of the case that deals plain pairs to buckets."""
_MADE = (
    "ingest --train {bed}/events.parquet --user user --item item --out {bed}/data",
    "ingest --train {bed}/events.parquet --user user --item item --seed 1 --k-core 3 --out {bed}/old",
    "train {bed}/job.toml --data {bed}/data --out {bed}/trained",
    "run {bed}/job.toml --data {bed}/data --out {bed}/run",
    "run {bed}/job.toml --data {bed}/data --out {bed}/second --set train.seed=1",
    "recommend {bed}/second --out {bed}/recs.parquet --k 3",
)
_HALF = (".part", ".old", ".lock")


@dataclass(frozen=True)
class Place:
    """A folder with the working directory, the temporary folder and the user's cache of one command at a time."""

    folder: Path
    bed: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the command: its own folders, one thread a library, a checkout, no buffer of stdout."""
        own = {"TMPDIR": str(self.folder / "tmp"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        shared = {"PYTHONPATH": str(CHECKOUT), "MPLCONFIGDIR": str(self.bed / "matplotlib"), "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **QUIET, **shared, **own}

    def lay(self, before: tuple[tuple[str, str], ...]) -> None:
        """Empty the place; copy `before`, pairs of a name in the bed and a name in the working directory."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("work", "tmp", "cache"):
            (self.folder / name).mkdir(parents=True)
        for source, target in before:
            if (self.bed / source).is_dir():
                shutil.copytree(self.bed / source, self.work / target)
            else:
                shutil.copyfile(self.bed / source, self.work / target)

    def names(self) -> set[str]:
        """Files and folders below the working directory, and all of the temporary folder."""
        return {str(path.relative_to(self.folder)) for top in ("work", "tmp") for path in (self.folder / top).rglob("*")}

    def left_in_cache(self) -> list[str]:
        """Half-written files of the cache."""
        cache = self.folder / "cache"
        return sorted(str(path.relative_to(self.folder)) for path in cache.rglob("*") if path.name.endswith(_HALF))

    def state(self, target: str) -> str:
        """A text that is equal for equal content of `target`; "absent" without it. Raises what a reader raises."""
        path = self.work / target
        if path.is_dir():
            return str(sorted(digests(path).items()))
        return str(digests(path.parent)[path.name]) if path.is_file() else "absent"


def make_bed(bed: Path) -> None:
    """Files of events, pairs, features, new users, segments, jobs; two datasets, three runs and lists, by the command line.

    A bed that is there, of an earlier call, stays.
    """
    if (bed / "recs.parquet").is_file():  # the last file that is made
        return
    bed.mkdir(parents=True)
    write_world(WORLD, bed / "world")
    events = pq.read_table(bed / "world")
    pq.write_table(events, bed / "events.parquet")
    pairs = events.select(["user", "item"])
    pq.write_table(pairs.slice(0, len(pairs) - _HELD), bed / "pairs.parquet")
    pq.write_table(pairs.slice(len(pairs) - _HELD), bed / "held.parquet")
    items = np.unique(events["item"])
    words = [["red", "blue", "old"][: 1 + int(item) % 3] for item in items]
    pq.write_table(pa.table({"item": items, "price": items * 0.5, "words": words}), bed / "features.parquet")
    pq.write_table(pa.table({"user": np.repeat([900_001, 900_002, 3], 3), "item": items[:9]}), bed / "new.parquet")
    users = np.unique(events["user"])
    pq.write_table(pa.table({"user": users, "segment": [f"s{user % 3}" for user in users]}), bed / "segments.parquet")
    (bed / "job.toml").write_text(commands.JOB, encoding="utf-8")
    (bed / "shop.toml").write_text(commands.JOB + commands.SHOP.format(bed=bed), encoding="utf-8")
    (bed / "grid.toml").write_text(commands.GRID, encoding="utf-8")
    maker = Place(bed.parent / "maker", bed)
    maker.lay(())
    for words_of in _MADE:
        made = subprocess.run(
            [sys.executable, "-m", "gcnrec", *words_of.format(bed=bed).split()],
            cwd=maker.work, env=maker.environment, capture_output=True, text=True,
        )  # fmt: skip
        if made.returncode:
            raise SystemExit(f"{words_of} ended with {made.returncode}: {made.stderr}")


def marks(bed: Path) -> dict[str, tuple[int, int]]:
    """Path -> bytes and time of the last change, of all files of the bed that are inputs."""
    files = (path for path in bed.rglob("*") if path.is_file() and "matplotlib" not in path.parts)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
