"""The everyday retraining: a table that starts from an earlier run's rows, matched by original id.

Letters: N nodes, U users, I items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.loaders.schema import Dataset
from gcnrec.runs.folder import Run, final_table, open_run
from gcnrec.sparsity.budget import table_width
from gcnrec.steps.start import continued_rows, first_table
from gcnrec.tables.dense import Allocate, in_ram
from gcnrec.tables.pipelined import HostTable

if TYPE_CHECKING:
    from gcnrec.system.observer import Observer


def starting_table(
    job: Job,
    dataset: Dataset,
    graph: BipartiteGraph,
    observer: Observer,
    warn: Callable[[str], object],
    allocate: Allocate = in_ram,
) -> HostTable:
    """The table that training starts from; with `train.init_from`, matched, new and lost nodes are reported.

    `warn` hears when the earlier run was trained on validation pairs of this one.
    """
    width = table_width(job)
    if job.train.init_from is None:
        return first_table(job, graph, None, allocate)
    earlier = open_run(job.train.init_from)
    earlier_ND = final_table(earlier)
    if earlier_ND.shape[1] != width:
        raise UsageError(
            f"train.init_from: {earlier.folder} has rows {earlier_ND.shape[1]} wide, this job {width}; "
            f"set model.width = {earlier_ND.shape[1]}"
        )
    old = earlier.dataset
    users = old.user_ids.numbers(dataset.user_ids.ids)
    items = old.item_ids.numbers(dataset.item_ids.ids)
    places_N = np.concatenate([users, np.where(items >= 0, items + len(old.user_ids), -1)]).astype(np.int32)
    for name, places, before in (("users", users, len(old.user_ids)), ("items", items, len(old.item_ids))):
        matched = int((places >= 0).sum())
        observer.note(
            f"init_from {earlier.folder}: {matched} {name} matched, {len(places) - matched} new, {before - matched} lost"
        )
    known = _known_pairs(earlier, users, items, dataset)
    if known:
        warn(
            f"init_from {earlier.folder}: it was trained on {known} of the {len(dataset.valid)} validation pairs, so validation "
            "looks better than it is; split by time to measure a retraining"
        )
    return first_table(job, graph, continued_rows(job, graph, earlier_ND, places_N), allocate)


def _known_pairs(earlier: Run, users_U: NDArray[np.int32], items_I: NDArray[np.int32], dataset: Dataset) -> int:
    """How many validation pairs of `dataset` the earlier run was trained on; the arrays give its numbers of our nodes."""
    csr = earlier.train_graph.user_items
    users, items = users_U[dataset.valid.users_E], items_I[dataset.valid.items_E]
    both = (users >= 0) & (items >= 0)
    asked = users[both].astype(np.int64) * csr.columns + items[both]
    trained = csr.row_numbers().astype(np.int64) * csr.columns + csr.indices  # ascending, as rows and columns are
    places = np.minimum(np.searchsorted(trained, asked), len(trained) - 1)
    return int((trained[places] == asked).sum())
