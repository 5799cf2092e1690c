"""Checks and times the GPU kernels of gcnrec from a bare checkout, and writes one record.

    bash jobs/gpu_bench.sh OUT_DIR [--parts checks,gathers] [--table-gib 24] [--seconds 460]
    bash jobs/gpu_bench.sh OUT_DIR --dry

Needs torch, CuPy, numba, NumPy and psutil; makes its data where it runs. Every part has a time limit of its own and reports
rows as it measures (OUT_DIR/rows.jsonl); the record, OUT_DIR/<date>-gpu-<device>.json, is written anew after every part.
The last of all seconds are kept for the GPU tests and the sanitizers.
The exit code is 1 when a part failed. `--dry` runs everything on the CPU, at tiny sizes, with kernels compiled by g++: it
proves the script and claims no speed.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from gcnrec.device import gpu
from jobs.measure.gpu import tools
from jobs.measure.gpu.bed import FULL, GIB, CudaBed, dry_bed
from jobs.measure.gpu.foreman import Foreman
from jobs.measure.gpu.parts import PARTS, part_of, work
from jobs.measure.gpu.summary import summary

CHECKOUT = Path(__file__).resolve().parents[3]
SANITIZERS = ("memcheck", "racecheck")
SANITIZER_SECONDS, TEST_SECONDS = 90, 60
KEPT_SECONDS = {"tests": 60, "memcheck": 25, "racecheck": 25}
"""Seconds that the parts leave for these."""


def main() -> int:
    given = _arguments()
    return _work(given) if given.worker else _lead(given)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry", action="store_true", help="the CPU in place of the GPU, tiny sizes")
    parser.add_argument("--parts", default="", help="some of them, by commas; default: all, the sanitizer and the tests")
    parser.add_argument("--table-gib", type=int, default=24, help="host memory to pin, at most half of what is free")
    parser.add_argument("--seconds", type=float, default=460, help="for everything")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _lead(given: argparse.Namespace) -> int:
    """Run the parts in workers, then the tools; write the record."""
    given.out.mkdir(parents=True, exist_ok=True)
    chosen = given.parts.split(",") if given.parts else [*PARTS, *KEPT_SECONDS]
    unknown = sorted({*chosen} - {*PARTS, *KEPT_SECONDS})
    if unknown:
        sys.exit(f"there is no part {', '.join(unknown)}; known: {', '.join((*PARTS, *KEPT_SECONDS))}")
    log = given.out / "rows.jsonl"
    log.unlink(missing_ok=True)
    worker = [sys.executable, "-u", "-m", "jobs.measure.gpu", str(given.out), "--worker", "--table-gib", str(given.table_gib)]
    worker += ["--dry"] if given.dry else []
    until = time.monotonic() + given.seconds
    before = until - sum(seconds for tool, seconds in KEPT_SECONDS.items() if tool in chosen)
    foreman = Foreman(worker, log, before, lambda part: float(part_of(part).SECONDS), partial(_record, given))
    foreman.run([part for part in PARTS if part in chosen])
    if "tests" in chosen:
        foreman.note(tools.gpu_tests(CHECKOUT, min(TEST_SECONDS, until - time.monotonic())))
    sanitizers = [tool for tool in SANITIZERS if tool in chosen]
    for waiting, tool in zip(range(len(sanitizers), 0, -1), sanitizers, strict=True):
        seconds = min(SANITIZER_SECONDS, (until - time.monotonic()) / waiting)
        foreman.note(tools.sanitize(tool, [*worker, "--parts", "checks"], seconds))
    return _report(_record(given, foreman), foreman.outcomes)


def _work(given: argparse.Namespace) -> int:
    """Run the parts in this process; rows go to the standard output."""

    def report(row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)

    parts, until = given.parts.split(","), time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as folder:
        sizes = replace(FULL, table_bytes=given.table_gib * GIB)
        bed = dry_bed(CHECKOUT, Path(folder), report) if given.dry else CudaBed(gpu(), sizes, report)
        return work(bed, parts, until)


def _record(given: argparse.Namespace, foreman: Foreman) -> Path:
    """Write the record so far to a new file, which replaces the previous record."""
    device = foreman.machine.get("gpu")
    name = re.sub(r"[^a-z0-9]+", "-", (device["name"] if device else "dry").lower()).strip("-")
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    options = [] if not given.parts else ["--parts", given.parts]
    options += ["--table-gib", str(given.table_gib), "--seconds", f"{given.seconds:g}", *(["--dry"] if given.dry else [])]
    document = {
        "command": shlex.join(["bash", "jobs/gpu_bench.sh", "OUT_DIR", *options]), "date": date, "machine": foreman.machine,
        "parts": [_cleaned(row) for row in foreman.outcomes.values()], "summary": summary(foreman.rows) if device else [],
    }  # fmt: skip
    rows = ",\n".join(json.dumps(_cleaned(row)) for row in foreman.rows)
    path = given.out / f"{date}-gpu-{name}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(f'{json.dumps(document, indent=1)[:-2]},\n "rows": [\n{rows}\n]}}\n', encoding="utf-8")
    return fresh.replace(path)


def _cleaned(row: dict[str, Any]) -> dict[str, Any]:
    """Floats to six digits, more than any timing has; no paths of this machine in errors; no output, which rows.jsonl has."""
    own = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items() if key != "output"}
    return own | {key: own[key].replace(str(CHECKOUT), ".") for key in ("error", "problem") if own.get(key)}


def _report(path: Path, outcomes: dict[str, dict[str, Any]]) -> int:
    """Print a short table; returns 1 when something failed."""
    for ratio in json.loads(path.read_text(encoding="utf-8"))["summary"]:
        verdict = {None: "", True: f"  >= {ratio['target']}", False: f"  BELOW {ratio['target']}"}[ratio["met"]]
        print(f"{ratio['value']:8.3f}{verdict:14} {ratio['name']}")
    for part, row in outcomes.items():
        print(f"{part:12} {row['event']:8} {row.get('seconds_in_all', '')} {row.get('problem') or ''}")
    print(path)
    return 1 if any(row["event"] in ("failed", "start") for row in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
