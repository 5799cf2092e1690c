"""Top-k lists of a run as a Parquet file of original ids, streamed: memory does not grow with the lists.

Letters: R users asked for (rows of the request, in its order), B rows of a chunk, I items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.interactions import Interactions
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import Hidden, ItemLists, TopK, empty_lists
from gcnrec.ranking.popularity import PopularityScorer
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.top_k import in_chunks, rank_chunk
from gcnrec.results.fold_in import with_new_nodes
from gcnrec.results.memory_bounds import recommendation_bytes, users_per_chunk
from gcnrec.results.request import Request, read_request
from gcnrec.system.files import atomic_file
from gcnrec.system.observer import SILENT, Observer
from gcnrec.system.scratch import memory_errors_as_sentences

if TYPE_CHECKING:
    from gcnrec.runs.folder import Run

_GROUP_BYTES = 2**23
"""Of lists that are written at a time, as a row group."""


@dataclass(frozen=True, slots=True)
class RecommendSummary:
    """What was written: `users` got a list, `short` of them one of fewer than k items, `fallback` one by popularity.

    `untrained` got one by the model, which knows no interaction of theirs. `unknown_users` and `unknown_items` count ids of the
    given files that the dataset does not know.
    """

    out: Path
    users: int
    rows: int
    short: int
    fallback: int
    untrained: int
    unknown_users: int
    unknown_items: int


def recommend(
    run: Run,
    k: int,
    out: Path,
    *,
    users: Path | None = None,
    items: Path | None = None,
    candidates: Path | None = None,
    exclude: Path | None = None,
    seen: str = "all",
    fallback: str | None = None,
    new_users: Path | None = None,
    new_items: Path | None = None,
    memory_limit: str | None = None,
    observer: Observer = SILENT,
) -> RecommendSummary:
    """Write `out`: user and item (original ids in their Arrow types), rank int32 from 1, score float32.

    Users come in the order of the file `users`, else of `candidates`, else all of them by number; lists by rank. A list
    has at most `k` items and is never padded. `items` restricts what is ranked, `candidates` to these pairs of user and
    item; `exclude` leaves out pairs, or with a single column items for everybody. `seen`: "all" leaves out train, valid
    and test interactions, "train" only train. `fallback` "popularity" gives users whom the model did not train on
    the most popular items (score: train users); without it those unknown to the dataset are left out, and counted.
    `new_users` (pairs of user and item) and `new_items` (features) bring nodes that training never saw
    (`gcnrec.results.fold_in`): new items are ranked beside the others; new users get lists, they alone unless `users` or
    `candidates` ask for others, too.
    `memory_limit`, such as "2GB" (default: of the job), bounds what is held beside the process itself and files that are mapped.
    Raises UsageError when `out` exists, DataError when a file cannot be read or none of its ids is known, DeviceError when the
    limit is too small for the data.
    """
    _check_options(k, out, seen, fallback)
    limit = memory_limit or run.job.evaluate.memory_limit
    files = (users, items, candidates, exclude, new_users, new_items)
    fixed = recommendation_bytes(run, files, folds=new_users is not None or new_items is not None)
    chunk = users_per_chunk(limit, fixed, run, k, "recommending from")
    with memory_errors_as_sentences(limit):
        dataset, unknown_items = run.dataset, 0
        scorer: Scorer | None = None
        if new_users is not None or new_items is not None:
            wider = with_new_nodes(run, new_users, new_items)
            dataset, scorer, unknown_items = wider.dataset, wider.scorer, wider.unknown_items
        asked = users if users is not None or candidates is not None else new_users
        request = read_request(dataset, asked, items, candidates, exclude, keep_unknown=fallback is not None)
        untrained_R = _untrained(run, dataset, request)
        popular_R = untrained_R & (fallback is not None)
        known = [dataset.graph.user_items]
        if seen == "all":
            known += [_csr_of(part, dataset) for part in (dataset.valid, dataset.test) if len(part)]
        out.parent.mkdir(parents=True, exist_ok=True)
        scorer = run.scorer(out.parent) if scorer is None else scorer
        degrees_I = torch.from_numpy(dataset.graph.item_users.degrees.astype(np.float32))
        scorers = (scorer, PopularityScorer(len(dataset.user_ids), degrees_I))

        def rank(start: int) -> TopK:
            rows_B = np.arange(start, min(start + chunk, len(request.ids)), dtype=np.int32)
            return _rank_rows(scorers, request, known, popular_R, rows_B, k)

        with atomic_file(out) as path:
            chunks = in_chunks(scorer, rank, range(0, len(request.ids), chunk))
            lengths_R = _write(path, dataset, request, chunks, observer)
    untrained = int((untrained_R & ~popular_R & (lengths_R > 0)).sum())
    if untrained and dataset.user_features is None:
        observer.warn(
            f"{untrained:,} of {int((lengths_R > 0).sum()):,} users have no interaction that {run.folder} knows, "
            "so their lists say nothing of them; --fallback popularity gives them the most popular items"
        )
    return RecommendSummary(
        out=out,
        users=int((lengths_R > 0).sum()),
        rows=int(lengths_R.sum()),
        short=int(((lengths_R > 0) & (lengths_R < k)).sum()),
        fallback=int((popular_R & (lengths_R > 0)).sum()),
        untrained=untrained,
        unknown_users=request.unknown_users,
        unknown_items=request.unknown_items + unknown_items,
    )


def _check_options(k: int, out: Path, seen: str, fallback: str | None) -> None:
    if k < 1:
        raise UsageError(f"--k must be at least 1, got {k}")
    if seen not in ("all", "train"):
        raise UsageError(f"--seen must be 'all' or 'train', got {seen!r}")
    if fallback not in (None, "popularity"):
        raise UsageError(f"--fallback must be 'popularity', got {fallback!r}")
    if out.exists():
        raise UsageError(f"{out} exists and is never overwritten; remove it or choose another --out")


def _untrained(run: Run, dataset: Dataset, request: Request) -> NDArray[np.bool_]:
    """The rows whose user had no interaction in what the model was trained on or is folded in from."""
    degrees_U = dataset.graph.user_items.degrees
    if run.refitted:
        degrees_U = degrees_U + np.bincount(dataset.valid.users_E, minlength=len(degrees_U))
    return (request.numbers_R < 0) | (degrees_U[request.numbers_R] == 0)


def _csr_of(part: Interactions, dataset: Dataset) -> Csr:
    return csr_from_edges(part.users_E, part.items_E, len(dataset.user_ids), len(dataset.item_ids))


def _rank_rows(
    scorers: tuple[Scorer, Scorer],
    request: Request,
    known: Sequence[Csr],
    popular_R: NDArray[np.bool_],
    rows_B: NDArray[np.int32],
    k: int,
) -> TopK:
    """Lists of some rows of the request: by the first scorer, popular rows by the second."""
    merged = empty_lists(rows_B, k)
    for scorer, chosen_B in zip(scorers, (~popular_R[rows_B], popular_R[rows_B]), strict=True):
        rows = rows_B[chosen_B]
        if len(rows):
            hidden, listed = _hidden(request, known, rows), _listed(request, rows)
            lists = rank_chunk(scorer, request.numbers_R[rows], k, hidden, listed)
            merged.items_BK[chosen_B], merged.scores_BK[chosen_B] = lists.items_BK, lists.scores_BK
    return merged


def _hidden(request: Request, known: Sequence[Csr], rows_B: NDArray[np.int32]) -> Hidden:
    """What each row must not get: its user's known items and its exclusions; never merged, as a user may know very many."""
    users_B = request.numbers_R[rows_B]
    lists = [ItemLists(csr, users_B) for csr in known]
    if request.excluded is not None:
        lists.append(ItemLists(request.excluded, rows_B))
    return Hidden(tuple(lists))


def _listed(request: Request, rows_B: NDArray[np.int32]) -> ItemLists | None:
    """What each row may get; None: every item."""
    if request.candidates is not None:
        at_E, items_E = _pairs_of(request.candidates, rows_B)
        keep_E = request.allowed_I[items_E]
        csr = csr_from_edges(at_E[keep_E], items_E[keep_E], len(rows_B), len(request.allowed_I))
        return ItemLists(csr, np.arange(len(rows_B), dtype=np.int32))
    if request.allowed_I.all():
        return None
    return ItemLists.shared(np.flatnonzero(request.allowed_I).astype(np.int32), len(rows_B), len(request.allowed_I))


def _pairs_of(csr: Csr, rows_B: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(place in rows_B, item) of every entry of these rows; row -1 is empty."""
    lengths_B = np.where(rows_B >= 0, csr.degrees[rows_B], 0)
    at_E = np.repeat(np.arange(len(rows_B), dtype=np.int32), lengths_B)
    ends_B = np.cumsum(lengths_B)
    offsets_E = np.arange(len(at_E)) - np.repeat(ends_B - lengths_B, lengths_B)
    return at_E, csr.indices[csr.indptr[rows_B[at_E]] + offsets_E]


def _write(path: Path, dataset: Dataset, request: Request, chunks: Iterator[TopK], observer: Observer) -> NDArray[np.int64]:
    """Stream the lists into `path` and return the length of every row's list."""
    types = {"user": dataset.user_ids.ids.type, "item": dataset.item_ids.ids.type, "rank": pa.int32(), "score": pa.float32()}
    lengths_R = np.zeros(len(request.ids), np.int64)
    pending: list[pa.Table] = []
    with pq.ParquetWriter(path, pa.schema(types), compression="zstd") as writer:
        for lists in chunks:
            filled_BK = lists.items_BK >= 0
            at, slots = np.nonzero(filled_BK)
            lengths_R[lists.users_B] = filled_BK.sum(axis=1)
            observer.work("ranking", int(lists.users_B[-1]) + 1, len(lengths_R))
            columns = {
                "user": request.ids.take(pa.array(lists.users_B[at])),
                "item": dataset.item_ids.decode(lists.items_BK[filled_BK]),
                "rank": pa.array((slots + 1).astype(np.int32)),
                "score": pa.array(lists.scores_BK[filled_BK]),
            }
            pending.append(pa.table(columns, schema=pa.schema(types)))
            if sum(table.nbytes for table in pending) >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(pending))
                pending.clear()
        writer.write_table(pa.concat_tables([*pending, pa.schema(types).empty_table()]))
    return lengths_R
