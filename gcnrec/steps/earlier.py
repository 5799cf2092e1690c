"""The everyday retraining: rows of an earlier run, matched by original id.

Letters: N nodes, P nodes of the earlier run, U users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.schema import Dataset
from gcnrec.runs.folder import Run, final_table, open_run, require_table
from gcnrec.system.observer import SILENT, Observer


@dataclass(frozen=True)
class EarlierRows:
    """The final rows of an earlier run, float32 (P, D), and the numbers there of our users and items, -1 for a new one."""

    run: Run
    rows_PD: torch.Tensor
    users_U: NDArray[np.int32]
    items_I: NDArray[np.int32]

    @property
    def places_N(self) -> NDArray[np.int32]:
        """The row in `rows_PD` of each of our nodes, -1 for a new one."""
        users = len(self.run.dataset.user_ids)
        return np.concatenate([self.users_U, np.where(self.items_I >= 0, self.items_I + users, -1)]).astype(np.int32)


def earlier_run(folder: str, dataset: Dataset, width: int, observer: Observer = SILENT) -> Run:
    """The run in `folder`, from whose table one of `width` columns for `dataset` can start; its rows are not read.

    UsageError where it is not finished or has no table, another width, or ids of another kind. DataError as `open_run`.
    """
    run = open_run(folder, observer)
    require_table(run)
    if (found := run.job.table_width) != width:
        raise UsageError(f"train.init_from: {run.folder} has rows {found} wide, this job {width}; set model.width = {found}")
    sides = (("user", run.dataset.user_ids, dataset.user_ids), ("item", run.dataset.item_ids, dataset.item_ids))
    for side, old, new in sides:
        try:
            old.cast(pa.array([], new.type))
        except DataError:
            raise UsageError(
                f"train.init_from: {run.folder} has {side} ids of type {old.type}, this data {new.type}, and none of them is "
                "one of the others; start from a run with such ids"
            ) from None
    return run


def earlier_rows(folder: str, dataset: Dataset, width: int, observer: Observer) -> EarlierRows:
    """The rows of the run in `folder` for the nodes of `dataset`. Raises as `earlier_run`."""
    run = earlier_run(folder, dataset, width, observer)
    rows_PD, old = final_table(run), run.dataset
    users_U, items_I = old.user_ids.numbers(dataset.user_ids.ids), old.item_ids.numbers(dataset.item_ids.ids)
    return EarlierRows(run, rows_PD, users_U, items_I)


def report_matches(earlier: EarlierRows, observer: Observer) -> None:
    """Note matched, new and lost nodes."""
    old = earlier.run.dataset
    sides = (("users", earlier.users_U, len(old.user_ids)), ("items", earlier.items_I, len(old.item_ids)))
    for name, places, before in sides:
        matched = int((places >= 0).sum())
        counts = f"{matched} {name} matched, {len(places) - matched} new, {before - matched} lost"
        observer.note(f"init_from {earlier.run.folder}: {counts}")


def seen_validation(earlier: EarlierRows, dataset: Dataset) -> str | None:
    """A warning when the earlier run was trained on validation pairs of `dataset`; else None."""
    known = _known_pairs(earlier, dataset)
    if not known:
        return None
    by_time = dataset.info.get("split") in ("temporal", "leave_last")
    remedy = "start from a run whose data ends before validation begins" if by_time else "split by time to measure a retraining"
    return (
        f"init_from {earlier.run.folder}: it was trained on {known} of the {len(dataset.valid)} validation pairs, so validation "
        f"looks better than it is; {remedy}"
    )


def _known_pairs(earlier: EarlierRows, dataset: Dataset) -> int:
    """How many validation pairs of `dataset` the earlier run was trained on."""
    csr = earlier.run.train_graph.user_items
    users, items = earlier.users_U[dataset.valid.users_E], earlier.items_I[dataset.valid.items_E]
    both = (users >= 0) & (items >= 0)
    asked = users[both].astype(np.int64) * csr.columns + items[both]
    trained = csr.row_numbers().astype(np.int64) * csr.columns + csr.indices  # ascending, as rows and columns are
    places = np.minimum(np.searchsorted(trained, asked), len(trained) - 1)
    return int((trained[places] == asked).sum())
