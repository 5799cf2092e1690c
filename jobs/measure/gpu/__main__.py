"""Checks and times the GPU kernels of gcnrec from a bare checkout, and writes one record.

    bash jobs/gpu_bench.sh OUT_DIR [--parts facts,versions,light] [--table-gib 24] [--seconds 720]
    bash jobs/gpu_bench.sh OUT_DIR --dry

Needs torch, CuPy, numba, NumPy and psutil; makes its data where it runs. The most informative part comes first. Each part has
a time limit of its own and reports rows as it measures (OUT_DIR/rows.jsonl); the record, OUT_DIR/<date>-gpu-<device>.json, is
written anew after every part.
The exit code is 1 when a part failed. `--dry` runs everything on the CPU, at tiny sizes, with kernels compiled by g++: it
proves the script and claims no speed.
This file and what it imports need the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import time
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from jobs.measure.gpu import tools
from jobs.measure.gpu.foreman import Foreman
from jobs.measure.gpu.parts import DRY_PATIENCE, PARTS, SECONDS
from jobs.measure.gpu.summary import summary

CHECKOUT = Path(__file__).resolve().parents[3]


def main() -> int:
    """Run the parts that are asked for; the exit code is 1 when one fails."""
    given = _arguments()
    chosen = given.parts.split(",") if given.parts else [*PARTS]
    unknown = sorted({*chosen} - {*PARTS})
    if unknown:
        sys.exit(f"there is no part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "rows.jsonl"
    log.unlink(missing_ok=True)
    worker = [sys.executable, "-u", "-m", "jobs.measure.gpu.worker", "--table-gib", str(given.table_gib)]
    worker += ["--dry"] if given.dry else []
    until = time.monotonic() + given.seconds
    patience = DRY_PATIENCE if given.dry else 1.0
    foreman = Foreman(worker, log, until, lambda part: patience * PARTS[part].seconds, partial(_ended, given))
    in_order = [part for part in PARTS if part in chosen]
    for is_program, names in groupby(in_order, key=lambda part: PARTS[part].module is None):
        if is_program:
            for name in names:
                foreman.note(_program(name, worker, min(PARTS[name].seconds, foreman.left)))
        else:
            foreman.run(list(names))
    return _report(_record(given, foreman), foreman.outcomes)


def _ended(given: argparse.Namespace, foreman: Foreman) -> None:
    """Write and print what a part came to at once: a later part may take the whole program along."""
    _record(given, foreman)
    part, row = list(foreman.outcomes.items())[-1]
    print(f"{part:12} {row['event']:8} {row.get('seconds_in_all', '')} {row.get('problem') or ''}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry", action="store_true", help="the CPU in place of the GPU, tiny sizes")
    parser.add_argument("--parts", default="", help="some of them, by commas; they run in the usual order; default: all")
    parser.add_argument("--table-gib", type=int, default=24, help="host memory to pin, at most half of what is free")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything")
    return parser.parse_args()


def _program(name: str, worker: list[str], seconds: float) -> dict[str, Any]:
    """The closing event of a part that is a program of its own."""
    if name == "tests":
        return tools.gpu_tests(CHECKOUT, seconds)
    return tools.sanitize(name, [*worker, "--parts", "checks"], seconds)


def _record(given: argparse.Namespace, foreman: Foreman) -> Path:
    """Write the record so far to a new file, which replaces the previous record. Until a part has asked, the GPU is unknown."""
    device, date = foreman.machine.get("gpu"), f"{datetime.now(UTC):%Y-%m-%d}"
    name = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-") if device else "dry" if given.dry else "unknown"
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
    if device:
        (given.out / f"{date}-gpu-unknown.json").unlink(missing_ok=True)
    return fresh.replace(path)


def _cleaned(row: dict[str, Any]) -> dict[str, Any]:
    """Floats to six digits, more than any timing has; no paths of this machine in errors; no output, which rows.jsonl has."""
    own = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items() if key != "output"}
    return own | {key: own[key].replace(str(CHECKOUT), ".") for key in ("error", "problem") if own.get(key)}


def _report(path: Path, outcomes: dict[str, dict[str, Any]]) -> int:
    """Print the ratios; returns 1 when something failed."""
    for ratio in json.loads(path.read_text(encoding="utf-8"))["summary"]:
        verdict = {None: "", True: f"  >= {ratio['target']:.3g}", False: f"  BELOW {ratio['target'] or 0:.3g}"}[ratio["met"]]
        print(f"{ratio['value']:8.3f}{verdict:14} {ratio['name']}")
    print(path)
    return 1 if any(row["event"] in ("failed", "start") for row in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
