"""Runs the job.toml of finished runs again, alone, and compares all files with the first run's.

    python -m jobs.measure.rerun RUN... --out RECORD.json

A rerun is `gcnrec run RUN/job.toml --out ...` from another working directory: no other flag, no --data, and the environment that
lineage.json names, as libraries add numbers up in another order on another number of threads. What must be equal are the metrics
on test, the losses and validation metrics of every epoch, embeddings, tables and checkpoints, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gcnrec.bench.harness import write_record
from gcnrec.runs.lineage import ENVIRONMENT
from jobs.measure.kill.digests import differences, digests


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    arguments = parser.parse_args()
    rows = []
    for run in arguments.runs:
        rows.append(rerun(run))
        print(json.dumps(rows[-1]), flush=True)
    names = shlex.join(run.name for run in arguments.runs)
    write_record(arguments.out, f"python -m jobs.measure.rerun {names} --out {arguments.out.name}", rows)
    return int(any(row["different"] for row in rows))


def rerun(run: Path) -> dict[str, Any]:
    """Run a job again; returns the compared metrics and the files that differ."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    lineage = json.loads((run / "lineage.json").read_text(encoding="utf-8"))
    job = (run / "job.toml").resolve()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT)}
    with tempfile.TemporaryDirectory() as folder:
        again, begun = Path(folder) / "again", time.monotonic()
        command = [sys.executable, "-m", "gcnrec", "run", str(job), "--out", str(again), "--json"]
        done = subprocess.run(command, cwd=folder, env=environment | lineage["environment"], capture_output=True, text=True)
        if done.returncode:
            return {"run": run.name, "exit_code": done.returncode, "said": done.stderr.strip(), "different": ["everything"]}
        first, second = digests(run), digests(again)
        second_metrics = json.loads((again / "metrics.json").read_text(encoding="utf-8"))
    return {
        "run": run.name,
        "threads": lineage["threads"],
        "environment": lineage["environment"],
        "seconds": round(time.monotonic() - begun, 1),
        "recall@20": [metrics["recall@20"], second_metrics["recall@20"]],
        "metrics_equal": metrics == second_metrics,
        "files": len(first),
        "different": differences(first, second),
    }


if __name__ == "__main__":
    sys.exit(main())
