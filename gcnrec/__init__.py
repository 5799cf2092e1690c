"""gcnrec: graph recommenders trained in offline jobs; Parquet in, recall out.

Letters used in names: B seeds, N negatives per seed (or nodes of the graph), V nodes of a batch, R distinct rows,
E interactions, U users, I items, D width, K list length, L layers.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gcnrec.system.supported import refuse_windows
from gcnrec.version import __version__ as __version__

refuse_windows(sys.platform, sys.argv)
_FOLDER = os.path.dirname(__file__)  # noqa: PTH120 (pathlib takes longer to import than all of this file)
# In time for the first import of numba, whoever imports it. A package that can be written to holds its own kernels.
if not all(os.access(os.path.join(_FOLDER, room), os.W_OK) for room in ("", "ops", "loaders")):  # noqa: PTH118
    from gcnrec.system.kernel_cache import find_room

    find_room()

__all__ = ["compare", "evaluate", "ingest", "open_dataset", "open_run", "recommend", "score", "similar", "train"]

# Public name -> module and the function's name there.
_HOMES = {
    "compare": ("gcnrec.results.compare", "compare"),
    "evaluate": ("gcnrec.results.evaluate", "evaluate_run"),
    "ingest": ("gcnrec.loaders.parquet", "ingest"),
    "open_dataset": ("gcnrec.loaders.schema", "open_dataset"),
    "open_run": ("gcnrec.runs.folder", "open_run"),
    "recommend": ("gcnrec.results.recommend", "recommend"),
    "score": ("gcnrec.results.score", "score"),
    "similar": ("gcnrec.results.similar", "similar"),
    "train": ("gcnrec.training.train", "train"),
}

if TYPE_CHECKING:
    from gcnrec.loaders.parquet import ingest as ingest
    from gcnrec.loaders.schema import open_dataset as open_dataset
    from gcnrec.runs.folder import open_run as open_run


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gcnrec' has no attribute {name!r}")
    module, function = _HOMES[name]
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
