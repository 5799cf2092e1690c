"""The benches that `gcnrec bench` knows."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from gcnrec.errors import UsageError, nearest

BENCHES = ("propagate", "train-step", "evaluate", "ingest")


def rows_of(what: str) -> Iterator[dict[str, Any]]:
    """The rows of bench `what`, each as soon as it is measured; the last one is the summary."""
    if what not in BENCHES:
        raise UsageError(f"there is no bench {what!r}{nearest(what, BENCHES)}")
    module = import_module(f"gcnrec.bench.{what.replace('-', '_')}")
    rows: Iterator[dict[str, Any]] = module.run()
    return rows
