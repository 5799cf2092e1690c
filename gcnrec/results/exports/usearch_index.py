"""An index of the items for usearch: HNSW (Malkov and Yashunin 2018) by inner product, and the recall of its searches.

usearch keeps 1 - product as a distance, and links depend on the timing of threads, so that recall is measured, not known.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.errors import DataError, UsageError, install, os_remedy
from gcnrec.loaders.schema import new_folder
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import top_k_all
from gcnrec.results.exports.target import FORMAT, INDEX_FACTS, Target
from gcnrec.results.exports.vectors import ADDED_AT_ONCE, indexed_rows, measured_users, overlap, queries_of
from gcnrec.runs.folder import Run
from gcnrec.system.observer import Observer

LINKS, CONSTRUCTION = 32, 200
EXPANSION_SEARCH = (32, 64, 128, 256, 512)
ENOUGH_RECALL = 0.99
"""`expansion_search` in the facts is the first of these with so much recall, or the last; usearch's file does not keep it."""


def write_usearch(run: Run, scorer: EmbeddingScorer, target: Target, k: int, observer: Observer) -> dict[str, Any]:
    """Write `items.usearch`, `items.parquet` (`number`, `id`) and `index.json`, whose facts are returned.

    Raises UsageError without usearch, DataError where the index cannot be written.
    """
    k, width = min(k, scorer.num_items), indexed_rows(scorer, 0, 0).shape[1]
    index = _usearch().Index(ndim=width, metric="ip", dtype="f32", connectivity=LINKS, expansion_add=CONSTRUCTION)
    for first in range(0, scorer.num_items, ADDED_AT_ONCE):
        last = min(first + ADDED_AT_ONCE, scorer.num_items)
        index.add(np.arange(first, last), indexed_rows(scorer, first, last))  # copy: usearch owns its rows
        observer.work("indexing items", last, scorer.num_items)
    facts = {
        "format": FORMAT, "index": "usearch", "score": "1 - distance, of inner products", "items": scorer.num_items,
        "width": width, "query": "embedding of the user" + ("" if scorer.column_I is None else ", then 1"),
        "model": run.job.model.name, "data": run.dataset.digest, **_measured(index, scorer, k),
    }  # fmt: skip
    ids = run.dataset.item_ids.ids
    with new_folder(target.path, target.force) as work:
        try:
            index.save(str(work / "items.usearch"))
        except (RuntimeError, OSError) as problem:
            raise DataError(f"cannot write {target.path}: {problem}; {os_remedy(problem, 'choose another --out')}") from None
        numbers = pa.array(np.arange(len(ids), dtype=np.int32))
        pq.write_table(pa.table({"number": numbers, "id": ids}), work / "items.parquet", compression="zstd")
        (work / INDEX_FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _measured(index: Any, scorer: EmbeddingScorer, k: int) -> dict[str, Any]:
    """Recall@k of searches among all items, by `expansion_search`: the share of the exact top k that the index finds."""
    users_B = measured_users(scorer)
    rows_BF, exact_BK = queries_of(scorer, users_B), top_k_all(scorer, users_B, k, None).items_BK
    recalls: dict[str, float] = {}
    for expansion in EXPANSION_SEARCH:
        index.expansion_search = expansion
        found_BK = np.atleast_2d(index.search(rows_BF, k).keys).astype(np.int64)  # one user comes without the first axis
        recalls[str(expansion)] = overlap(found_BK, exact_BK)
        if recalls[str(expansion)] >= ENOUGH_RECALL:
            break
    return {
        f"recall@{k}": recalls[str(expansion)], "measured_users": len(users_B), "expansion_search": expansion,
        "recall_by_expansion_search": recalls,
    }  # fmt: skip


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise UsageError(f"a usearch index needs usearch, which is not installed; {install('usearch')}") from None
    return usearch.index
