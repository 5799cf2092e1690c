"""The parts in the order in which they run, the most informative first. A further part is a module and an entry of `PARTS`.

The standard library is all that this file needs: a machine where torch cannot be imported must say so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part may take `seconds`. `module`, below `jobs.measure.gpu`, has `run(bed)`, or `tell(report)` where it is `bare`: it
    then runs without torch and a GPU. None is a program of `tools`."""

    seconds: float
    module: str | None = None
    bare: bool = False


PARTS = {
    "facts": Part(10, "first.facts", bare=True),
    "versions": Part(30, "first.versions", bare=True),
    "light": Part(30, "first.light"),
    "tests": Part(60),
    "checks": Part(45, "first.checks"),
    "pages": Part(35, "first.pages"),
    "steps": Part(60, "first.steps"),
    "ceilings": Part(40, "rates.ceilings"),
    "gathers": Part(45, "rates.gathers"),
    "tuning": Part(25, "rates.tuning"),
    "curve": Part(50, "epochs.curve"),
    "features": Part(90, "epochs.features"),
    "epoch": Part(40, "epochs.epoch"),
    "updates": Part(25, "rates.updates"),
    "slot_reads": Part(25, "rates.slot_reads"),
    "sampling": Part(20, "rates.sampling"),
    "memcheck": Part(35),
    "racecheck": Part(35),
}
SECONDS = 720.0
"""For all parts, with the start of their processes."""
DRY_PATIENCE = 6.0
"""Times its seconds that a part may take in a dry run, which compiles kernels by g++."""
