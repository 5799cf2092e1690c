"""Ends commands at random moments, types them again, and compares what they leave with commands that were left alone.

    python -m jobs.measure.kill --out RECORD.json [--kills 100] [--minutes M] [--jobs 2] [--seed 0] [--work DIR]
        [--commands ingest,run,steps] [--only TRIAL]

All commands of `commands.py` meet all endings of `endings.py`: SIGKILL, SIGTERM, Ctrl-C, both twice, SIGHUP, a pause, lost
streams, files that may not grow. After it, targets are the old ones or the new ones, whole. The command typed again, with
--resume or as its sentence says, ends as if nothing had happened: same files, same digests, nothing left. A command that was
asked to end says one sentence, in time. Signals count from the moment at which the process handles SIGTERM.

Trials of the name `steps` kill training runs (dense and slot tables; no, sampled and full propagation; refits; early stopping)
with a checkpoint every few steps. Steps are counted by the process itself, through a pipe. A resumed run repeats at most the
steps between two checkpoints.

What a trial does follows from --seed and its number: `--only 17` does trial 17 again. --work keeps what went wrong. The record
holds a row for every ended process; the exit code is 1 when one is not sound.
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np

from gcnrec.bench.harness import command_of, write_record
from jobs.measure.kill import plan
from jobs.measure.kill.command_trials import Bench, trial
from jobs.measure.kill.commands import CASES, STEPS
from jobs.measure.kill.endings import drawn
from jobs.measure.kill.place import Place, make_bed, marks
from jobs.measure.kill.processes import CHECKOUT
from jobs.measure.kill.trials import Bed, Reference, Row, reference
from jobs.measure.kill.trials import trial as steps_trial
from jobs.measure.kill.warm import Warm

COMMANDS = sorted({case.command for case in CASES})


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no trial after so many")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--commands", type=lambda text: text.split(","), default=COMMANDS, help=", ".join(COMMANDS))
    parser.add_argument("--only", type=int, metavar="TRIAL")
    given = parser.parse_args()
    if not set(given.commands) <= set(COMMANDS):
        parser.error(f"--commands are some of {','.join(COMMANDS)}")
    return given


def main() -> None:
    given = arguments()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials((given.work or Path(folder)).resolve(), given.seed, given.jobs)
        rows = trials.rows(_numbers(given.only, given.seed, given.commands), given.kills, begun + 60 * given.minutes)
    summary = {"seed": given.seed, **summarised(rows), "seconds": round(time.perf_counter() - begun, 1)}
    print(json.dumps(summary, indent=2))
    command = command_of("jobs.measure.kill", _without(sys.argv[1:], "--work"))
    met = [row for row in rows if row["effective"] or not row["sound"]]
    write_record(given.out, command, [*trials.references(), *met, summary])
    _fold(given.out)
    if not summary["all_sound"]:
        sys.exit(1)


class Trials:
    """All that trials share: the bed of inputs, a bench for each that runs at once, references of training runs."""

    def __init__(self, work: Path, seed: int, jobs: int) -> None:
        make_bed(work / "bed")
        self._seed, self._jobs, self._work = seed, jobs, work
        self._benches: queue.Queue[Bench] = queue.Queue()
        for number in range(jobs):
            place = Place(work / f"place-{number}", work / "bed")
            place.lay(())
            self._benches.put(Bench(place, work, marks(place.bed), Warm(place.environment)))
        self._bed: Bed | None = None
        self._references: dict[str, Reference] = {}
        self._lock = threading.Lock()

    def rows(self, numbers: Iterator[int], kills: int, until: float) -> list[Row]:
        """The rows of trials, by number, until so many processes were ended, the numbers are over, or it is late."""
        rows: list[Row] = []
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                    if number is None or sum(row["effective"] for row in rows) >= kills or time.perf_counter() > until:
                        return
                made = self._trial(number)
                with lock:
                    rows.extend(made)
                for row in made:
                    print(json.dumps(row), file=sys.stderr, flush=True)

        with ThreadPoolExecutor(self._jobs) as pool:
            for each in [pool.submit(work) for _ in range(self._jobs)]:
                each.result()
        return sorted(rows, key=lambda row: (row["trial"], row.get("kill", 0)))

    def references(self) -> list[Row]:
        """The rows of the uninterrupted training runs."""
        return [each.row() for each in self._references.values()]

    def _trial(self, number: int) -> list[Row]:
        case, ending = drawn(self._seed, number)
        if case.name == STEPS:
            return self._steps(number)
        bench = self._benches.get()
        try:
            return [trial(number, self._seed, case, ending, bench)]
        finally:
            self._benches.put(bench)

    def _steps(self, number: int) -> list[Row]:
        with self._lock:
            self._bed = self._bed or _steps_bed(self._work / "steps")
            variant = plan.variant_of(number)
            if variant not in self._references:
                self._references[variant] = reference(variant, self._bed)
        return steps_trial(number, self._seed, self._references[variant], self._bed)


def _numbers(only: int | None, seed: int, chosen: list[str]) -> Iterator[int]:
    """Numbers of the trials of the chosen commands, or the one that is given."""
    if only is not None:
        return iter([only])
    return (number for number in count() if drawn(seed, number)[0].command in chosen)


def _steps_bed(work: Path) -> Bed:
    """The data, ingested by the command line, and the job file of training runs."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    world = str(work.parent / "bed" / "world")
    ingest = ["ingest", "--train", world, "--user", "user", "--item", "item", "--out", str(work / "data")]
    subprocess.run([sys.executable, "-m", "gcnrec", *ingest], check=True, cwd=CHECKOUT, capture_output=True)
    (work / "job.toml").write_text(plan.JOB, encoding="utf-8")
    return Bed(work / "job.toml", work / "data", work)


def _fold(record: Path) -> None:
    """Write a record anew with a row a line."""
    document = json.loads(record.read_text(encoding="utf-8"))
    rows = ",\n".join(f"    {json.dumps(row)}" for row in document.pop("rows"))
    head = json.dumps(document, indent=2).removesuffix("\n}")
    record.write_text(f'{head},\n  "rows": [\n{rows}\n  ]\n}}\n', encoding="utf-8")


def _without(arguments: list[str], option: str) -> list[str]:
    """The command without `option` and its value: a folder of this machine."""
    kept = list(arguments)
    if option in kept:
        del kept[kept.index(option) : kept.index(option) + 2]
    return kept


def summarised(rows: list[Row]) -> Row:
    """Counts by command, ending and part of the command; seconds from a request to the end; loads; faults; and of training runs
    the phases and the steps that were repeated."""
    counted = [row for row in rows if row["effective"]]
    asked = [row for row in counted if row.get("ending", "").startswith(("SIGTERM", "SIGINT"))]
    steps = [row for row in rows if "step" in row]
    return {
        "summary": True,
        "kills": len(counted),
        "ended_before_their_moment": len(rows) - len(counted),
        "by_case": _counts(counted, "case"),
        "by_ending": _counts(counted, "ending"),
        "by_part": _counts(counted, "part"),
        "asked_to_end": _quantiles([row["took_s"] for row in asked]) | {"unit": "seconds until the end"},
        "asked_and_done": sum(row["code"] not in (130, 143) for row in asked),
        "load": _quantiles([row["load"] for row in counted if "load" in row]),
        "training": {
            "phases": _counts(steps, "phase"),
            "killed_twice": sum(row["kill"] == 2 for row in steps),
            "most_steps_repeated": max((row["repeated"] for row in steps), default=0),
        },
        "all_sound": bool(rows) and all(row["sound"] for row in rows),
        "faults": dict(Counter(fault for row in rows for fault in row.get("faults", ())).most_common(50)),
        "failed_trials": sorted({row["trial"] for row in rows if not row["sound"]}),
    }


def _counts(rows: list[Row], key: str) -> dict[str, int]:
    return dict(Counter(row[key] for row in rows if key in row).most_common())


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"of": 0}
    return {"of": len(values), "median": round(float(np.median(values)), 2), "p95": round(float(np.quantile(values, 0.95)), 2),
            "max": max(values)}  # fmt: skip


if __name__ == "__main__":
    main()
