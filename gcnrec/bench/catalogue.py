"""The benches that `gcnrec bench` knows."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from gcnrec.bench.harness import Row
from gcnrec.errors import UsageError, nearest

ON_A_GRAPH = ("propagate", "train-step", "table", "evaluate", "sample", "epoch")
BENCHES = (*ON_A_GRAPH, "sample-large", "ingest", "gather", "features", "update")


def rows_of(what: str, dataset: Path | None) -> Iterator[Row]:
    """The rows of bench `what`, each as soon as it is measured; the last one is the summary.

    `dataset` is a dataset folder for the benches that run on a graph; None is a synthetic graph of Gowalla's size.
    """
    if what not in BENCHES:
        raise UsageError(f"there is no bench {what!r}{nearest(what, BENCHES)}")
    if dataset is not None and what not in ON_A_GRAPH:
        raise UsageError(f"bench {what} makes its own input; leave --data out")
    bench = import_module(f"gcnrec.bench.{what.replace('-', '_')}").run
    rows: Iterator[Row] = bench(dataset) if what in ON_A_GRAPH else bench()
    return rows
