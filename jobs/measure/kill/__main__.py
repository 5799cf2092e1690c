"""Kills runs at random moments with SIGKILL, resumes them, and compares them with uninterrupted runs.

    python -m jobs.measure.kill --out RECORD.json [--kills 100] [--jobs 2] [--seed 0] [--work DIR] [--only TRIAL]

Makes its own data and the jobs (dense and slot tables; no, sampled and full propagation; refits; early stopping; one thread and
two), all with a checkpoint every few steps. A killed run is resumed, some are killed again; it must end with the same digests as
the uninterrupted run, file by file, and must not do more steps again than lie between two checkpoints. Steps are counted by the
process itself, through a pipe. The record holds a row for every kill; the exit code is 1 when a run ended otherwise.
What a trial does follows from --seed and its number: `--only 17` does trial 17 again. --work keeps what went wrong.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gcnrec.bench.harness import write_record
from gcnrec.loaders.synthetic import World, write_world
from jobs.measure.kill import plan
from jobs.measure.kill.processes import CHECKOUT
from jobs.measure.kill.trials import Bed, Reference, Row, reference, sound, trial

WORLD = World(users=500, items=300, edges=14_000, blocks=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", type=int, metavar="TRIAL")
    given = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bed = make_bed(given.work or Path(folder))
        chosen = list(plan.VARIANTS) if given.only is None else [plan.variant_of(given.only)]
        with ThreadPoolExecutor(given.jobs) as pool:
            references = {each.variant: each for each in pool.map(lambda variant: reference(variant, bed), chosen)}
            rows = kill_all(given.kills, given.only, given.seed, references, bed, pool)
    seconds = round(time.perf_counter() - begun, 1)
    summary = summarised(rows, given.seed, seconds)
    print(json.dumps(summary, indent=2))
    command = shlex.join(["python", "-m", "jobs.measure.kill", *_without(sys.argv[1:], "--work")])
    write_record(given.out, command, [*(each.row() for each in references.values()), *rows, summary])
    if not summary["all_sound"]:
        sys.exit(1)


def make_bed(work: Path) -> Bed:
    """The data, ingested by the command line, and the job file."""
    work.mkdir(parents=True, exist_ok=True)
    write_world(WORLD, work / "world")
    ingest = ["ingest", "--train", str(work / "world"), "--user", "user", "--item", "item", "--out", str(work / "data")]
    subprocess.run([sys.executable, "-m", "gcnrec", *ingest], check=True, cwd=CHECKOUT, capture_output=True)
    (work / "job.toml").write_text(plan.JOB, encoding="utf-8")
    return Bed(work / "job.toml", work / "data", work)


def kill_all(
    kills: int, only: int | None, seed: int, references: dict[str, Reference], bed: Bed, pool: ThreadPoolExecutor
) -> list[Row]:
    """Trials 0, 1, ... until there are at least so many kills: a run that ends before its kill adds none. Or `only` one."""

    def do(number: int) -> list[Row]:
        return trial(number, seed, references[plan.variant_of(number)], bed)

    if only is not None:
        return logged(do(only))
    rows: list[Row] = []
    done = 0
    while len(rows) < kills:
        wanted = range(done, done + max(1, (kills - len(rows)) * plan.AGAIN_EVERY // (plan.AGAIN_EVERY + 1)))
        for each in pool.map(do, wanted):
            rows += logged(each)
        done = wanted.stop
    return rows


def logged(rows: list[Row]) -> list[Row]:
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def summarised(rows: list[Row], seed: int, seconds: float) -> Row:
    """The figures of the record: how many kills, where, and whether every run ended as the uninterrupted one."""
    return {
        "summary": True,
        "seed": seed,
        "kills": len(rows),
        "after_first_checkpoint_before_end": sum(row["inside"] for row in rows),
        "runs_killed_twice": sum(row["kill"] == 2 for row in rows),
        "phases": dict(Counter(row["phase"] for row in rows).most_common()),
        "checkpoint_interval_steps": plan.INTERVAL,
        "most_steps_repeated": max((row["repeated"] for row in rows), default=0),
        "least_steps_repeated": min((row["repeated"] for row in rows), default=0),
        "all_sound": bool(rows) and all(map(sound, rows)),
        "failed_trials": sorted({row["trial"] for row in rows if not sound(row)}),
        "seconds": seconds,
    }


def _without(arguments: list[str], option: str) -> list[str]:
    """The command without `option` and its value: a folder of this machine."""
    kept = list(arguments)
    if option in kept:
        del kept[kept.index(option) : kept.index(option) + 2]
    return kept


if __name__ == "__main__":
    main()
