"""An uninterrupted run, and the same run killed once or twice and resumed: where it was, what it did again, how it ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.measure.kill import plan
from jobs.measure.kill.commands import STEPS
from jobs.measure.kill.digests import differences, digests
from jobs.measure.kill.processes import Kill, Outcome, position, run

Row = dict[str, Any]


@dataclass(frozen=True)
class Bed:
    """The files of trials: their job file, the dataset folder, the folder of run folders and logs."""

    job: Path
    data: Path
    work: Path


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run: train edges and steps of its fit, its length, and the digests of its files."""

    variant: str
    fit: tuple[int, int]
    length: plan.Length
    seconds: float
    digests: dict[str, str]

    def row(self) -> Row:
        steps = {"steps_per_epoch": self.length.epoch, "fit_steps": self.fit[1], "steps": self.length.total}
        return {"variant": self.variant, "reference": True, **steps, "seconds": round(self.seconds, 2), "digests": self.digests}


def reference(variant: str, bed: Bed) -> Reference:
    """Run `variant` to its end. SystemExit when it fails or takes its steps in another order than 1, 2, ..."""
    out = bed.work / f"reference-{variant.replace(' ', '-')}"
    outcome = run(plan.arguments(variant, bed.job, bed.data, out), out.with_suffix(".txt"))
    if outcome.code or not outcome.records:
        raise SystemExit(f"the uninterrupted run of {variant!r} ended with {outcome.code}: {outcome.said}")
    edges = outcome.records[0][0]
    fit = edges, sum(one == edges for one, _ in outcome.records)
    positions = [position(record, fit) for record in outcome.records]
    if positions != list(range(1, len(positions) + 1)):
        raise SystemExit(f"the uninterrupted run of {variant!r} took its steps in another order than 1, 2, ...")
    return Reference(variant, fit, plan.Length(-(-edges // plan.BATCH), len(positions)), outcome.seconds, digests(out))


def trial(number: int, seed: int, uninterrupted: Reference, bed: Bed) -> list[Row]:
    """A row for each kill, none when the run ended before it. The folder stays after a fault."""
    out = bed.work / f"trial-{number}"
    arguments = plan.arguments(uninterrupted.variant, bed.job, bed.data, out)
    rows: list[Row] = []
    reached = 0
    resume: list[str] = []
    kill: Kill | None = plan.first_kill(seed, number, uninterrupted.length)
    while True:
        log = bed.work / f"trial-{number}-{len(rows)}.txt"
        outcome = run([*arguments, *resume], log, uninterrupted.fit, kill)
        positions = [position(record, uninterrupted.fit) for record in outcome.records]
        if rows:
            resumed_at = positions[0] if positions else None
            rows[-1] |= {"resumed_at": resumed_at, "repeated": reached + 1 - resumed_at if resumed_at else 0}
        if kill is None or not outcome.killed:
            break
        reached = positions[-1] if positions else reached
        about = {"trial": number, "variant": uninterrupted.variant, "kill": len(rows) + 1, "aimed_step": kill.at}
        state = _state(out, reached, bool(positions), uninterrupted)
        rows.append({**about, "delay_ms": round(1000 * kill.delay_s, 3), "step": reached, **state})
        kill = plan.second_kill(seed, number, uninterrupted.length, reached) if len(rows) == 1 else None
        resume = ["--resume"]
    end = _end(out, outcome, uninterrupted)
    for row in rows:
        row |= end
        row |= {"case": STEPS, "ending": "SIGKILL", "effective": True, "sound": sound(row)}
    if all(row["sound"] for row in rows):
        shutil.rmtree(out)
    return rows


def sound(row: Row) -> bool:
    """Whether a kill left no trace: the same end, at most an interval between checkpoints repeated, no step left out."""
    return bool(row["digests_equal"] and 0 <= row["repeated"] <= plan.INTERVAL)


def _state(out: Path, reached: int, stepped: bool, uninterrupted: Reference) -> Row:
    """The phase of the killed process, by its files."""
    steps = uninterrupted.length
    epoch_ends = reached % steps.epoch == 0 if reached <= uninterrupted.fit[1] else False
    checkpoints = any((out / "checkpoints").glob("*.safetensors"))
    parts = [str(path.relative_to(out)) for path in sorted(out.rglob("*.part*"))]
    phases: dict[str, Callable[[], bool]] = {
        "no run folder yet": lambda: not (out / "lineage.json").is_file(),
        "before the first checkpoint": lambda: not checkpoints,
        "after the report": lambda: (out / "report.html").is_file(),
        "baselines, report": lambda: (out / "metrics.json").is_file(),
        "evaluation": lambda: (out / "memory.json").is_file(),
        "resuming": lambda: not stepped,
        "writing a checkpoint": lambda: any(name.startswith("checkpoints") for name in parts),
        "after the last step, export": lambda: reached == steps.total,
        "at the end of an epoch": lambda: epoch_ends,
        "training": lambda: True,
    }
    phase = next(name for name, holds in phases.items() if holds())
    return {"phase": phase, "inside": checkpoints, "half_written": parts}


def _end(out: Path, outcome: Outcome, uninterrupted: Reference) -> Row:
    """The end of a trial's last process; with its stderr only after a wrong end."""
    differing = differences(uninterrupted.digests, digests(out)) if outcome.code == 0 else []
    equal = outcome.code == 0 and not differing
    said = {} if equal else {"differing": differing, "said": outcome.said[-2000:]}
    return {"exit_code": outcome.code, "digests_equal": equal, **said}
