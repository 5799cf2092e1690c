"""Scores and places of given pairs of user and item, as a file: one row for each row of the file, in its order.

Letters: E rows of the file, P of them whose user and item the run knows, U users of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.ops.topk import Hidden, ItemLists
from gcnrec.ranking.places import places
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.top_k import in_chunks
from gcnrec.results.fold_in import with_new_nodes
from gcnrec.results.given.id_files import columns_of, open_ids
from gcnrec.results.given.request import SEEN, RequestFiles, left_out, typed
from gcnrec.results.memory_bounds import recommendation_bytes, users_per_chunk
from gcnrec.results.outputs import Output
from gcnrec.runs.folder import Run
from gcnrec.storage.places import Given, place_if_any
from gcnrec.system.observer import SILENT, Observer, kept
from gcnrec.system.scratch import memory_errors_as_sentences

SeenOf = Literal["all", "met", "train", "none"]
_AS_LONG_AS = 512
"""What orders a tile of scores takes as much memory as lists of so many items."""


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What was written: `rows`, as many as the file has; `scored` of them have a score and a rank, `users` distinct users there.

    `unknown_users` and `unknown_items` count distinct ids that the run does not know: their rows have neither.
    """

    out: Path
    rows: int
    scored: int
    users: int
    unknown_users: int
    unknown_items: int
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewNodes:
    """Files of `users` (pairs of user and item) and `items` (features), as `recommend` takes them; None where none is given.

    `gcnrec.score` takes tables, too.
    """

    users: Given | None = None
    items: Given | None = None


def write_scores(
    run: Run, pairs: Path, out: Output, *, seen: SeenOf = "none", new: NewNodes | None = None,
    memory_limit: str | None = None, observer: Observer = SILENT,
) -> ScoreSummary:  # fmt: skip
    """Write the rows to `out`, as `gcnrec.score` says (`gcnrec.api.lists`), and count them."""
    if seen not in SEEN:
        raise UsageError(f"--seen must be one of {', '.join(SEEN)}, got {seen!r}")
    given = new or NewNodes()
    files = RequestFiles(None, None, pairs, None, place_if_any(given.users), place_if_any(given.items))
    out.refuse_inputs(files.given)
    limit = run.job.evaluate.memory_limit if memory_limit is None else memory_limit
    with memory_errors_as_sentences(limit):
        fixed = recommendation_bytes(run, files, limit)
        chunk = users_per_chunk(limit, fixed, run, _AS_LONG_AS, "scoring by")
        return _scored(run, files, _Options(pairs, out, seen), chunk, kept(observer))


@dataclass(frozen=True, slots=True)
class _Options:
    pairs: Path
    out: Output
    seen: SeenOf


def _scored(run: Run, files: RequestFiles, options: _Options, chunk: int, observer: Observer) -> ScoreSummary:
    scratch = options.out.scratch
    wider = with_new_nodes(run, files.new_users, files.new_items, scratch) if files.bring_nodes else None
    counts = wider.counts if wider else ()
    for sentence in filter(None, (each.sentence for each in counts)):
        observer.note(sentence)
    dataset = wider.dataset if wider else run.dataset
    users, items = columns_of(dataset)
    with open_ids(options.pairs) as table:
        user_ids, item_ids = table.pairs(users, items)
    users_E, items_E = dataset.user_ids.numbers(user_ids), dataset.item_ids.numbers(item_ids)
    known_E = (users_E >= 0) & (items_E >= 0)
    if not known_E.any():
        raise DataError(
            f"{options.pairs} must name users and items of {dataset.name}, none of its {len(known_E)} pairs has both; "
            "check its columns"
        )
    asked = csr_from_edges(users_E[known_E], items_E[known_E], len(dataset.user_ids), len(dataset.item_ids))
    scorer = wider.scorer if wider else run.scorer(scratch)
    scores_P, places_P = _all_places(scorer, asked, left_out(dataset, options.seen), chunk, observer)
    # The distinct pairs lie in the order of users, then items.
    at_E = np.searchsorted(_keys(asked.row_numbers(), asked.indices), _keys(users_E[known_E], items_E[known_E]))
    as_given = typed(dataset.user_ids, user_ids), typed(dataset.item_ids, item_ids)
    _write(options.out, as_given, known_E, scores_P[at_E], places_P[at_E])
    return ScoreSummary(
        out=options.out.path, rows=len(known_E), scored=int(known_E.sum()), users=int((asked.degrees > 0).sum()),
        unknown_users=len(pc.unique(user_ids.filter(pa.array(users_E < 0)))),
        unknown_items=len(pc.unique(item_ids.filter(pa.array(items_E < 0)))) + (wider.unknown_items if wider else 0),
        dropped={each.key: each.summary for each in counts},
    )  # fmt: skip


def _all_places(
    scorer: Scorer, asked: Csr, known: Sequence[Csr], chunk: int, observer: Observer
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scores and places of the pairs `asked`, user -> items, in their order."""
    users_U = np.flatnonzero(asked.degrees).astype(np.int32)

    def placed(start: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        users_B = users_U[start : start + chunk]
        hidden = Hidden(tuple(ItemLists(csr, users_B) for csr in known))
        return places(scorer, users_B, ItemLists(asked, users_B), hidden)

    parts, done = [], 0
    for part in in_chunks(scorer, placed, range(0, len(users_U), chunk)):
        done = min(done + chunk, len(users_U))
        observer.work("scoring", done, len(users_U))
        parts.append(part)
    scores, ranks = (np.concatenate(each) for each in zip(*parts, strict=True))
    return scores, ranks


def _keys(users_E: NDArray[np.int32], items_E: NDArray[np.int32]) -> NDArray[np.int64]:
    return (users_E.astype(np.int64) << 32) + items_E


def _write(
    out: Output, ids: tuple[pa.ChunkedArray, pa.ChunkedArray], known_E: NDArray[np.bool_], scores: NDArray[np.float32],
    ranks: NDArray[np.int32],
) -> None:  # fmt: skip
    """Both ids as the file has them, scores and ranks of the known rows, null for others."""
    columns = {"user": ids[0], "item": ids[1]}
    for name, values in (("score", scores), ("rank", ranks)):
        whole = np.zeros(len(known_E), values.dtype)
        whole[known_E] = values
        columns[name] = pa.array(whole, mask=~known_E)
    table = pa.table(columns)
    with out.opened(table.schema) as write:
        write(table)
