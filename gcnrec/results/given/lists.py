"""Lists of another system, judged on a run's held-out pairs by the run's metrics: `gcnrec evaluate RUN --lists FILE`.

A list is taken as it is. An item that the data does not know, or that lists leave out as seen, keeps its place and is a miss. A
user without a list has zeros.
Letters: E rows of the file, H users with held-out pairs, K list length, B users of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError, reading
from gcnrec.graph import Csr
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import ItemLists, TopK, contained
from gcnrec.ranking.evaluate import Evaluation, HeldOutSplit, Measures, judge_lists, metric_columns
from gcnrec.ranking.held_out import Held
from gcnrec.results.given.id_files import columns_of, open_ids
from gcnrec.results.outputs import Output
from gcnrec.system.observer import Observer

_CHUNK = 4096
_RANK, _MADE_BY = "rank", b"gcnrec"


@dataclass(frozen=True)
class Lists:
    """The list of user u: `items_E` int32 from `indptr_U[u]` to `indptr_U[u + 1]`, best first; -1 is an unknown item.

    `rows_U` int64: rows of each user, repeated ones too. `unknown_users`, `unknown_items`, `repeated`: rows of users and of
    items that the data does not know, and of items that a list has before.
    """

    indptr_U: NDArray[np.int64]
    items_E: NDArray[np.int32]
    rows_U: NDArray[np.int64]
    unknown_users: int
    unknown_items: int
    repeated: int

    def longest(self, split: HeldOutSplit) -> int:
        """The most rows of a user with held-out pairs, 0 where none has a list."""
        return int(self.rows_U[split.pairs.users_E].max(initial=0))

    def absent(self, split: HeldOutSplit) -> int:
        """Users with held-out pairs, and without a list."""
        return int((self.rows_U[np.unique(split.pairs.users_E)] == 0).sum())

    def of(self, users_B: NDArray[np.int32], k: int) -> TopK:
        """The first `k` places of the users' lists; scores fall with the place."""
        starts_B, ends_B = self.indptr_U[users_B], self.indptr_U[users_B + 1]
        places_BK = starts_B[:, None] + np.arange(k)
        inside_BK = places_BK < ends_B[:, None]
        items_BK = np.full(places_BK.shape, -1, np.int32)
        items_BK[inside_BK] = self.items_E[places_BK[inside_BK]]
        return TopK(users_B, items_BK, np.broadcast_to(-np.arange(k, dtype=np.float32), items_BK.shape))


def read_lists(dataset: Dataset, path: Path) -> Lists:
    """The lists of a Parquet or CSV file with a user and an item in each row, by column `rank` where it has one, else by row.

    Raises DataError for a file that cannot be read, that has no user of the dataset, or ranks that are no numbers.
    """
    users, items = columns_of(dataset)
    with open_ids(path) as table:
        user_ids, item_ids, *more = table.pairs_with(users, items, [_RANK] if _RANK in table.names else [])
    users_E, items_E = dataset.user_ids.numbers(user_ids), dataset.item_ids.numbers(item_ids)
    ranks_E = np.arange(len(users_E), dtype=np.float64) if not more else _numbers(path, more[0])
    known_E = users_E >= 0
    if not known_E.any():
        raise DataError(
            f"{path} must name users of {dataset.name}, none of its {len(users_E):,} rows does; check its user column"
        )
    order_E = np.lexsort((ranks_E, users_E))[int((~known_E).sum()) :]
    users_E, items_E = users_E[order_E], items_E[order_E]
    first_E, num_users = _first_of_each(users_E, items_E), len(dataset.user_ids)
    indptr_U = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(users_E[first_E], minlength=num_users))])
    unknown_items = int((items_E[first_E] < 0).sum())
    rows_U = np.bincount(users_E, minlength=num_users)
    return Lists(indptr_U, items_E[first_E], rows_U, int((~known_E).sum()), unknown_items, int((~first_E).sum()))


def lengths_of(lists: Lists, split: HeldOutSplit, ks: Sequence[int], asked: bool, observer: Observer) -> list[int]:
    """The list lengths to measure, of the rising `ks`: up to the longest list, or all of them with a warning where `asked`.

    Where all are longer than the longest list, its own length. A metric at 50 of lists of 20 would compare with a run's at 50 as
    if 30 places had missed.
    """
    longest = lists.longest(split)
    beyond = [k for k in ks if k > longest]
    if not (beyond and longest):
        return list(ks)
    named = ", ".join(f"@{k}" for k in beyond)
    if asked:
        observer.warn(f"metrics {named} are of lists with at most {longest} items, and count the places behind them as misses")
        return list(ks)
    observer.note(f"metrics {named} are left out: the longest list has {longest} items; --k measures them")
    return [k for k in ks if k <= longest] or [longest]


def judged(lists: Lists, split: HeldOutSplit, measures: Measures) -> tuple[Evaluation, int]:
    """The evaluation of the lists, and how many of the places that count hold what `split.seen` leaves out."""
    held, k, seen = Held.of(split.pairs), max(measures.ks), 0

    def chunks() -> Iterator[TopK]:
        nonlocal seen
        for first in range(0, len(held.users_H), _CHUNK):
            best = lists.of(held.users_H[first : first + _CHUNK], k)
            seen += _hide_seen(best, split.seen.parts)
            yield best

    return judge_lists(chunks(), split, held, measures), seen


@dataclass(frozen=True)
class JudgedLists:
    """Per-user metrics of lists that `gcnrec evaluate --lists` judged: what `gcnrec compare` takes in place of a run."""

    path: Path
    table: pa.Table
    split: str
    digest: str
    seen: str


def write_judged(path: Path, table: pa.Table, split: str, digest: str, seen: str) -> None:
    """Write per-user metrics so that `open_judged` reads them."""
    pq.write_table(table.replace_schema_metadata({_MADE_BY: "lists", "split": split, "digest": digest, "seen": seen}), path)


def open_judged(path: Path) -> JudgedLists:
    """What `write_judged` wrote. DataError for another file."""
    remedy = "make it with 'gcnrec evaluate RUN --lists FILE --out FILE'"
    with reading(path, remedy):
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as problem:
            raise DataError(f"{path} is neither a run folder nor a readable Parquet file ({problem}); {remedy}") from None
    said = table.schema.metadata or {}
    if said.get(_MADE_BY) != b"lists" or not metric_columns(table):
        raise DataError(f"{path} holds no per-user metrics of lists; {remedy}")
    split, digest, seen = (said.get(key, b"").decode(errors="replace") for key in (b"split", b"digest", b"seen"))
    return JudgedLists(path, table, split, digest, seen)


def _numbers(path: Path, ranks: pa.ChunkedArray) -> NDArray[np.float64]:
    try:
        numbers = ranks.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"{path}: column {_RANK!r} must hold numbers, it holds {ranks.type}; correct it, or leave it out"
        ) from None
    absent = int(pc.sum(pc.or_kleene(pc.is_null(numbers), pc.fill_null(pc.is_nan(numbers), True))).as_py() or 0)
    if absent:
        raise DataError(f"{path}: column {_RANK!r} must have a number in each row, {absent} have none; correct it")
    return numbers.to_numpy()


def _first_of_each(users_E: NDArray[np.int32], items_E: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether a row is the first of its user and item; an unknown item is never a repeat. Rows are sorted by user and place."""
    order_E = np.lexsort((np.arange(len(users_E)), items_E, users_E))
    again_E = np.zeros(len(users_E), np.bool_)
    same = (np.diff(users_E[order_E]) == 0) & (np.diff(items_E[order_E]) == 0) & (items_E[order_E][1:] >= 0)
    again_E[order_E[1:]] = same
    return ~again_E


def _hide_seen(best: TopK, parts: tuple[Csr, ...]) -> int:
    """Make places that hold what is left out misses, in place; returns how many."""
    hidden_BK = np.zeros(best.items_BK.shape, np.bool_)
    for part in parts:
        hidden_BK |= contained(best.items_BK, ItemLists(part, best.users_B))
    best.items_BK[hidden_BK] = -1
    return int(hidden_BK.sum())


def table_of(out: Path | None, segments: Path | None, force: bool) -> Output:
    """Where the metrics of each user go. UsageError without a place that is Parquet, or with segments."""
    if out is None:
        raise UsageError("--lists writes the metrics of each user to a file of its own; name it by --out FILE.parquet")
    if segments is not None:
        raise UsageError("--lists judges lists as a whole; leave --segments out")
    made = Output(out, force)
    if made.kind != "parquet":
        raise UsageError(f"--out of --lists is read by 'gcnrec compare' as Parquet, got {out}; end its name in .parquet")
    return made
