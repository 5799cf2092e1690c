"""Sends SIGTERM and Ctrl-C to every command at random moments, and measures how it ends.

    python -m jobs.measure.stop --data DIR --run RUN --job JOB.toml --ingest "ARGUMENTS" --out RECORD.json
        [--signals 300] [--seconds 60] [--seed 0] [--only COMMAND...]

DIR is a dataset folder, RUN a finished run of it, ARGUMENTS what `gcnrec ingest` gets apart from --out. A command runs to its end
first, or for at most --seconds; signals come at moments drawn from that time. Every fifth trial sends another one 0.2 s later.
A sound end: within 5 s of the first signal, exit code 143 or 130, a sentence as the last line, no traceback, no unfinished
file, no child that lives on. Not counted: a signal before gcnrec watches them, in its first milliseconds, or after its end, some
hundredths of a second before the process is gone.
The record has a row a command (p50, p95, largest seconds; exit codes) and each trial that was not sound; with any, the exit code
is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gcnrec.bench.harness import command_of, write_record

CHECKOUT = Path(__file__).parents[2]
MARK = "GCNREC_MEASURE_STOP"
"""In the environment of a trial and of all its children."""
LIMIT_SECONDS, HANG_SECONDS, AGAIN_SECONDS = 5.0, 60.0, 0.2
TEARDOWN_SECONDS = 0.05
"""What the system takes for the memory of a process that has ended by itself; it is there until then."""
SENTENCES = ("gcnrec: ", "Usage: ", '{"time"')


@dataclass(frozen=True)
class Trial:
    """A command that got a signal `moment` seconds after its start, and another one if `twice`; how it ended."""

    command: str
    number: int
    moment: float
    twice: bool
    code: int
    seconds: float
    said: str
    is_late: bool = False
    left: list[str] = field(default_factory=list)

    @property
    def is_early(self) -> bool:
        """Whether signals were not watched yet: the system's default action, or a KeyboardInterrupt before `watch` returned."""
        begun = "command_line()" in self.said or "cli.py" in self.said
        of_python = self.code in (1, -signal.SIGINT) and "KeyboardInterrupt" in self.said and not begun
        return of_python or (self.code == -self.number and not self.said)

    @property
    def fault(self) -> str:
        """What is wrong with the end; empty for a sound one."""
        lines = [line for line in self.said.splitlines() if line.startswith(SENTENCES)]
        found = {
            f"took {self.seconds:.2f} s": self.seconds > LIMIT_SECONDS,
            f"exit code {self.code}": self.code != 128 + self.number,
            "traceback": "Traceback" in self.said or "Exception ignored" in self.said,
            "no last sentence": not lines or lines[-1] != self.said.strip().splitlines()[-1],
            f"left {', '.join(self.left)}": bool(self.left),
        }
        return "; ".join(text for text, holds in found.items() if holds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--run", "--job", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--ingest", required=True, metavar="ARGUMENTS")
    parser.add_argument("--signals", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", metavar="COMMAND")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a shell's background would ignore it
    with tempfile.TemporaryDirectory() as folder:
        made = commands(Path(folder), given.data.resolve(), given.run.resolve(), given.job.resolve(), shlex.split(given.ingest))
        wanted = {name: made[name] for name in given.only or made}
        count = -(-given.signals // len(wanted))
        rows, trials = [], []
        for name, arguments in wanted.items():
            found = stop(name, arguments, Path(folder) / "work", count, given.seconds, random.Random(f"{given.seed} {name}"))
            trials += found
            for each in counted(found):
                if each.fault:
                    print(each.fault, asdict(each), file=sys.stderr, flush=True)
            rows.append(summary(name, found))
            print(json.dumps(rows[-1]), flush=True)
    rows.append(summary("all", trials))
    print(json.dumps(rows[-1]))
    faults = [{**asdict(trial), "fault": trial.fault} for trial in counted(trials) if trial.fault]
    write_record(given.out, command_of("jobs.measure.stop", sys.argv[1:]), [*faults, *rows])
    return int(bool(faults))


def commands(folder: Path, data: Path, run: Path, job: Path, ingest: list[str]) -> dict[str, list[str]]:
    """The arguments of every command, which writes into its working directory."""
    grid = folder / "grid.toml"
    grid.write_text(f"job = {json.dumps(str(job))}\n[grid]\ntrain.seed = [0, 1]\n", encoding="utf-8")
    of_data, of_run, copy = ["--data", str(data)], str(run), str(folder / "copy")
    shutil.copytree(run, copy)  # evaluate writes into it
    return {
        "info": ["info", of_run],
        "doctor": ["doctor"],
        "compare": ["compare", of_run, of_run],
        "check": ["check", str(job), *of_data],
        "ingest": ["ingest", *ingest, "--out", "new"],
        "train": ["train", str(job), *of_data, "--out", "new"],
        "run": ["run", str(job), *of_data, "--out", "new"],
        "evaluate": ["evaluate", copy],
        "recommend": ["recommend", of_run, "--out", "new"],
        "export": ["export", of_run, "--format", "bundle", "--out", "new"],
        "sweep": ["sweep", str(grid), *of_data, "--out", "new", "--jobs", "2"],
        "bench": ["bench", "evaluate", *of_data],
    }


def stop(name: str, arguments: list[str], work: Path, count: int, most_seconds: float, draws: random.Random) -> list[Trial]:
    """Run a command once, then `count` times to a signal at a moment of that duration."""
    begun = time.monotonic()
    trial(name, arguments, work, signal.SIGTERM, most_seconds, False)
    duration = min(most_seconds, time.monotonic() - begun)
    trials = []
    for index in range(count):
        number = (signal.SIGTERM, signal.SIGINT)[index % 2]
        trials.append(trial(name, arguments, work, number, draws.uniform(0.05, duration), index % 5 == 4))
    return trials


def trial(name: str, arguments: list[str], work: Path, number: signal.Signals, moment: float, twice: bool) -> Trial:
    """A command in the empty folder `work`, with a signal after `moment` seconds unless it has ended."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), MARK: mark}
    log = work.with_suffix(".txt")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "gcnrec", *arguments], cwd=work, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
    is_late, begun = _wait(process, moment), time.monotonic()
    process.send_signal(number)  # nothing happens where it has ended
    if twice and not _wait(process, AGAIN_SECONDS):
        process.send_signal(number)
    if not _wait(process, HANG_SECONDS):
        process.kill()
    code, seconds = process.wait(), time.monotonic() - begun
    is_late |= code == 0 and seconds < TEARDOWN_SECONDS
    left = sorted(path.name for path in work.parent.rglob(".*") if path.name.endswith((".part", ".old")))
    left += [] if _within(LIMIT_SECONDS, lambda: not _children(mark)) else ["a child process"]
    said = log.read_text(encoding="utf-8", errors="replace")[-3000:].replace(str(CHECKOUT), "CHECKOUT")
    return Trial(name, number, round(moment, 3), twice, code, round(seconds, 3), said, is_late, left)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended within `seconds`."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _children(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def counted(trials: list[Trial]) -> list[Trial]:
    return [trial for trial in trials if not (trial.is_early or trial.is_late)]


def summary(name: str, trials: list[Trial]) -> dict[str, Any]:
    """How long the ends took, in seconds, and with which exit codes."""
    ends = counted(trials)
    seconds = [trial.seconds for trial in ends] or [0.0]
    return {
        "command": name,
        "signals": len(trials),
        "early": sum(trial.is_early for trial in trials),
        "late": sum(trial.is_late for trial in trials),
        "counted": len(ends),
        "p50_seconds": round(float(np.quantile(seconds, 0.5)), 3),
        "p95_seconds": round(float(np.quantile(seconds, 0.95)), 3),
        "max_seconds": max(seconds),
        "exit_codes": {str(code): times for code, times in sorted(Counter(trial.code for trial in ends).items())},
        "faults": sum(bool(trial.fault) for trial in ends),
    }


if __name__ == "__main__":
    sys.exit(main())
