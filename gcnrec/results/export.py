"""What leaves gcnrec to be served: embeddings as Parquet, a FAISS index of the items, a bundle, and the forms of `exports/`.

FAISS and torch round inner products differently, so two items whose scores differ by a last bit may swap places in a raw
search of the index. `ranked` undoes that: it takes candidates from the index, more than asked for, and lets the scores of
`gcnrec recommend` order them, ties to the smaller item number.
Letters: B users of a chunk, F width of the embeddings, I items, K list length, W candidates a user.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError, first_line, install, os_remedy
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.loaders.schema import new_folder
from gcnrec.ops.topk import Hidden, ItemLists, TopK, contained
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import USERS_PER_CHUNK, in_chunks, rank_chunk, top_k_all
from gcnrec.results.bundle import write_bundle
from gcnrec.results.exports.int8 import write_int8
from gcnrec.results.exports.sage_onnx import write_onnx
from gcnrec.results.exports.target import FAISS_INDEXES, FORMAT, INDEX_FACTS, Target
from gcnrec.results.exports.usearch_index import write_usearch
from gcnrec.results.exports.vectors import ADDED_AT_ONCE, indexed_rows, measured_users, overlap, queries_of
from gcnrec.runs.folder import Run
from gcnrec.runs.paths import embeddings_paths
from gcnrec.storage.documents import read_object
from gcnrec.storage.files import next_folder
from gcnrec.system.observer import SILENT, Observer, kept

FORMATS = ("faiss", "bundle", "parquet", "int8", "onnx", "usearch")
INDEXES = FAISS_INDEXES
_WITH_K = ("faiss", "int8", "usearch")
"""Formats that measure the recall of lists."""
HNSW_LINKS, HNSW_CONSTRUCTION = 32, 200
EF_SEARCH = (32, 64, 128, 256, 512)
ENOUGH_RECALL = 0.99
"""An HNSW index is left with the first of `EF_SEARCH` that reaches this, or the last."""
_SPARE = 16


@dataclass(frozen=True)
class ItemIndex:
    """An exported index, opened: FAISS's id n is item number n, whose original id is `ids[n]`; `facts` is `index.json`."""

    index: Any
    ids: pa.Array
    facts: dict[str, Any]


def export(
    run: Run, kind: str, out: Path, *, index: str | None = None, k: int | None = None, force: bool = False,
    observer: Observer = SILENT,
) -> dict[str, Any]:  # fmt: skip
    """Write what `kind` names to `out`, whole or not at all, and return its figures.

    "parquet": a folder with `users.parquet` and `items.parquet` (`id`, `embedding`). "bundle": one safetensors file. "faiss":
    a folder with `items.faiss` (inner product; `index` "flat" or "hnsw", default flat), `items.parquet` (`number`, `id`) and
    `index.json` with the recall@`k` (default 20) against exact search. "usearch": as "faiss", with `items.usearch`. "int8": as
    "parquet" with codes and scales of rows, and `export.json` with the recall of their lists (`gcnrec.results.exports.int8`).
    "onnx": a folder with the encoder of graphsage and the rows that it reads (`gcnrec.results.exports.sage_onnx`).
    `force` replaces an earlier export.
    Raises UsageError when `out` is taken, when the model has no embeddings, or when FAISS is not installed.
    """
    if kind not in FORMATS:
        raise UsageError(f"--format must be one of {', '.join(FORMATS)}, got {kind!r}")
    refuse_options(kind, index, k)
    target = Target(out, force)
    target.refuse_taken(kind)
    scratch = next_folder(out.parent)  # the run's own folder may be read-only
    run.scorer(scratch)  # refuses a run that is not finished
    if run.job.model.closed_form:
        raise UsageError(f"{run.folder} holds a closed-form model ({run.job.model.name}), which has no embeddings to export")
    scorer, mixture = run.embeddings(scratch).scorer, run.mixture
    k = 20 if k is None else k
    if kind == "faiss":
        facts = _write_index(run, scorer, target, index or "flat", k, kept(observer))
    elif kind == "int8":
        facts = write_int8(run, run.embeddings(scratch), target, k, kept(observer))
    elif kind == "usearch":
        facts = write_usearch(run, scorer, target, k, kept(observer))
    elif kind == "onnx":
        facts = write_onnx(run, run.embeddings(scratch), target)
    elif kind == "bundle":
        facts = write_bundle(run, run.embeddings(scratch), out)
    else:
        facts = _copy_embeddings(run, scorer, target)
    if kind != "bundle" and mixture and mixture.partners:
        facts["ranks_by"] = f"the trained part alone, the run by {mixture.name}"
    return {"out": str(out), **facts, "format": kind}


def refuse_options(kind: str, index: str | None, k: int | None) -> None:
    """UsageError for options that belong to another format, and for lists of no length."""
    if kind != "faiss" and index is not None:
        raise UsageError(f"--index belongs to --format faiss, got --format {kind}; leave it out")
    if kind not in _WITH_K and k is not None:
        raise UsageError(f"--k belongs to --format {', '.join(_WITH_K)}, got --format {kind}; leave it out")
    if k is not None and k < 1:
        raise UsageError(f"--k must be at least 1, got {k}")


def open_index(folder: Path) -> ItemIndex:
    """An index folder that `export` wrote. DataError when it is missing or damaged, UsageError without FAISS."""
    faiss = _faiss()
    facts = read_object(folder / INDEX_FACTS, "export it again")
    try:
        index = faiss.read_index(str(folder / "items.faiss"))
        ids = pq.read_table(folder / "items.parquet").column("id").combine_chunks()
    except (OSError, RuntimeError, ValueError, KeyError) as problem:
        raise DataError(f"{folder} cannot be opened as an exported index ({first_line(problem)}); export it again") from None
    if facts.get("format") != FORMAT or index.ntotal != len(ids):
        raise DataError(f"{folder} must hold an index of format {FORMAT} with an id for each of its items; export it again")
    return ItemIndex(index, ids, facts)


def ranked(index: ItemIndex, scorer: EmbeddingScorer, users_B: NDArray[np.int32], k: int, seen: Csr) -> Iterator[TopK]:
    """The best `k` items of every user that are not in `seen` (user -> items), found by the index, one TopK per chunk of users.

    From a flat index these are exactly the lists that `gcnrec recommend` writes for the same users in the same order: candidates
    are added until no other item can reach the k-th one, whatever the rounding (Higham 2002, eq. 3.5: a sum of F products is off
    by at most F * 2^-24 of the sum of their sizes, to first order), and then scored as there.
    From an HNSW index they are the best of what it found.
    """

    def rank(start: int) -> TopK:
        chunk_B = users_B[start : start + USERS_PER_CHUNK]
        hidden = ItemLists(seen, chunk_B)
        return rank_chunk(scorer, chunk_B, k, Hidden((hidden,)), _candidates(index.index, scorer, chunk_B, k, hidden))

    return in_chunks(scorer, rank, range(0, len(users_B), USERS_PER_CHUNK))


def _candidates(index: Any, scorer: EmbeddingScorer, users_B: NDArray[np.int32], k: int, hidden: ItemLists) -> ItemLists:
    """For each user, items that include the best `k` which are not hidden."""
    rows_BF = queries_of(scorer, users_B)
    longest = float(scorer.items_ID.norm(dim=1).max()) + (0.0 if scorer.column_I is None else float(scorer.column_I.abs().max()))
    reach_B = np.linalg.norm(rows_BF, axis=1) * longest
    rounding_B = 4 * rows_BF.shape[1] * 2.0**-23 * reach_B  # both scores of both items, each bound doubled
    most_hidden = int(hidden.csr.degrees[hidden.rows_B].max(initial=0))
    width = min(k + most_hidden + _SPARE, scorer.num_items)
    scores_BW, items_BW = index.search(rows_BF, width)
    while width < scorer.num_items and not _is_enough(scores_BW, items_BW, k, hidden, rounding_B):
        width = min(2 * width, scorer.num_items)
        scores_BW, items_BW = index.search(rows_BF, width)
    at_E, slots_E = np.nonzero(items_BW >= 0)
    items_E = items_BW[at_E, slots_E].astype(np.int32)
    csr = csr_from_edges(at_E.astype(np.int32), items_E, len(users_B), scorer.num_items)
    return ItemLists(csr, np.arange(len(users_B), dtype=np.int32))


def _is_enough(
    scores_BW: NDArray[np.float32],
    items_BW: NDArray[np.int64],
    k: int,
    hidden: ItemLists,
    rounding_B: NDArray[np.float64],
) -> bool:
    """Whether for every user the last candidate lies below its k-th unhidden one by more than `rounding_B`."""
    ranks_BW = np.cumsum(~contained(items_BW.astype(np.int32), hidden), axis=1)
    kth_B = np.argmax(ranks_BW >= k, axis=1)
    gaps_B = scores_BW[np.arange(len(kth_B)), kth_B].astype(np.float64) - scores_BW[:, -1]
    return bool(((ranks_BW[:, -1] >= k) & (gaps_B > rounding_B)).all())


def _write_index(run: Run, scorer: EmbeddingScorer, target: Target, kind: str, k: int, observer: Observer) -> dict[str, Any]:
    """Write a folder with an index of FAISS; returns its figures."""
    if kind not in INDEXES:
        raise UsageError(f"--index must be {' or '.join(INDEXES)}, got {kind!r}")
    faiss = _faiss()
    width = indexed_rows(scorer, 0, 0).shape[1]
    index = faiss.IndexFlatIP(width) if kind == "flat" else _hnsw(faiss, width)
    for first in range(0, scorer.num_items, ADDED_AT_ONCE):
        last = min(first + ADDED_AT_ONCE, scorer.num_items)
        index.add(indexed_rows(scorer, first, last))  # copy: FAISS owns its rows
        observer.work("indexing items", last, scorer.num_items)
    facts = {
        "format": FORMAT, "index": kind, "score": "inner product", "items": scorer.num_items, "width": width,
        "query": "embedding of the user" + ("" if scorer.column_I is None else ", then 1"),
        "model": run.job.model.name, "data": run.dataset.digest, **_measured(index, scorer, kind, min(k, scorer.num_items)),
    }  # fmt: skip
    ids = run.dataset.item_ids.ids
    with new_folder(target.path, target.force) as work:
        try:
            faiss.write_index(index, str(work / "items.faiss"))
        except RuntimeError as problem:
            raise DataError(f"cannot write {target.path}: {problem}; {os_remedy(problem, 'choose another --out')}") from None
        numbers = pa.array(np.arange(len(ids), dtype=np.int32))
        pq.write_table(pa.table({"number": numbers, "id": ids}), work / "items.parquet", compression="zstd")
        (work / INDEX_FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _hnsw(faiss: Any, width: int) -> Any:
    """An empty HNSW index (Malkov and Yashunin 2018). Its links depend on the timing of threads, so its recall is measured."""
    index = faiss.IndexHNSWFlat(width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_CONSTRUCTION
    return index


def _measured(index: Any, scorer: EmbeddingScorer, kind: str, k: int) -> dict[str, Any]:
    """Recall@k of raw searches among all items: the share of the exact top k that the index finds. Sets HNSW's `efSearch`."""
    users_B = measured_users(scorer)
    rows_BF, exact_BK = queries_of(scorer, users_B), top_k_all(scorer, users_B, k, None).items_BK
    if kind == "flat":
        return {f"recall@{k}": overlap(index.search(rows_BF, k)[1], exact_BK), "measured_users": len(users_B)}
    recalls: dict[str, float] = {}
    for ef in EF_SEARCH:
        index.hnsw.efSearch = ef
        recalls[str(ef)] = overlap(index.search(rows_BF, k)[1], exact_BK)
        if recalls[str(ef)] >= ENOUGH_RECALL:
            break
    return {f"recall@{k}": recalls[str(ef)], "measured_users": len(users_B), "ef_search": ef, "recall_by_ef_search": recalls}


def _copy_embeddings(run: Run, scorer: EmbeddingScorer, target: Target) -> dict[str, Any]:
    """The files of the run folder, which have just been read: both are whole and hold the ids of the dataset."""
    with new_folder(target.path, target.force) as work:
        for path in embeddings_paths(run.folder):
            shutil.copyfile(path, work / path.name)
    return {"users": scorer.num_users, "items": scorer.num_items, "width": scorer.items_ID.shape[1]}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UsageError(f"a FAISS index needs FAISS, which is not installed; {install('faiss')}") from None
    return faiss
