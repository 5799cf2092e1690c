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

__all__ = [
    "Data", "Job", "compare", "evaluate", "ingest", "open_dataset", "open_run", "recommend", "score", "similar", "train",
]  # fmt: skip

# Public name -> module and the name there.
_HOMES = {
    "Data": ("gcnrec.config.data", "Data"),
    "Job": ("gcnrec.config.job", "Job"),
    "compare": ("gcnrec.api.judging", "compare"),
    "evaluate": ("gcnrec.api.judging", "evaluate"),
    "ingest": ("gcnrec.api.making", "ingest"),
    "open_dataset": ("gcnrec.loaders.schema", "open_dataset"),
    "open_run": ("gcnrec.api.making", "open_run"),
    "recommend": ("gcnrec.api.lists", "recommend"),
    "score": ("gcnrec.api.lists", "score"),
    "similar": ("gcnrec.api.lists", "similar"),
    "train": ("gcnrec.pipeline", "train_job"),
}

if TYPE_CHECKING:
    from gcnrec.api.judging import compare as compare
    from gcnrec.api.judging import evaluate as evaluate
    from gcnrec.api.lists import recommend as recommend
    from gcnrec.api.lists import score as score
    from gcnrec.api.lists import similar as similar
    from gcnrec.api.making import ingest as ingest
    from gcnrec.api.making import open_run as open_run
    from gcnrec.config import Data as Data
    from gcnrec.config import Job as Job
    from gcnrec.loaders.schema import open_dataset as open_dataset
    from gcnrec.pipeline import train_job as train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gcnrec' has no attribute {name!r}")
    module, there = _HOMES[name]
    return getattr(import_module(module), there)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
