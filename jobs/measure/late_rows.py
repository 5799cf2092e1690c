"""CPU seconds of a training step whose rows catch up, against `adam`, and against Adam that updates every row.

    python -m jobs.measure.late_rows DATASET --out RECORD.json [--steps 60]

Sampled LightGCN, 64 wide, on one thread: three steps on the same batches in turns, after some without every-row Adam.
Each case has a batch size and fanouts; fewer rows a step leave longer gaps. `mean_gap` is the graph's rows over those of a step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import torch

from gcnrec.bench.harness import Row, write_record
from gcnrec.config import Job
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.steps.step import Step
from gcnrec.tables.rules import AdamDense
from gcnrec.training.build import build_step, first_table, planned
from gcnrec.training.train import train_data

CASES = ((2048, (10, 10), 240), (256, (10,), 300), (64, (3,), 400), (12, (3, 3), 800))
"""Batch size, fanouts, and steps before those that are timed: gaps are long by then, and steps are no early ones."""
RATE = 1e-3
EVERY = "every row"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args(arguments)
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    dataset = open_dataset(options.dataset)
    rows = [measured(dataset, *case, options.steps) for case in CASES]
    write_record(options.out, "python -m jobs.measure.late_rows " + " ".join(arguments), rows, dataset=dataset.folder.name)
    return 0


def steps_of(dataset: Dataset, batch_size: int, fanouts: tuple[int, ...]) -> dict[str, Step]:
    """A step by each rule, from the same start."""

    def step(rule: str) -> Step:
        job = Job.parse(
            {
                "model": {"propagation": "sampled", "layers": len(fanouts), "width": 64, "start": "normal"},
                "sampler": {"fanouts": list(fanouts)}, "optimizer": {"rule": rule, "learning_rate": RATE},
                "train": {"batch_size": batch_size, "threads": 1, "device": "cpu"},
            },
            [], "this program",
        )  # fmt: skip
        plan = planned(job, dataset)
        assert plan is not None
        return build_step(job, plan, train_data(dataset), first_table(plan, dataset.graph))

    betas = (0.9, 0.999, 1e-8)
    return {"adam": step("adam"), "adam_dense": step("adam_dense"), EVERY: replace(step("adam"), rule=AdamDense(*betas))}


def measured(dataset: Dataset, batch_size: int, fanouts: tuple[int, ...], warm: int, count: int) -> Row:
    """Medians of CPU milliseconds of `Step.train`, and their shares of `adam`'s."""
    steps = steps_of(dataset, batch_size, fanouts)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    rows: list[int] = []
    per_epoch = steps["adam"].sampler.steps_per_epoch
    for index in range(warm + count):
        for name, step in steps.items():
            if name == EVERY and index < warm - 3:  # it is slow, and its table needs no gaps
                continue
            given = step.upload(step.prepare(step.sampler.batch(*divmod(index, per_epoch))))
            begun = time.process_time()
            step.train(given, RATE)
            if index >= warm:
                seconds[name].append(time.process_time() - begun)
                rows.append(len(given.batch.rows_R))
    milliseconds = {name: round(1e3 * float(np.median(each)), 3) for name, each in seconds.items()}
    mean = float(np.mean(rows))
    return {
        "batch_size": batch_size, "fanouts": list(fanouts), "rows": round(mean),
        "mean_gap": round(dataset.graph.num_nodes / mean, 1), "cpu_ms": milliseconds,
        "of_adam": {name: round(each / milliseconds["adam"], 2) for name, each in milliseconds.items()},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
