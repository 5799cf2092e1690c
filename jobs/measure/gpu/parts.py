"""The parts, in the order in which they run. A part is a module with `SECONDS`, the time it may take, and `run(bed)`.

A further part is a module here and a name in `PARTS`.
"""

from __future__ import annotations

import sys
import time
import traceback
from importlib import import_module
from types import ModuleType

import torch

from jobs.measure.gpu.bed import Bed
from jobs.measure.gpu.facts import facts

PARTS = ("checks", "ceilings", "gathers", "slot_reads", "updates", "sampling", "tuning", "epoch")
DEVICE_LOST = 3
"""Exit code of a worker whose device fails after a part; a fresh process runs the rest."""


def part_of(name: str) -> ModuleType:
    return import_module(f"jobs.measure.gpu.{name}")


def work(bed: Bed, names: list[str], until: float) -> int:
    """Run parts one after the other and report the start and the end of each; returns an exit code.

    Where less is left until `until` (time.monotonic) than all of them may take, each gets its share of that.
    """
    report = bed.report
    report({"event": "machine", **facts(bed.device)})
    failed = False
    for place, name in enumerate(names):
        report({"event": "start", "part": name})
        begun = time.monotonic()
        bed.until = begun + share_of(names[place:], until - begun)
        bed.report = lambda row, name=name: report({"part": name, **row})
        problem = _attempt(bed, name)
        outcome = "failed" if problem else "done"
        report({"event": outcome, "part": name, "seconds_in_all": round(time.monotonic() - begun, 1), "problem": problem})
        failed = failed or problem is not None
        if problem and not _alive(bed):
            return DEVICE_LOST
    return 1 if failed else 0


def share_of(names: list[str], left: float) -> float:
    """Seconds for the first of `names`: what it may take, or less where `left` is too short for all of them."""
    seconds = [float(part_of(name).SECONDS) for name in names]
    return seconds[0] * min(1.0, left / sum(seconds))


def _attempt(bed: Bed, name: str) -> str | None:
    """Run a part; returns None, or in a line the problem that ended it."""
    try:
        part_of(name).run(bed)
        bed.finish()
    except Exception as problem:
        traceback.print_exc(file=sys.stderr)
        return f"{type(problem).__name__}: {(str(problem) or 'no words').splitlines()[0]}"
    return None


def _alive(bed: Bed) -> bool:
    try:
        bed.finish()
        return float(torch.ones(1, device=bed.device).item()) == 1.0
    except RuntimeError:
        return False
