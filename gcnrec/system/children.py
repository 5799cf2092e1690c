"""Processes of `gcnrec` that another command starts, each on its share of the cores: a peak of memory and an end of their own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from gcnrec.errors import Interrupted, Terminated
from gcnrec.system.programs import import_paths, program
from gcnrec.system.signals import child_environment, unhurried

_LAST_BYTES = 2**16
"""Of a log, which is as long as its run; the last line is shown."""
_PATIENCE_SECONDS = 60.0
"""How long a run that was asked to stop may take before it is killed; its last checkpoint is whole either way."""


def started(arguments: Sequence[str], log: Path, lock: int, cores: set[int] | None) -> subprocess.Popen[bytes]:
    """`gcnrec` with `arguments`, all it prints in `log`. It inherits the descriptor `lock`, and runs on `cores`, None for all."""
    with log.open("wb") as file:
        # In a process group of its own: Ctrl-C reaches this process alone, which then asks each run to stop, once.
        process = subprocess.Popen(
            program("gcnrec", *arguments), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            process_group=0, pass_fds=(lock,), env={**child_environment(), **import_paths()},
        )  # fmt: skip
    # The interpreter is still starting: every thread pool of the run is made later and sees these cores only.
    if cores:
        os.sched_setaffinity(process.pid, cores)
    return process


def stop_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask all of them to stop, and kill what has not ended in time."""
    with unhurried():  # each of them saves its step
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cores_of(slot: int, jobs: int) -> set[int] | None:
    """Equal shares of the cores for every slot, neighbours together; None where all are one share or none can be had."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // jobs)
    return {cores[(slot * share + index) % len(cores)] for index in range(share)}


def failure(code: int, log: Path) -> str:
    """The last line that a failed run printed: its sentence, or the last line of a traceback."""
    if code == 0:
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_BYTES))
        lines = file.read(_LAST_BYTES).decode("utf-8", errors="replace").strip().splitlines()
    said = lines[-1].removeprefix("gcnrec: ") if lines else "it said nothing"
    killed = code > 128 and code not in (Interrupted.exit_code, Terminated.exit_code)
    return f"ended by signal {code - 128}, perhaps memory ran out; last line: {said}" if killed else said
