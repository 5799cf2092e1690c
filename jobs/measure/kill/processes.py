"""A `gcnrec run` as a process, with its steps counted, killed at a given moment or not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from jobs.measure.kill.metered import RECORD

METERED = Path(__file__).with_name("metered.py")
CHECKOUT = METERED.parents[3]
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
"""Trials run at once and share the cores; training takes the threads of its job."""


@dataclass(frozen=True)
class Kill:
    """SIGKILL `delay_s` after step `at` (1 .., over fit and refit) has begun, or after the start of the process when None."""

    at: int | None
    delay_s: float


@dataclass
class Outcome:
    """The end of a process: exit code and stderr, the steps begun (1 .., over fit and refit) and their times."""

    code: int = 0
    said: str = ""
    killed: bool = False
    records: list[tuple[int, int]] = field(default_factory=list)
    """Train edges and step within the stage, of every step begun."""
    begun_s: list[float] = field(default_factory=list)
    seconds: float = 0.0


def run(arguments: list[str], log: Path, fit: tuple[int, int] | None = None, kill: Kill | None = None) -> Outcome:
    """Run `gcnrec` with `arguments` to its end, or to its `kill`; stderr goes to `log`.

    `fit` is the number of train edges of a fit and of its steps: what counts steps over both stages.
    """
    outcome = Outcome()
    reading, writing = os.pipe()
    command = [sys.executable, str(METERED), str(writing), *arguments]
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(CHECKOUT)}
    started = time.perf_counter()
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=environment
        )
    os.close(writing)
    if kill and kill.at is None:
        outcome.killed = _kill(process, kill.delay_s)
    with os.fdopen(reading, "rb", buffering=0) as steps:
        while record := steps.read(RECORD.size):
            outcome.records.append(RECORD.unpack(record))
            outcome.begun_s.append(time.perf_counter() - started)
            if kill and kill.at is not None and not outcome.killed and position(outcome.records[-1], fit) >= kill.at:
                outcome.killed = _kill(process, kill.delay_s)
    outcome.code = process.wait()
    outcome.seconds = time.perf_counter() - started
    outcome.said = log.read_text(encoding="utf-8", errors="replace").strip()
    return outcome


def position(record: tuple[int, int], fit: tuple[int, int] | None) -> int:
    """A step's number over fit and refit; steps of a refit follow the steps of the fit."""
    edges, step = record
    return step if fit is None or edges == fit[0] else fit[1] + step


def _kill(process: subprocess.Popen[bytes], delay_s: float) -> bool:
    """SIGKILL after `delay_s`; False when the process had ended by then."""
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait() == -9
    return False
