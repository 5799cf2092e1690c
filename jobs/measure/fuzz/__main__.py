"""Feeds gcnrec unchecked inputs: Parquet of every type and layout, damaged Parquet, damaged job files and cards.

    python -m jobs.measure.fuzz --out RECORD.json [--cases 10000] [--jobs 2] [--seed 0] [--keep DIR]

Every case goes through the command line in a process of bounded memory and time. It must end with exit code 0, 2, 3 or 4 (5 where
training may diverge), one sentence and nothing left behind when it is refused, and, when it is not, with a data set whose digests
hold and whose graph has exactly the pairs that pyarrow reads from the files. Needs hypothesis (`pip install '.[test]'`).
The record tallies outcomes by kind; --keep has the files and arguments of every failure. The exit code is 1 when there was one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gcnrec.bench.harness import write_record
from gcnrec.bench.worker import Worker
from gcnrec.errors import DeviceError
from jobs.measure.fuzz.judge import Verdict, judge, prepare
from jobs.measure.fuzz.parquet import Case, parquet_case
from jobs.measure.fuzz.settings import card_case, job_case

SHARES = {"parquet": 0.6, "jobs": 0.3, "cards": 0.1}
BATCH = 250
PER_PROCESS = 400
"""Cases after which a process gives way to a fresh one: what one case leaves in it cannot pile up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given_ = parser.parse_args()
    begun = time.perf_counter()
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")  # of the processes that cases run in
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(Path(folder))
        with ThreadPoolExecutor(given_.jobs) as pool:
            batches = list(pool.map(lambda at: drawn(given_.seed, *at), plan(given_.cases)))
            results = [each for part in pool.map(lambda cases: judged(cases, home), batches) for each in part]
    if given_.keep:
        keep(results, given_.keep)
    rows = [*tally(results), summary(results, given_.seed, time.perf_counter() - begun)]
    print(json.dumps(rows, indent=1))
    chosen = ["--out", given_.out.name, "--cases", str(given_.cases), "--seed", str(given_.seed)]
    write_record(given_.out, shlex.join(["python", "-m", "jobs.measure.fuzz", *chosen]), rows)
    sys.exit(1 if rows[-1]["failures"] else 0)


def make_home(home: Path) -> Path:
    """The working folder of cases, with the small data set `tiny` that jobs train on."""
    (home / "cases").mkdir()
    draw = np.random.default_rng(0)
    pairs = pa.table({"user": draw.integers(0, 60, 900), "item": draw.integers(0, 40, 900), "weight": draw.random(900)})
    pq.write_table(pairs, home / "cases" / "tiny.parquet")
    with Worker() as worker:
        worker(ingest_tiny, str(home))
    return home / "cases"


def ingest_tiny(home: str) -> None:
    from jobs.measure.fuzz.judge import call

    os.chdir(home)
    names = ["--train", "cases/tiny.parquet", "--user", "user", "--item", "item"]
    code, printed = call(["ingest", "--json", *names, "--split", "random", "--out", "cases/tiny"])
    if code:
        raise DeviceError(f"the small data set could not be ingested: {printed}")


def plan(cases: int) -> list[tuple[str, int, int]]:
    """Batches of one kind: (kind, its number, how many cases)."""
    batches = []
    for kind, share in SHARES.items():
        left, number = round(cases * share), 0
        while left > 0:
            batches.append((kind, number, min(BATCH, left)))
            left, number = left - BATCH, number + 1
    return batches


def drawn(first_seed: int, kind: str, number: int, count: int) -> list[Case]:
    """The cases of a batch, the same for the same seed."""
    strategy: st.SearchStrategy[Case] = {"parquet": parquet_case(), "jobs": job_case(), "cards": card_case()}[kind]
    cases: list[Case] = []

    @seed(first_seed * 1_000_003 + number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(case: Case) -> None:
        cases.append(case)

    collect()
    return cases[:count]


def judged(cases: list[Case], home: Path) -> list[tuple[Case, Verdict]]:
    """Every case and its verdict; a process that dies of a case is a verdict, and a fresh one continues with the rest."""
    results: list[tuple[Case, Verdict]] = []
    while len(results) < len(cases):
        with tempfile.TemporaryDirectory(dir=home) as own, Worker() as worker:
            for name in ("tiny", "tiny.parquet"):
                (Path(own) / name).symlink_to(home / name)
            worker(prepare, own)
            for case in cases[len(results) : len(results) + PER_PROCESS]:
                try:
                    results.append((case, worker(judge, case)))
                except DeviceError as problem:
                    hung = "exit code -14" in str(problem)
                    results.append((case, Verdict("hang" if hung else "crash", "hang" if hung else f"crash: {problem}"[:120])))
                    break
    return results


def tally(results: list[tuple[Case, Verdict]]) -> list[dict[str, Any]]:
    """Counts of the outcomes of each kind."""
    counted = Counter((case.kind, verdict.outcome) for case, verdict in results)
    return [{"kind": kind, "outcome": outcome, "cases": count} for (kind, outcome), count in sorted(counted.items())]


def summary(results: list[tuple[Case, Verdict]], first_seed: int, seconds: float) -> dict[str, Any]:
    """Totals; of the Parquet cases, the share that got as far as a graph."""
    parquet = [verdict for case, verdict in results if case.kind in ("generated", "mutated bytes")]
    failures = Counter(verdict.failure for _, verdict in results if verdict.failure)
    reached = sum(verdict.outcome == "exit 0" for verdict in parquet) / max(len(parquet), 1)
    held = sum(case.oracle and verdict.outcome == "exit 0" for case, verdict in results)
    return {
        "summary": True, "seed": first_seed, "cases": len(results), "parquet_cases": len(parquet),
        "reached_the_graph": round(reached, 3), "held_against_pyarrow": held, "failures": sum(failures.values()),
        "distinct_failures": dict(failures), "seconds": round(seconds, 1),
    }  # fmt: skip


def keep(results: list[tuple[Case, Verdict]], folder: Path) -> None:
    """The failed cases, one folder each: the files, and arguments and verdict as JSON."""
    for number, (case, verdict) in enumerate(results):
        if verdict.failure:
            for name, data in case.files.items():
                (folder / str(number) / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / str(number) / name).write_bytes(data)
            facts = {"kind": case.kind, "arguments": case.arguments, "outcome": verdict.outcome, "failure": verdict.failure}
            (folder / str(number) / "case.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
