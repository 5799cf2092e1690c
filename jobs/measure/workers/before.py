"""Trains jobs by one process of an earlier checkout and by one of this checkout, and compares what they leave.

    python -m jobs.measure.workers.before OLD_TREE --out RECORD.json [--only NAME;...] [--work DIR]

Jobs are those of `cases.py` with whole batches, which several workers share or not. One process of each checkout makes the
datasets and trains all jobs, with one thread. Tensors of checkpoints, losses, metrics of validation and of test, and exports are
compared to the bit (`jobs.measure.kill.digests`). job.toml, which has keys of its version, is not. The exit code is 1 when a job
ends in other files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gcnrec.bench.harness import command_of, write_record
from gcnrec.runs.paths import JOB
from jobs.measure.kill.digests import differences, digests
from jobs.measure.kill.processes import CHECKOUT
from jobs.measure.workers.cases import WHOLE, Case
from jobs.measure.workers.equal import recorded

Row = dict[str, Any]


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, metavar="OLD_TREE", help="a checkout of an earlier commit")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", type=lambda text: text.split(";"), default=list(WHOLE), help="names of jobs, with ; between")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    if not (given.tree / "gcnrec" / "__init__.py").is_file():
        parser.error(f"OLD_TREE must be a checkout, which has gcnrec/__init__.py, got {given.tree}")
    if unknown := set(given.only) - set(WHOLE):
        parser.error(f"--only has {', '.join(sorted(unknown))}; names are {'; '.join(WHOLE)}")
    return given


def main() -> None:
    given = arguments()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work, cases = (given.work or Path(folder)).resolve(), [WHOLE[name] for name in given.only]
        trees = {"before": given.tree.resolve(), "now": CHECKOUT}
        for name, tree in trees.items():
            train_all(tree, work / name, given.only)
        rows = [compared(case, *(left(work / name / case.folder) for name in trees)) for case in cases]
    equal = sum(row["equal"] for row in rows)
    summary = {"summary": True, "jobs": len(rows), "equal": equal, "seconds": round(time.perf_counter() - begun, 1)}
    print(json.dumps(summary))
    if given.out:
        write_record(given.out, command_of("jobs.measure.workers.before", recorded(sys.argv[1:])), [*rows, summary])
    if equal < len(rows):
        sys.exit(1)


def train_all(tree: Path, work: Path, names: list[str]) -> None:
    """Train jobs by a process that imports the gcnrec of `tree`. SystemExit where it fails."""
    (work / "data").mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(tree), str(CHECKOUT)])  # programs of the jobs are these, wherever the tree lacks them
    command = [sys.executable, "-m", "jobs.measure.workers.in_tree", str(work), *names]
    done = subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise SystemExit(f"the jobs of {work.name} ended with {done.returncode}")


def left(folder: Path) -> dict[str, str]:
    """The digests of what a run leaves, without its job file."""
    return {name: digest for name, digest in digests(folder).items() if name != JOB}


def compared(case: Case, before: dict[str, str], now: dict[str, str]) -> Row:
    """A job's row: the digests of this checkout's files, and which differ."""
    different = differences(before, now)
    print(f"{case.name}: {f'NOT equal {different}' if different else 'equal'}", file=sys.stderr, flush=True)
    row: Row = {"job": case.name, "equal": bool(now) and not different, "digests": now}
    return row | ({"different": different} if different else {})


if __name__ == "__main__":
    main()
