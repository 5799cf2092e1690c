"""Validation of a run's best epoch, user by user: what baselines are compared with once a refit has trained on validation too.

`per_user.fit.parquet` of a run folder: the columns of `per_user.valid.parquet`, at the cut-off of `evaluate.metric`. It is
written at the end of the fit, before a refit, and never again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.closed_forms.mixture import MIXTURE_ROWS
from gcnrec.config import Evaluate
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, evaluate
from gcnrec.ranking.machines.leader import Rankers
from gcnrec.ranking.metrics import per_user_with, split_name
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer
from gcnrec.ranking.seen import seen_in_validation, validation_pairs
from gcnrec.ranking.top_k import USERS_PER_CHUNK, Here
from gcnrec.runs.manifest import record
from gcnrec.runs.paths import per_user_path
from gcnrec.runs.per_user import read_per_user
from gcnrec.storage.files import atomic_file
from gcnrec.system.limits import parse_bytes
from gcnrec.system.observer import SILENT, Observer


def keep_validation(
    settings: Evaluate, dataset: Dataset, folder: Path, scorer: Scorer, observer: Observer = SILENT, rankers: Rankers = Here
) -> None:
    """Rank for all validation users by `scorer`, the best epoch's, and write `per_user.fit.parquet`. `rankers`: who ranks."""
    report = partial(observer.work, "ranking for validation by the best epoch")
    measures = Measures((split_name(settings.metric)[1],), tilt=settings.tilt, per_user=per_user_with(settings.own))
    split = HeldOutSplit.of(validation_pairs(settings, dataset), dataset.graph, seen_in_validation(settings, dataset))
    result = evaluate(scorer, split, measures, report, ranker=rankers(chunk_of(settings.memory_limit, scorer)))
    with atomic_file(_path(folder)) as path:
        pq.write_table(result.per_user, path, compression="zstd")
        record(folder, {_path(folder): path})


def kept_validation(folder: Path) -> pa.Table | None:
    """What `keep_validation` wrote; None where it did not. DataError when the file is damaged."""
    path = _path(folder)
    if not path.is_file():
        return None
    return read_per_user(folder, path, "remove it, baselines are then not compared")


def chunk_of(memory_limit: str, scorer: Scorer) -> int:
    """Users to rank at a time: where scores of all items are made at once, they take a quarter of `memory_limit`."""
    if isinstance(scorer, EmbeddingScorer):
        return USERS_PER_CHUNK
    room = parse_bytes(memory_limit) // 4
    return max(1, min(USERS_PER_CHUNK, room // (4 * MIXTURE_ROWS * scorer.num_items)))


def _path(folder: Path) -> Path:
    return per_user_path(folder, "fit")
