"""Ends trainings of several workers at random moments, resumes them with other numbers of workers, and compares their files.

    python -m jobs.measure.workers.kills --times 100 [--out RECORD.json] [--jobs 1] [--seed 0] [--minutes M] [--work DIR]

A trial trains a job with a checkpoint every few steps by `gcnrec train JOB --workers 2`. A random worker, the leader or another,
ends by SIGKILL at a random moment: at the start, in a step, a checkpoint, a validation, the export. The trial goes on with
--resume and 1, 2 or 4 workers, and is ended again, until it is done. Some ends are SIGTERM or Ctrl-C to the leader.

Workers are forks of a process that has loaded gcnrec (`warm.py`): a start takes longer than their work.

An end is sound when the leader says one sentence, which names a lost worker, with exit code 6 (143 or 130 after SIGTERM or
Ctrl-C), and when no worker lives on. A trial is sound when its files are those of a run of one worker that nobody ended,
earlier checkpoints left out. What a trial does follows from --seed and its number. The record has a row for each end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gcnrec.bench.harness import command_of, write_record
from jobs.measure.kill.digests import differences, digests
from jobs.measure.kill.processes import CHECKOUT, QUIET
from jobs.measure.kill.warm import Forked
from jobs.measure.workers.data import made
from jobs.measure.workers.equal import recorded
from jobs.measure.workers.warm import WarmWorkers

Row = dict[str, Any]
WORKERS = (2, 1, 2, 4)
"""Of the first command of a trial, and of those that resume it, in turn."""
MOST = 8
"""Ends of a trial; it is then left alone."""
SCALE = 6
PATIENCE_S, POLL_S = 300.0, 0.02
LEAVING_S = 60.0
"""From the end of the leader to that of every other worker, at most."""
ENDINGS = {signal.SIGKILL: 0.8, signal.SIGTERM: 0.1, signal.SIGINT: 0.1}
EARLY, EARLY_S = 0.15, 4.0
"""The share of ends that come while a command starts, and its longest delay."""
EXPORTING, EXPORTING_S = 0.15, 0.05
"""The share of ends that wait for the first file of an export, and their longest delay from then on."""
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
ASKED = ("--resume", "start the same command again", "what was written is whole")
"""What a command says that was asked to stop: how it goes on, or that nothing was left to do."""
JOB = """
[model]
width = 16
layers = 2
start = "normal"
propagation = "none"

[optimizer]
rule = "adam"
learning_rate = 0.02
schedule = "cosine"

[train]
epochs = 4
batch_size = 512
threads = 1
parts = 4

[evaluate]
k = [5, 20]
bootstrap = 0
baselines = []

[run]
checkpoint_steps = 3
"""
ENVIRONMENT = {**os.environ, **QUIET, "PYTHONPATH": str(CHECKOUT)}
SLOTS = [
    "table.budget=0.25",
    'sparsity.policy="dynamic"',
    "sparsity.interval=0.4",
    "sparsity.batches=2",
    'table.dtype="bfloat16"',
]
SAMPLED = ['model.propagation="sampled"', "sampler.fanouts=[4, 3]"]
VARIANTS = {
    "dense none": ['sampler.negatives="popularity"', "sampler.num_negatives=3", "train.epochs=6"],
    "slots sampled refit": [*SAMPLED, *SLOTS, 'train.refit="train+valid"'],
    "graphsage": [*SAMPLED, 'model.name="graphsage"'],
    "columns": ['model.propagation="full"', "model.width=64", 'optimizer.rule="adam_dense"', "train.parts=1"],
}
"""--set options of each job."""


@dataclass(frozen=True)
class Bed:
    """The files of trials: their job file, the dataset folder, the folder of run folders and logs."""

    job: Path
    data: Path
    work: Path

    def command(self, variant: str, out: Path, workers: int) -> list[str]:
        """Train a variant by so many workers."""
        sets = [part for option in VARIANTS[variant] for part in ("--set", option)]
        return ["train", str(self.job), "--data", str(self.data), "--out", str(out), "--workers", str(workers), *sets]


@dataclass(frozen=True)
class End:
    """`signal` to worker `rank` (0 leads), `delay_s` after `since`: the start of the command, of training, or of the export."""

    signal: signal.Signals
    rank: int
    delay_s: float
    since: str


@dataclass
class Ended:
    """How a leader ended: its exit code and stderr, whether the signal met it, the phase by its files, seconds to the end of the
    leader and of the last other worker."""

    code: int
    said: str
    met: bool = False
    phase: str = ""
    took_s: float = 0.0
    left_s: float = 0.0
    seconds: float = 0.0


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="ends by SIGKILL")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="trials at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no trial after so many")
    parser.add_argument("--work", type=Path)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bed = made_bed((given.work or Path(folder)).resolve())
        warm = WarmWorkers(ENVIRONMENT)
        expected = {variant: reference(variant, bed, warm) for variant in VARIANTS}
        warm.close()
        rows = all_trials(given, bed, expected, begun + 60 * given.minutes)
    rows.sort(key=lambda row: (row["trial"], row["end"]))
    summary = {"seed": given.seed, **summarised(rows), "seconds": round(time.perf_counter() - begun, 1)}
    print(json.dumps(summary, indent=2))
    if given.out:
        write_record(given.out, command_of("jobs.measure.workers.kills", recorded(sys.argv[1:])), [*rows, summary])
    if not summary["all_sound"]:
        sys.exit(1)


def all_trials(given: argparse.Namespace, bed: Bed, expected: dict[str, Row], until: float) -> list[Row]:
    """The rows of trials 0, 1, ..., some at once, until so many kills are done or it is late."""
    rows, numbers, lock = list[Row](), count(), threading.Lock()

    def work() -> None:
        warm = WarmWorkers(ENVIRONMENT)
        while True:
            with lock:
                if _kills(rows) >= given.times or time.perf_counter() > until:
                    break
                number = next(numbers)
            made = trial(number, given.seed, bed, expected[variant_of(number)], warm)
            with lock:
                rows.extend(made)
        warm.close()

    with ThreadPoolExecutor(given.jobs) as pool:
        for each in [pool.submit(work) for _ in range(given.jobs)]:
            each.result()
    return rows


def variant_of(number: int) -> str:
    """The job of a trial."""
    return list(VARIANTS)[number % len(VARIANTS)]


def made_bed(work: Path) -> Bed:
    """The dataset and the job file of trials."""
    work.mkdir(parents=True, exist_ok=True)
    made("plain", work / "data", SCALE)
    (work / "job.toml").write_text(JOB, encoding="utf-8")
    return Bed(work / "job.toml", work / "data", work)


def reference(variant: str, bed: Bed, warm: WarmWorkers) -> Row:
    """The digests of a run of one worker that nobody ends, and the seconds of its training. SystemExit where it fails."""
    out = bed.work / f"reference-{variant.replace(' ', '-')}"
    shutil.rmtree(out, ignore_errors=True)
    ended = launch(bed.command(variant, out, 1), out.with_suffix(".txt"), out, None, warm)
    if ended.code:
        raise SystemExit(f"the run of {variant!r} that nobody ends ended with {ended.code}: {ended.said}")
    return {"digests": compared(out), "seconds": time.time() - (out / "lineage.json").stat().st_mtime}


def compared(out: Path) -> dict[str, str]:
    """The digests of a run's files without earlier checkpoints: which step they have follows from what asked for a checkpoint."""
    return {name: digest for name, digest in digests(out).items() if not name.startswith("checkpoints/earlier")}


def trial(number: int, seed: int, bed: Bed, expected: Row, warm: WarmWorkers) -> list[Row]:
    """A row for each end. The run folder stays where one is not sound."""
    out, rows, variant = bed.work / f"trial-{number}", list[Row](), variant_of(number)
    shutil.rmtree(out, ignore_errors=True)
    while True:
        workers = WORKERS[len(rows) % len(WORKERS)]
        end = drawn(seed, number, len(rows), workers, expected["seconds"]) if len(rows) < MOST else None
        resume = ["--resume"] if rows else []
        log = bed.work / f"trial-{number}-{len(rows)}.txt"
        ended = launch([*bed.command(variant, out, workers), *resume], log, out, end, warm)
        if end is None or not ended.met:
            break
        about = {"trial": number, "variant": variant, "end": len(rows) + 1, "workers": workers, "signal": end.signal.name}
        times = {"delay_s": round(end.delay_s, 3), "took_s": round(ended.took_s, 2), "left_s": round(ended.left_s, 2)}
        faults = faults_of(ended, end)
        rows.append({**about, "worker": end.rank, "phase": ended.phase, **times, "code": ended.code, "faults": faults})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if faults:
            rows[-1]["said"] = ended.said[-2000:]
    differing = differences(expected["digests"], compared(out)) if ended.code == 0 else [f"exit code {ended.code}: {ended.said}"]
    rows = [row | {"equal": not differing, "sound": not (row["faults"] or differing)} for row in rows]
    if differing:
        print(f"trial {number}: {differing}", file=sys.stderr, flush=True)
        rows = [row | {"differing": differing} for row in rows]
    elif all(row["sound"] for row in rows):
        shutil.rmtree(out)
    return rows


def drawn(seed: int, number: int, end: int, workers: int, seconds: float) -> End:
    """What ends a command, whom and when. `seconds`: of a whole training by one worker."""
    random = np.random.default_rng([seed, number, end])
    chosen = list(ENDINGS)[random.choice(len(ENDINGS), p=list(ENDINGS.values()))]
    rank = int(random.integers(workers)) if chosen is signal.SIGKILL else 0
    longest = {"start": EARLY_S, "export": EXPORTING_S, "training": seconds}
    since = str(random.choice(list(longest), p=[EARLY, EXPORTING, 1 - EARLY - EXPORTING]))
    return End(chosen, rank, float(random.uniform(0, longest[since])), since)


def launch(command: list[str], log: Path, out: Path, end: End | None, warm: WarmWorkers) -> Ended:
    """Run `gcnrec` to its end, or meet it with `end`; stderr goes to `log`."""
    begun = time.perf_counter()
    with log.open("wb") as errors, Path(os.devnull).open("wb") as nothing:
        process = warm.fork(command, log.parent, ENVIRONMENT, [nothing.fileno(), errors.fileno()], None)
    ended, followers = Ended(0, ""), list[psutil.Process]()
    if end is not None:
        followers = _met(process, ended, end, out, int(command[command.index("--workers") + 1]))
    asked = time.perf_counter()
    try:
        ended.code = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        ended.code = process.wait(PATIENCE_S)
        ended.said = "it did not end; "
    ended.took_s = time.perf_counter() - asked
    if end is not None and end.signal is signal.SIGKILL and end.rank == 0 and ended.code == 0:
        ended.met = False  # it had ended by itself: a killed process has no exit code of its own
    _, alive = psutil.wait_procs(followers, LEAVING_S)
    ended.left_s, ended.seconds = time.perf_counter() - asked, time.perf_counter() - begun
    for each in alive:
        each.kill()
    ended.said += log.read_text(encoding="utf-8", errors="replace").strip() + " a worker lived on" * bool(alive)
    return ended


def _met(process: Forked, ended: Ended, end: End, out: Path, workers: int) -> list[psutil.Process]:
    """Send the signal of `end`, unless the command has ended by then; the other workers."""
    before, followers = _begun(out), list[psutil.Process]()
    while process.poll() is None and len(followers) < workers - 1:
        time.sleep(POLL_S)
        with suppress(psutil.NoSuchProcess):
            followers = sorted(psutil.Process(process.pid).children(), key=lambda each: (each.create_time(), each.pid))
    while process.poll() is None and end.since != "start" and _begun(out) == before:
        time.sleep(POLL_S)
    while process.poll() is None and end.since == "export" and not _exports(out):
        time.sleep(POLL_S / 20)  # an export of so few nodes takes milliseconds
    try:
        process.wait(end.delay_s)
    except subprocess.TimeoutExpired:
        ended.phase = phase_of(out, before)
        ended.met = end.rank == 0 or followers[end.rank - 1].is_running()
        with suppress(psutil.NoSuchProcess):
            (process if end.rank == 0 else followers[end.rank - 1]).send_signal(end.signal)
    return followers


def _begun(out: Path) -> int:
    """How often a training has begun or was resumed."""
    if not (out / "lineage.json").is_file():
        return 0
    return 1 + sum(event["event"] == "resume" for event in _events(out))


def _exports(out: Path) -> bool:
    """Whether a run has begun to write embeddings."""
    return any((out / "embeddings").glob("*"))


def _events(out: Path) -> list[Row]:
    """The whole lines of metrics.jsonl."""
    path = out / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def phase_of(out: Path, before: int) -> str:
    """What a run does, by its files; `before`: how often it had begun before this command."""
    parts = [str(path.relative_to(out)) for path in sorted(out.rglob("*.part*"))] if out.exists() else []
    if _begun(out) == before:
        return "starting"
    if any(name.startswith("checkpoints") for name in parts):
        return "writing a checkpoint"
    if _exports(out):
        return "export"
    return "training" if (out / "checkpoints" / "last.safetensors").exists() else "before the first checkpoint"


def faults_of(ended: Ended, end: End) -> list[str]:
    """What is wrong with how the workers ended."""
    found = ["a traceback"] * ("Traceback" in ended.said) + ["a worker lived on"] * ("lived on" in ended.said)
    found += ["it took over 20 s"] * (ended.took_s > 20)
    lines = [line for line in ended.said.splitlines() if line.startswith("gcnrec: ")]
    if end.signal is signal.SIGKILL and end.rank == 0:
        return found + [f"exit code {ended.code}"] * (ended.code != -signal.SIGKILL)
    done = ended.code == 0  # it had nothing left to do that it needs others for
    codes = {CODES.get(end.signal, 6)}
    found += [f"exit code {ended.code}"] * (not done and ended.code not in codes)
    said = (f"worker {end.rank} was lost",) if end.signal is signal.SIGKILL else ASKED
    found += [f"it does not say {said[0]!r}: {lines}"] * (not done and not any(each in line for line in lines for each in said))
    return found + [f"{len(lines)} sentences: {lines}"] * (len(lines) > 1)


def summarised(rows: list[Row]) -> Row:
    """Counts of ends by signal, by who was met, by phase, by workers before; seconds; faults."""
    lost = [row["took_s"] for row in rows if row["signal"] == "SIGKILL" and row["worker"]]
    return {
        "summary": True,
        "trials": len({row["trial"] for row in rows}),
        "kills": _kills(rows),
        "by_signal": _counts(rows, "signal"),
        "by_worker": _counts(rows, "worker"),
        "by_workers": _counts(rows, "workers"),
        "by_phase": _counts(rows, "phase"),
        "codes": _counts(rows, "code"),
        "seconds_until_the_leader_ends": {"median": round(float(np.median(lost)), 2), "max": max(lost)} if lost else {},
        "all_sound": bool(rows) and all(row["sound"] for row in rows),
        "failed_trials": sorted({row["trial"] for row in rows if not row["sound"]}),
        "faults": dict(Counter(fault for row in rows for fault in row["faults"])),
    }


def _kills(rows: list[Row]) -> int:
    return sum(row["signal"] == "SIGKILL" for row in rows)


def _counts(rows: list[Row], key: str) -> dict[str, int]:
    return {str(value): count for value, count in Counter(row[key] for row in rows).most_common()}


if __name__ == "__main__":
    main()
