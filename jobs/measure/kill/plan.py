"""The jobs and the moments of kills, drawn from a seed: any trial can be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.measure.kill.processes import Kill

BATCH = 256
INTERVAL = 5
"""Steps between checkpoints."""
JOB = f"""
[model]
width = 16
layers = 2
start = "normal"

[optimizer]
rule = "adam"
learning_rate = 0.01
schedule = "cosine"

[train]
epochs = 6
batch_size = {BATCH}
threads = 1

[evaluate]
k = [5, 20]
bootstrap = 20
patience = 3
baselines = ["popularity"]

[run]
checkpoint_steps = {INTERVAL}
keep_checkpoints = 2
"""
SLOTS = ["table.budget=0.25", 'sparsity.policy="dynamic"', "sparsity.interval=0.4", "sparsity.batches=2", "model.width=32"]
THREADS = ["train.threads=2"]
REFIT = ['train.refit="train+valid"']
VARIANTS = {
    "dense none": ['model.propagation="none"', 'sampler.negatives="popularity"', "sampler.num_negatives=4"],
    "dense full refit": ['optimizer.rule="adam_dense"', "optimizer.learning_rate=0.003", *REFIT, *THREADS],
    "dense sampled": ['model.propagation="sampled"', "sampler.fanouts=[4, 3]", 'optimizer.rule="adam_row"'],
    "slots none refit": ['model.propagation="none"', *SLOTS, *REFIT],
    "slots full": [*SLOTS, *THREADS],
    "slots sampled on disk": ['model.propagation="sampled"', "sampler.fanouts=[4, 3]", 'table.placement="disk"', *SLOTS],
    "graphsage": ['model.name="graphsage"', "sampler.fanouts=[4, 3]", "optimizer.learning_rate=0.1", *THREADS],
}
"""--set options. All stop early, with the patience above."""

BEGIN_S, WITHIN_S, END_S = 4.0, 0.08, 2.0
"""The longest delay after the start of a process, after a step, and after the last step."""
AGAIN_EVERY, BEGIN_EVERY, FIRST_EVERY, END_EVERY = 5, 20, 40, 20
"""Of so many trials one is killed twice, one at the beginning, one in its first steps, one at the end."""


@dataclass(frozen=True)
class Length:
    """Steps of an uninterrupted run: of an epoch of the fit, and of fit and refit."""

    epoch: int
    total: int


def variant_of(trial: int) -> str:
    return list(VARIANTS)[trial % len(VARIANTS)]


def first_kill(seed: int, trial: int, length: Length) -> Kill:
    """Mostly anywhere after the first checkpoint, in time as evenly as steps are; sometimes before it, or after the last step."""
    random = np.random.default_rng([seed, trial, 0])
    if trial % BEGIN_EVERY == 3:
        return Kill(None, random.uniform(0, BEGIN_S))
    if trial % FIRST_EVERY == 13:
        return Kill(int(random.integers(1, INTERVAL)), random.uniform(0, WITHIN_S / 10))
    if trial % END_EVERY == 10:
        return Kill(length.total, random.uniform(0, END_S))
    return Kill(int(random.integers(INTERVAL + 1, length.total)), random.uniform(0, WITHIN_S))


def second_kill(seed: int, trial: int, length: Length, reached: int) -> Kill | None:
    """For some trials: in what is done again, in what comes after, or while the run is opened again."""
    random = np.random.default_rng([seed, trial, 1])
    if trial % AGAIN_EVERY != 4:
        return None
    if random.uniform() < 0.2:
        return Kill(None, random.uniform(0, BEGIN_S))
    return Kill(int(random.integers(max(1, reached - INTERVAL), length.total + 1)), random.uniform(0, WITHIN_S))


def arguments(variant: str, job: Path, data: Path, out: Path) -> list[str]:
    """Of the `gcnrec` command that runs a variant into `out`."""
    sets = [part for option in VARIANTS[variant] for part in ("--set", option)]
    return ["run", str(job), "--data", str(data), "--out", str(out), *sets]
