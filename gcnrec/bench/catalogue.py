"""The benches that `gcnrec bench` knows."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from gcnrec.bench.harness import Row
from gcnrec.errors import UsageError, nearest

ON_A_GRAPH = ("propagate", "train-step", "table", "evaluate", "sample", "epoch", "scale")
BENCHES = (*ON_A_GRAPH, "sample-large", "ingest", "gather", "features", "update")


class Workers(NamedTuple):
    """What bench `scale` alone takes: numbers of workers, and the Python of an environment with TorchRec."""

    numbers: tuple[int, ...] | None = None
    torchrec: Path | None = None


ALONE = Workers()
"""Nothing was said of workers."""


def rows_of(what: str, dataset: Path | None, workers: Workers = ALONE) -> Iterator[Row]:
    """The rows of bench `what`, each as soon as it is measured; the last one is the summary.

    `dataset` is a dataset folder for the benches that run on a graph; None is a synthetic graph of Gowalla's size.
    """
    if what not in BENCHES:
        raise UsageError(f"there is no bench {what!r}{nearest(what, BENCHES)}")
    if dataset is not None and what not in ON_A_GRAPH:
        raise UsageError(f"bench {what} makes its own input; leave --data out")
    if what == "scale":
        from gcnrec.bench import scale

        return scale.run(dataset, workers.numbers or scale.WORKERS, workers.torchrec)
    if workers != ALONE:
        raise UsageError(f"bench {what} runs in one process; leave --workers and --torchrec-python to bench scale")
    bench = import_module(f"gcnrec.bench.{what.replace('-', '_')}").run
    rows: Iterator[Row] = bench(dataset) if what in ON_A_GRAPH else bench()
    return rows
