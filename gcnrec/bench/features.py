"""Bench `features`: the features of a batch's nodes, read by number from a table in host memory into a new tile.

Rows of 100, 300, 602 and 1,024 columns, float32: aligned to lines of 128 bytes as a table of training has them, and one after the
other as a dataset has them. Numbers are drawn evenly, different and ascending, as batches have them.
Letters: N nodes, R rows read, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.gather import difference
from gcnrec.bench.harness import Row, Variant, in_parts, measure, use_threads, variants_of
from gcnrec.random import Stage, generator
from gcnrec.tables.features.code import Code
from gcnrec.tables.features.table import FeatureTable

COLUMNS = (100, 300, 602, 1024)


@dataclass(frozen=True)
class Task:
    """The features, and the rows to read."""

    rows_NF: NDArray[np.float32]
    index_R: NDArray[np.int64]


def run(threads: int | None = None, runs: int = 9, num_rows: int = 200_000, batch: int = 50_000) -> Iterator[Row]:
    """Rows for every number of columns, and one closing row, the smallest speedup; units are rows read."""
    use_threads(threads)

    def part(columns: int) -> Iterator[Row]:
        task = task_of(num_rows, columns, batch)
        return measure(f"features-{columns}", variants(task), len(task.index_R), difference, 0.0, runs=runs)

    yield from in_parts("features", map(part, COLUMNS))


def task_of(num_rows: int, columns: int, batch: int) -> Task:
    """Normal features, and ascending rows of which no two are alike."""
    draws = generator(0, Stage.INIT)
    rows_NF = draws.standard_normal((num_rows, columns), np.float32)
    return Task(rows_NF, np.sort(draws.choice(num_rows, min(batch, num_rows), replace=False)))


def variants(task: Task) -> list[Variant]:
    """All of them required; each gives a tile of its own, as a step takes it."""
    rows_NF, index_R = task.rows_NF, task.index_R
    builds: dict[str, Callable[[], Callable[[], torch.Tensor]]] = {
        "gcnrec": lambda: partial(FeatureTable.encoded(rows_NF, Code(), "item").rows, index_R),
        "gcnrec-adopted": lambda: partial(FeatureTable.adopted(rows_NF).rows, index_R),
        "numpy-index": lambda: lambda: torch.from_numpy(rows_NF[index_R]),
        "numpy-take": lambda: lambda: torch.from_numpy(np.take(rows_NF, index_R, axis=0)),
        "torch-index-select": lambda: partial(torch.index_select, torch.from_numpy(rows_NF), 0, torch.from_numpy(index_R)),
    }
    return variants_of(builds)
