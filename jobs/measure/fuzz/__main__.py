"""Feeds gcnrec unchecked inputs: files of every kind that it reads, damaged; odd paths, settings, conditions and servers.

    python -m jobs.measure.fuzz --out RECORD.json [--cases 20000] [--families NAME,...] [--minutes M] [--jobs 2] [--seed 0]
        [--keep DIR]

Every case goes through the command line in a process of bounded memory and time. It must end with exit code 0, 2, 3 or 4 (5 where
training may diverge). A refused case has one sentence and leaves nothing behind. No case writes outside of the places that its
command names. Where a sound twin of the input exists, exit code 0 means the twin's results: equal lists, metrics, digests. An
ingested case has exactly the pairs that pyarrow reads from the files. Needs hypothesis (`pip install '.[test]'`).

The record has a row for each outcome of each kind, a row for each family, and the reasons of refusals that no check foresaw: at
most 1 % of the cases, none of them twice. --keep has the input of every failure. The exit code is 1 when there was a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shlex
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gcnrec.bench.harness import write_record
from gcnrec.bench.worker import Worker
from gcnrec.errors import DeviceError
from jobs.measure.fuzz import world
from jobs.measure.fuzz.cases import arguments, folders, inputs
from jobs.measure.fuzz.cases.case import Case
from jobs.measure.fuzz.cases.parquet import parquet_case
from jobs.measure.fuzz.cases.settings import card_case, job_case
from jobs.measure.fuzz.judge import Verdict, changes, judge, listing, prepare

SHARES = {
    "parquet": 0.15, "jobs": 0.08, "cards": 0.05, "datasets": 0.16, "runs": 0.2, "requests": 0.1, "paths": 0.07,
    "settings": 0.08, "conditions": 0.06, "sources": 0.05,
}  # fmt: skip
DRAWN: dict[str, Callable[[Random, Path], Case]] = {
    "datasets": folders.dataset_case, "runs": folders.run_case, "requests": inputs.request_case, "paths": arguments.path_case,
    "settings": arguments.setting_case, "conditions": arguments.condition_case, "sources": inputs.source_case,
}  # fmt: skip
BATCH = 250
PER_PROCESS = 1000
"""Cases after which a process gives way to a fresh one: what one case leaves in it cannot pile up."""
MOST_UNFORESEEN = 0.01
OF_CASES = ("results", "here", "home", "scratch")
"""Folders of a slot that cases change; the others are its sound world."""
Judged = tuple[str, Case, Verdict]
"""The family of a case, the case, and its verdict."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--families", default=",".join(SHARES), help="default: all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no case begins later")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given_ = parser.parse_args()
    chosen = given_.families.split(",")
    if not set(chosen) <= set(SHARES):
        parser.error(f"--families expects some of {', '.join(SHARES)}, got {given_.families}")
    begun = time.perf_counter()
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")  # of the processes that cases run in
    with slots(given_.jobs) as ready:
        results = campaign(ready, plan(given_.cases, chosen), given_.seed, begun + 60 * given_.minutes)
    if given_.keep:
        keep(results, given_.keep)
    rows = [*tally(results), *by_family(results), summary(results, given_.seed, time.perf_counter() - begun)]
    print(json.dumps(rows, indent=1))
    options = ["--out", given_.out.name, "--cases", str(given_.cases), "--seed", str(given_.seed), "--jobs", str(given_.jobs)]
    options += ["--families", given_.families] if chosen != list(SHARES) else []
    options += ["--minutes", f"{given_.minutes:g}"] if given_.minutes < float("inf") else []
    write_record(given_.out, shlex.join(["python", "-m", "jobs.measure.fuzz", *options]), rows)
    sys.exit(1 if rows[-1]["failures"] or rows[-1]["unforeseen_faults"] else 0)


@dataclass
class Slot:
    """A world, and the process that works in it."""

    folder: Path
    worker: Worker | None = None
    done: int = 0

    def judged(self, case: Case) -> Verdict:
        """The verdict on a case; a process that dies of it is a verdict, and a fresh one continues with the next."""
        if self.worker is None:
            self.worker, self.done = Worker(), 0
            self.worker(prepare, str(self.folder))
        try:
            self.done += 1
            verdict: Verdict = self.worker(judge, case)
        except DeviceError as problem:
            self.close()
            hung = "exit code -14" in str(problem)
            return Verdict("hang" if hung else "crash", "hang" if hung else f"crash: {problem}"[:120])
        except Exception as problem:  # of the judge itself: the campaign goes on, and does not count as sound
            return Verdict("no verdict", f"the judge failed: {type(problem).__name__}: {problem}"[:200])
        if self.done >= PER_PROCESS:
            self.close()
        return verdict

    def close(self) -> None:
        if self.worker:
            self.worker.__exit__()
            self.worker = None


@contextmanager
def slots(count: int) -> Iterator[list[Slot]]:
    """Worlds in memory where there is such a folder: a case writes a hundred files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = [Slot(Path(folder).resolve() / str(number)) for number in range(count)]
        for slot in made:
            with Worker() as worker:
                worker(world.make, str(slot.folder))
        try:
            yield made
        finally:
            for slot in made:
                slot.close()


def plan(cases: int, chosen: list[str]) -> list[tuple[str, int, int]]:
    """Batches of one family: (family, its number, how many cases), families in turn: any beginning has some of each."""
    whole = sum(SHARES[family] for family in chosen)
    batches: list[tuple[float, str, int, int]] = []
    for family in chosen:
        total = round(cases * SHARES[family] / whole)
        size = min(BATCH, max(1, total // 8))
        batches += [(at / total, family, at // size, min(size, total - at)) for at in range(0, total, size)]
    return [(family, number, count) for _, family, number, count in sorted(batches)]


def campaign(ready: list[Slot], batches: list[tuple[str, int, int]], first_seed: int, until: float) -> list[Judged]:
    """The verdicts on all cases of the batches that begin in time."""
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in ready:
        free.put(slot)

    def batch(which: tuple[str, int, int]) -> list[Judged]:
        slot = free.get()
        try:
            cases = drawn(first_seed, *which, slot.folder / "kept") if time.perf_counter() < until else []
            before = listing(slot.folder, OF_CASES)
            judged = [(which[0], case, slot.judged(case)) for case in cases if time.perf_counter() < until]
            changed = sorted(changes(before, listing(slot.folder, OF_CASES)))[:3]
            if changed:
                judged.append((which[0], cases[-1], Verdict("world", f"a case of the batch changed the sound world: {changed}")))
            return judged
        finally:
            free.put(slot)

    if len(ready) == 1:
        return [each for which in batches for each in batch(which)]
    with ThreadPoolExecutor(len(ready)) as pool:
        results = [each for part in pool.map(batch, batches) for each in part]
    for slot in ready:
        slot.close()  # a process ends with the thread that made it
    return results


_ONE_AT_A_TIME = threading.Lock()


def drawn(first_seed: int, family: str, number: int, count: int, kept: Path) -> list[Case]:
    """The cases of a batch, the same for the same seed."""
    if family in DRAWN:
        return [DRAWN[family](Random(f"{first_seed} {family} {number} {each}"), kept) for each in range(count)]
    strategy: st.SearchStrategy[Case] = {"parquet": parquet_case(), "jobs": job_case(), "cards": card_case()}[family]
    cases: list[Case] = []

    @seed(first_seed * 1_000_003 + number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(case: Case) -> None:
        cases.append(case)

    with _ONE_AT_A_TIME:
        collect()
    return cases[:count]


def tally(results: list[Judged]) -> list[dict[str, Any]]:
    """Counts of the outcomes of each kind."""
    counted = Counter((family, case.kind, verdict.outcome) for family, case, verdict in results)
    return [
        {"family": family, "kind": kind, "outcome": outcome, "cases": count}
        for (family, kind, outcome), count in sorted(counted.items())
    ]


def by_family(results: list[Judged]) -> list[dict[str, Any]]:
    """A row for each family."""
    rows = []
    for family in dict.fromkeys(family for family, _, _ in results):
        own = [(case, verdict) for name, case, verdict in results if name == family]
        rows.append({
            "family": family, "cases": len(own), "exit_0": sum(verdict.outcome == "exit 0" for _, verdict in own),
            "compared_with_a_twin": sum(case.twin is not None and verdict.outcome == "exit 0" for case, verdict in own),
            "unforeseen": sum(bool(verdict.unforeseen) for _, verdict in own),
            "failures": sum(bool(verdict.failure) for _, verdict in own),
        })  # fmt: skip
    return rows


def summary(results: list[Judged], first_seed: int, seconds: float) -> dict[str, Any]:
    """Totals; of the Parquet cases, the share that got as far as a graph; what no check foresaw."""
    parquet = [verdict for family, _, verdict in results if family == "parquet"]
    failures = Counter(verdict.failure for _, _, verdict in results if verdict.failure)
    reached = sum(verdict.outcome == "exit 0" for verdict in parquet) / max(len(parquet), 1)
    held = sum(case.oracle and verdict.outcome == "exit 0" for _, case, verdict in results)
    reasons = Counter(verdict.unforeseen for _, _, verdict in results if verdict.unforeseen)
    share = sum(reasons.values()) / max(len(results), 1)
    twice = sorted(reason for reason, count in reasons.items() if count > 1)
    return {
        "summary": True, "seed": first_seed, "cases": len(results), "parquet_cases": len(parquet),
        "reached_the_graph": round(reached, 3), "held_against_pyarrow": held, "failures": sum(failures.values()),
        "distinct_failures": dict(failures), "unforeseen_share": round(share, 5), "unforeseen": dict(reasons),
        "unforeseen_faults": len(twice) + (share > MOST_UNFORESEEN), "seconds": round(seconds, 1),
    }  # fmt: skip


def keep(results: list[Judged], folder: Path) -> None:
    """The failed cases and the unforeseen ones, one folder each: the files, and case and verdict as JSON."""
    for number, (family, case, verdict) in enumerate(results):
        if verdict.failure or verdict.unforeseen:
            place = folder / f"{family}-{number}"
            for name, data in case.files.items():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(data)
            place.mkdir(parents=True, exist_ok=True)
            facts = {
                "kind": case.kind, "arguments": case.arguments, "outcome": verdict.outcome, "failure": verdict.failure,
                "message": verdict.message, "unforeseen": verdict.unforeseen,
                "damages": [asdict(each) for each in case.damages], "world": case.world, "sealed": case.sealed,
                "read_before": case.read_before,
            }  # fmt: skip
            (place / "case.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
