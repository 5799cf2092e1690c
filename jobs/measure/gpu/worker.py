"""The process that runs parts: rows and events go to the standard output, a JSON line each.

    python -m jobs.measure.gpu.worker --parts checks,pages --seconds 60 [--table-gib 24] [--dry]

The bed, which is the GPU with its libraries, comes with the first part that needs it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.measure.gpu.parts import DRY_PATIENCE, PARTS

if TYPE_CHECKING:
    from jobs.measure.gpu.bed import Bed

Row = dict[str, Any]
CHECKOUT = Path(__file__).resolve().parents[3]
DEVICE_LOST = 3
"""Exit code of a worker whose device fails after a part; a fresh process runs the rest."""
LEAST_SECONDS = 5.0
"""With less left no part begins."""


class Worker:
    """Runs parts one after the other until `until` (time.monotonic), on the bed that `new_bed` makes for a report of rows.

    A part may take `patience` times its seconds.
    """

    def __init__(
        self, report: Callable[[Row], None], new_bed: Callable[[Callable[[Row], None]], Bed], until: float, patience: float = 1.0
    ) -> None:
        self._report, self._new_bed, self._until, self._patience = report, new_bed, until, patience
        self._bed: Bed | None = None

    def work(self, names: list[str]) -> int:
        """An exit code: 0 when every part is done."""
        failed = False
        for name in names:
            begun = time.monotonic()
            if self._until - begun < LEAST_SECONDS:
                self._report({"event": "skipped", "part": name, "problem": "the time was up"})
                continue
            self._report({"event": "start", "part": name})
            problem = self._attempt(name, min(begun + self._patience * PARTS[name].seconds, self._until))
            outcome = "failed" if problem else "done"
            seconds = round(time.monotonic() - begun, 1)
            self._report({"event": outcome, "part": name, "seconds_in_all": seconds, "problem": problem})
            failed = failed or problem is not None
            if problem and self._bed is not None and not _alive(self._bed):
                return DEVICE_LOST
        return 1 if failed else 0

    def _attempt(self, name: str, until: float) -> str | None:
        """Run a part; returns None, or in a line the problem that ended it."""
        part = PARTS[name]
        try:
            module = import_module(f"jobs.measure.gpu.{part.module}")
            if part.bare:
                module.tell(self._of(name))
                return None
            bed = self._given_bed()
            bed.until, bed.report = until, self._of(name)
            module.run(bed)
            bed.finish()
        except Exception as problem:
            traceback.print_exc(file=sys.stderr)
            return f"{type(problem).__name__}: {(str(problem) or 'no words').splitlines()[0]}"
        return None

    def _given_bed(self) -> Bed:
        if self._bed is None:
            self._bed = self._new_bed(self._report)
            self._report({"event": "machine", **machine_of(self._bed)})
        return self._bed

    def _of(self, name: str) -> Callable[[Row], None]:
        return lambda row: self._report({"part": name, **row})


def machine_of(bed: Bed) -> Row:
    """Machine, packages and GPU."""
    import torch

    from gcnrec.system.machine import machine, versions

    packages = {name: version for name, version in versions(("cupy-cuda13x", "cupy-cuda12x", "numba-cuda")).items() if version}
    if bed.device.type != "cuda":
        return {**machine(), **packages, "gpu": None}
    properties = torch.cuda.get_device_properties(bed.device)
    gpu = {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda_of_torch": torch.version.cuda,
    }
    return {**machine(), **packages, "gpu": gpu}


def _alive(bed: Bed) -> bool:
    import torch

    try:
        bed.finish()
        return float(torch.ones(1, device=bed.device).item()) == 1.0
    except RuntimeError:
        return False


def _new_bed(dry: bool, table_gib: int, folder: Path, report: Callable[[Row], None]) -> Bed:
    from dataclasses import replace

    from gcnrec.device import gpu
    from jobs.measure.gpu.bed import FULL, GIB, CudaBed, dry_bed

    return dry_bed(CHECKOUT, folder, report) if dry else CudaBed(gpu(), replace(FULL, table_bytes=table_gib * GIB), report)


def main() -> int:
    """Run parts in this process, each row written as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", required=True)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--table-gib", type=int, default=24)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds

    def report(row: Row) -> None:
        print(json.dumps(row), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        new_bed = partial(_new_bed, given.dry, given.table_gib, Path(folder))
        return Worker(report, new_bed, until, DRY_PATIENCE if given.dry else 1.0).work(given.parts.split(","))


if __name__ == "__main__":
    sys.exit(main())
