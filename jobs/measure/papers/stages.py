"""The stages of a pass, each a command in a process of its own: watched, ended once by SIGKILL if that is asked, begun again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.measure.papers.sampler import Sampler

ROOT = Path(__file__).parents[3]
_POLL_SECONDS = 0.05
_SHOWN = 2000
"""Characters of what a failed command said."""


@dataclass(frozen=True)
class Stage:
    """A command of Python's arguments, and `again`: what goes on after it was ended. `phase` names what it is at."""

    name: str
    command: list[str]
    again: list[str] | None = None
    phase: Callable[[], str] | None = None


@dataclass(frozen=True)
class Ended:
    """`row`: a stage as the record has it. `ok`: whether its last process ended well; `said`: its last words."""

    row: dict[str, Any]
    ok: bool
    said: str


@dataclass
class Kills:
    """When stages are ended: at a moment drawn from the `seconds` that each takes unbroken, by name; no `seconds`, no end."""

    seconds: dict[str, float] = field(default_factory=dict)
    draw: random.Random = field(default_factory=random.Random)

    def moment(self, name: str) -> float | None:
        """Seconds after the start of the stage; None: never."""
        return self.draw.uniform(0.05, 0.95) * self.seconds[name] if name in self.seconds else None


def carried_out(stage: Stage, work: Path, kills: Kills) -> Ended:
    """Run a stage in the folder `work`, whose bytes on disk count; ended once as `kills` says, and begun again."""
    log = work / f"{stage.name}.log"
    moment = kills.moment(stage.name)
    attempts = [_attempt(stage, stage.command, work, log, moment)]
    if attempts[-1]["killed_after"] is not None:
        attempts.append(_attempt(stage, stage.again or stage.command, work, log, None))
    code = attempts[-1].pop("code")
    for each in attempts[:-1]:
        each.pop("code")
    row = {"stage": stage.name, "command": _shown(stage.command, work), "attempts": attempts}
    row["seconds"] = round(sum(each["seconds"] for each in attempts), 1)
    for name in ("rss_bytes", "private_bytes", "disk_bytes"):
        row[f"peak_{name}"] = max(part[f"peak_{name}"] for each in attempts for part in each["phases"].values())
    row["major_faults"] = sum(each["major_faults"] for each in attempts)
    return Ended(row, code == 0, log.read_text(encoding="utf-8", errors="replace")[-_SHOWN:])


def _attempt(stage: Stage, command: list[str], work: Path, log: Path, moment: float | None) -> dict[str, Any]:
    """One process: seconds, peaks by phase, major faults; ended `moment` seconds after its start, if it still lives then."""
    begun, killed = time.perf_counter(), None
    with log.open("ab") as said:
        streams: dict[str, Any] = {"stdout": said, "stderr": said}
        child = subprocess.Popen([sys.executable, *command], cwd=work, env=_environment(), start_new_session=True, **streams)
    sampler = Sampler(child.pid, work, stage.phase or (lambda: stage.name))
    try:
        while child.poll() is None:
            time.sleep(_POLL_SECONDS)
            if moment is not None and time.perf_counter() - begun > moment:
                os.killpg(child.pid, signal.SIGKILL)  # its own session: this process started it
                killed, moment = round(time.perf_counter() - begun, 1), None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        sampler.stop()
    phases = {
        name: {"seconds": round(peaks.seconds, 1), **{f"peak_{key}": value for key, value in peaks.largest.items()}}
        for name, peaks in sampler.phases.items()
    }
    seconds = round(time.perf_counter() - begun, 1)
    faults = sampler.major_faults
    return {"seconds": seconds, "killed_after": killed, "code": child.returncode, "major_faults": faults, "phases": phases}


def _environment() -> dict[str, str]:
    """This process's, so that its modules are found from another folder."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def _shown(command: list[str], work: Path) -> str:
    """The command without a path of this machine."""
    return " ".join(["python", *(part.replace(f"{work}/", "").replace(f"{ROOT}/", "") for part in command)])
