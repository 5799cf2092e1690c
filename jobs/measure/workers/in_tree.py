"""Trains jobs by one process with the gcnrec of the working directory, which may be an earlier checkout: the work of `before`.

    python -m jobs.measure.workers.in_tree WORK NAME...

Datasets are made by that gcnrec, too. WORK gets a run folder for each job, with its metrics on test.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import gcnrec
from gcnrec.results.evaluate import evaluate_run
from gcnrec.training.train import train
from jobs.measure.workers.cases import WHOLE
from jobs.measure.workers.data import made


def main() -> None:
    work, cases = Path(sys.argv[1]), [WHOLE[name] for name in sys.argv[2:]]
    if not Path(gcnrec.__file__).is_relative_to(Path.cwd()):
        raise SystemExit(f"the gcnrec of {Path.cwd()} was to train, not {gcnrec.__file__}")
    datasets = {kind: made(kind, work / "data" / kind) for kind in sorted({case.data for case in cases})}
    for case in cases:
        begun = time.perf_counter()
        run = train(case.job(None), datasets[case.data], work / case.folder)
        if len(run.dataset.test):
            evaluate_run(run)
        print(f"{work.name}, {case.name}: {time.perf_counter() - begun:.2f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
