"""Compares flat FAISS indexes with `gcnrec recommend`: the lists of every user of finished runs must be equal, scores too.

    python -m jobs.measure.faiss_exact RECORD.json RUN [RUN ...]

Each run is exported twice, flat and HNSW; HNSW's recall is what the export measured.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.api.lists import recommend
from gcnrec.bench.harness import write_record
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.results.bundle import known_items
from gcnrec.results.export import ItemIndex, export, open_index, ranked
from gcnrec.runs.folder import Run, open_run

K = 20


def main() -> None:
    out, *folders = map(Path, sys.argv[1:])
    rows = [compared(open_run(folder)) for folder in folders]
    write_record(out, f"python -m jobs.measure.faiss_exact {out.name} {' '.join(folder.name for folder in folders)}", rows)
    if not all(row["equal_lists"] == row["users"] for row in rows):
        sys.exit("a list of a flat index differs from that of 'gcnrec recommend'")


def compared(run: Run) -> dict[str, Any]:
    """The number of users whose lists of the flat index equal the lists of `recommend`, and the seconds of both."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        flat, graph = (export(run, "faiss", work / kind, index=kind, k=K) for kind in ("flat", "hnsw"))
        begun = time.perf_counter()
        recommend(run, K, work / "recs.parquet")
        recommended = time.perf_counter()
        served = lists_of(open_index(work / "flat"), run)
        searched = time.perf_counter()
        expected = pq.read_table(work / "recs.parquet").select(served.column_names)
    return {
        "run": run.folder.name, "model": run.job.model.name, "data": run.dataset.name, "users": len(run.dataset.user_ids),
        "items": flat["items"], "width": flat["width"], "equal_lists": equal_lists(served, expected),
        "recommend_seconds": recommended - begun, "flat_seconds": searched - recommended,
        "raw_flat_recall": flat[f"recall@{K}"], "hnsw_recall": graph[f"recall@{K}"], "hnsw_ef_search": graph["ef_search"],
    }  # fmt: skip


def lists_of(index: ItemIndex, run: Run) -> pa.Table:
    """The index's lists for every user, as the table that `gcnrec recommend` writes."""
    scorer = run.scorer()
    assert isinstance(scorer, EmbeddingScorer)  # `export` refuses others
    users_U = np.arange(len(run.dataset.user_ids), dtype=np.int32)
    parts = list(ranked(index, scorer, users_U, K, known_items(run.dataset)))
    items_UK, scores_UK = (np.concatenate([getattr(part, name) for part in parts]) for name in ("items_BK", "scores_BK"))
    at, slots = np.nonzero(items_UK >= 0)
    ids = run.dataset.user_ids.decode(users_U[at]), index.ids.take(pa.array(items_UK[at, slots]))
    return pa.table(
        [*ids, pa.array((slots + 1).astype(np.int32)), pa.array(scores_UK[at, slots])], names=["user", "item", "rank", "score"]
    )


def equal_lists(served: pa.Table, expected: pa.Table) -> int:
    """Users whose whole list is equal: items, order and scores, bit for bit. Both tables go by user."""
    if not served.column("user").equals(expected.column("user")):
        return 0
    same = np.ones(len(served), np.bool_)
    for name in ("item", "rank", "score"):
        same &= served.column(name).to_numpy() == expected.column(name).to_numpy()
    codes = served.column("user").combine_chunks().dictionary_encode().indices.to_numpy()
    wrong = np.unique(codes[~same])
    return int(codes.max(initial=-1)) + 1 - len(wrong)


if __name__ == "__main__":
    main()
