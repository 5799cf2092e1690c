"""The parts, in the order in which they run. A part is a module with `SECONDS`, the time it may take, and `run(bed, tell)`.

A further part is a module here and a name in `PARTS`.
"""

from __future__ import annotations

import sys
import time
import traceback
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from jobs.measure.gpu.bed import Bed, Tell
from jobs.measure.gpu.facts import facts

PARTS = ("checks", "ceilings", "gathers", "slot_reads", "updates", "sampling", "tuning", "epoch")
DEVICE_LOST = 3
"""Exit code of a worker whose device fails after a part: a fresh process does the rest."""


def part_of(name: str) -> ModuleType:
    return import_module(f"jobs.measure.gpu.{name}")


def work(bed: Bed, names: list[str], tell: Tell, until: float) -> int:
    """Run parts one after the other and tell of each when it starts and how it ended; returns an exit code.

    Where less is left until `until` (time.monotonic) than all of them may take, each gets its share of that.
    """
    tell({"event": "machine", **facts(bed.device)})
    failed = False
    for place, name in enumerate(names):
        tell({"event": "start", "part": name})
        begun = time.monotonic()
        share = share_of(names[place:], until - begun)
        problem = _attempt(bed, name, begun + share, lambda row, name=name: tell({"part": name, **row}))
        outcome = "failed" if problem else "done"
        tell({"event": outcome, "part": name, "seconds_in_all": round(time.monotonic() - begun, 1), "problem": problem})
        failed = failed or problem is not None
        if problem and not _alive(bed):
            return DEVICE_LOST
    return 1 if failed else 0


def share_of(names: list[str], left: float) -> float:
    """Seconds for the first of `names`: what it may take, or less where `left` is too short for all of them."""
    seconds = [float(part_of(name).SECONDS) for name in names]
    return seconds[0] * min(1.0, left / sum(seconds))


def _attempt(bed: Bed, name: str, until: float, tell: Tell) -> str | None:
    """None, or in a line what ended the part."""
    try:
        module: Any = part_of(name)
        bed.until = until
        module.run(bed, tell)
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
