"""From a Parquet file of one's own to recommendations: the commands of the README, with the seconds of each.

    python -m jobs.measure.newcomer --out RECORD.json [--events 100000] [--parquet FILE]

Commands run as `gcnrec init` prints them, in an empty folder with empty caches of compiled kernels. Without --parquet the program
draws events: users and items in groups, a power law of popularity, text ids and times. The figure to reach is a share of
the best baseline's recall on test, of all that `evaluate.baselines` can name; `run` is started anew for these, outside the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MOST_SECONDS, LEAST_SHARE = 180.0, 0.97
BASELINES = ("popularity", "itemknn", "ease", "gfcf", "linkprop")
USERS, ITEMS, GROUPS = 6000, 3000, 30
OWN_GROUP = 15.0
"""How much more an item of the user's group is taken."""
DAY, DAYS, BEGIN = 86_400, 90, 1_700_000_000
METRIC = "recall@20"


def main() -> int:
    """Measure and write the record; the exit code is 1 where it takes longer or finds less than it should."""
    from gcnrec.bench.harness import write_record  # not at the top: commands are processes of their own

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--parquet", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.parquet:
            shutil.copyfile(given.parquet, folder / "events.parquet")
        else:
            pq.write_table(events(given.events, seed=0), folder / "events.parquet")
        rows = commands(folder)
        found = judged(folder, [row["command"] for row in rows])
    seconds = round(sum(row["seconds"] for row in rows), 1)
    holds = seconds <= MOST_SECONDS and found["share_of_the_best"] >= LEAST_SHARE
    data = f"--parquet {given.parquet.name}" if given.parquet else f"--events {given.events}"
    command = f"python -m jobs.measure.newcomer --out {given.out.name} {data}"
    write_record(given.out, command, rows, seconds=seconds, **found, holds=holds)
    print(json.dumps({"seconds": seconds, **found, "holds": holds}, indent=1))
    return int(not holds)


def events(count: int, seed: int) -> pa.Table:
    """Events of users that prefer items of their group: `customer_id`, `sku`, `bought_at`."""
    random = np.random.default_rng(seed)
    popularity_I = 1.0 / np.arange(1, ITEMS + 1) ** 0.8
    group_U, group_I = random.integers(0, GROUPS, USERS), random.integers(0, GROUPS, ITEMS)
    users_E, items_E = random.integers(0, USERS, count), np.empty(count, np.int64)
    for group in range(GROUPS):
        own_E, weights_I = group_U[users_E] == group, popularity_I * np.where(group_I == group, OWN_GROUP, 1.0)
        items_E[own_E] = random.choice(ITEMS, int(own_E.sum()), p=weights_I / weights_I.sum())
    times_E = (BEGIN + random.integers(0, DAYS * DAY, count)) * 1_000_000
    return pa.table(
        {
            "customer_id": [f"c{user:05d}" for user in users_E],
            "sku": [f"S-{item}" for item in items_E],
            "bought_at": pa.array(times_E, pa.timestamp("us")),
        }
    )


def commands(folder: Path) -> list[dict[str, Any]]:
    """Six commands and their seconds: init, those that it prints, similar items and the report."""
    first = run("gcnrec init events.parquet", folder)
    printed = [line.strip() for line in first["said"].splitlines() if line.startswith("  gcnrec ")]
    runs = next(part for line in printed for part in shlex.split(line) if part.startswith("runs/"))
    later = [*printed, f"gcnrec similar {runs} --k 10 --out similar.parquet", f"gcnrec report {runs}"]
    return [{key: row[key] for key in ("command", "seconds")} for row in (first, *(run(line, folder) for line in later))]


def run(line: str, folder: Path) -> dict[str, Any]:
    """A command as it is typed. SystemExit where it fails."""
    program, *arguments = shlex.split(line)
    require_ours(program)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "kernels")}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gcnrec", *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{line!r} ended with {done.returncode}: {done.stderr[-2000:]}")
    return {"command": line, "seconds": round(time.perf_counter() - begun, 1), "said": done.stdout}


def require_ours(program: str) -> None:
    """SystemExit for a line that is no command of gcnrec."""
    if program != "gcnrec":
        raise SystemExit(f"'gcnrec init' printed a command of {program!r}")


def judged(folder: Path, lines: list[str]) -> dict[str, Any]:
    """The test metric of the run, of the best baseline, and their ratio. The run of baselines is not in the seconds."""
    line = next(line for line in lines if line.startswith("gcnrec run "))
    runs = shlex.split(line)[-1]
    own = json.loads((folder / runs / "metrics.json").read_text(encoding="utf-8"))[METRIC]
    values = {}
    for name in BASELINES:
        out = f"runs/{name}"
        run(f"{line.rsplit(' ', 1)[0]} {out} --set model.name={name} --set mixture.with=[] --set evaluate.baselines=[]", folder)
        values[name] = json.loads((folder / out / "metrics.json").read_text(encoding="utf-8"))[METRIC]
    best = max(values, key=lambda name: values[name])
    return {METRIC: own, "baselines": values, "best_baseline": best, "share_of_the_best": round(own / values[best], 4)}


if __name__ == "__main__":
    sys.exit(main())
