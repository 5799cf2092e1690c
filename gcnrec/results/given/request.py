"""What a `recommend` call asks for, read from its files of users, items, candidates and exclusions.

Letters: R users asked for (rows of the request, in its order), I items, E pairs.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.ids.id_types import Ids, held
from gcnrec.interactions import MemoryVocabulary, Vocabulary
from gcnrec.loaders.schema import Dataset
from gcnrec.results.given.dropped import FileCounts
from gcnrec.results.given.id_files import IdColumn, IdTable, columns_of, open_ids
from gcnrec.results.given.segments import Availability, Labelled, availability, read_labelled


@dataclass(frozen=True, slots=True)
class RequestFiles:
    """The files of a `recommend` call (`gcnrec.results.recommend`); None where one is not given.

    `segment`: the column of `users` and of `items` that says which of the items a user may get. UsageError where it lacks a file,
    or comes with candidates.
    """

    users: Path | None
    items: Path | None
    candidates: Path | None
    exclude: Path | None
    new_users: Path | None
    new_items: Path | None
    attributes: Path | None = None
    segment: str | None = None

    def __post_init__(self) -> None:
        if self.segment is not None and (self.users is None or self.items is None):
            raise UsageError(f"--segment needs --users FILE and --items FILE with the column {self.segment!r} each; name both")
        if self.segment is not None and self.candidates is not None:
            raise UsageError("--candidates says what each user may get, and so does --segment; leave one of them out")

    @property
    def bring_nodes(self) -> bool:
        return self.new_users is not None or self.new_items is not None

    @property
    def given(self) -> list[Path]:
        return [path for path in astuple(self) if isinstance(path, Path)]


@dataclass(frozen=True, slots=True)
class Request:
    """`ids`: the users asked for, each once; `numbers_R` int32: their user numbers, -1 where the dataset has none.

    `allowed_I` bool: the items that may be listed; `candidates` and `excluded`: items per row of the request, or None;
    `available`: the items of each row by segment, or None.
    `unknown_users` and `unknown_items` count ids of the files that the dataset does not have. `counts`: of each file but
    `new_users` and `new_items`, the rows that have no effect.
    """

    ids: pa.Array
    numbers_R: NDArray[np.int32]
    allowed_I: NDArray[np.bool_]
    candidates: Csr | None
    excluded: Csr | None
    available: Availability | None
    unknown_users: int
    unknown_items: int
    counts: tuple[FileCounts, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """Distinct ids of a file's column in their first order, their numbers (-1 for unknown ones), and the file's rows."""

    ids: pa.Array
    numbers: NDArray[np.int32]
    rows: int

    @classmethod
    def all_of(cls, vocabulary: Vocabulary) -> Named:
        """All nodes, by number."""
        return cls(vocabulary.ids, np.arange(len(vocabulary), dtype=np.int32), len(vocabulary))

    @property
    def unknown(self) -> int:
        return int((self.numbers < 0).sum())

    @property
    def repeated(self) -> int:
        return self.rows - len(self.ids)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Items per row of the request, the number of distinct unknown items, and the rows of the file that have no effect."""

    by_row: Csr
    unknown_items: int
    counts: FileCounts


SEEN = ("all", "met", "train", "none")
"""What `--seen` may say."""


def check_wishes(k: int, seen: str, fallback: str | None) -> None:
    """UsageError for a length, a `--seen` or a `--fallback` that lists cannot have."""
    if k < 1:
        raise UsageError(f"--k must be at least 1, got {k}")
    if seen not in SEEN:
        raise UsageError(f"--seen must be one of {', '.join(SEEN)}, got {seen!r}")
    if fallback not in (None, "popularity"):
        raise UsageError(f"--fallback must be 'popularity', got {fallback!r}")


def left_out(dataset: Dataset, seen: str) -> tuple[Csr, ...]:
    """User -> items that `--seen` leaves out: "all" known ones, "met" also of other behaviours, of "train", or "none".

    With known items go these that their user rated low; of "train", in the time of train.
    """
    if seen == "met":
        return (*left_out(dataset, "all"), *(other.until_test.graph.user_items for other in dataset.others))
    if seen == "none":
        return ()
    if seen == "train":
        return (*dataset.known_items(), *dataset.known_negatives(later=0))
    return (*dataset.known_items(dataset.valid, dataset.test), *dataset.known_negatives(later=2))


def read_request(dataset: Dataset, files: RequestFiles, keep_unknown: bool) -> Request:
    """Users of the first file that names some, else all by number; unknown ones only with `keep_unknown`.

    An `exclude` file of one column names items to leave out for everybody, otherwise user and item pairs.
    Raises DataError for a file that cannot be read or of which no id is known.
    """
    asked, labels = _users(dataset, files, keep_unknown)
    known_R = np.full(len(asked.ids), keep_unknown) | (asked.numbers >= 0)
    ids, numbers_R = typed(dataset.user_ids, asked.ids.filter(pa.array(known_R))), asked.numbers[known_R]
    counts, rows = [], MemoryVocabulary(ids)
    if files.users is not None:
        dropped = {"unknown_user": len(asked.ids) - len(ids), "repeated": asked.repeated}
        counts.append(FileCounts("--users", asked.rows, dropped))
    allowed_I, unknown_items = np.full(len(dataset.item_ids), files.items is None), 0
    listed, excluded, available, stock = None, None, None, None
    if files.items is not None:
        found, stock = _offered(dataset, files.items, files.segment)
        allowed_I[found.numbers[found.numbers >= 0]] = True
        unknown_items += found.unknown
        counts += [_of_items("--items", found)] if stock is None else []
    if files.candidates is not None:
        with open_ids(files.candidates) as table:
            listed = _pairs(dataset, "--candidates", table, rows)
    if files.exclude is not None:
        with open_ids(files.exclude) as table:
            if len(table.names) == 1:
                found = _items(dataset, table)
                allowed_I[found.numbers[found.numbers >= 0]] = False
                unknown_items += found.unknown
                counts.append(_of_items("--exclude", found))
            else:
                excluded = _pairs(dataset, "--exclude", table, rows)
    if labels is not None and stock is not None:
        numbers_E = dataset.item_ids.numbers(stock.ids_E)
        available, count = availability(labels.filter(pa.array(known_R)), stock, numbers_E, allowed_I)
        counts.append(count)
    pairs = [part for part in (listed, excluded) if part is not None]
    unknown_items += sum(part.unknown_items for part in pairs)
    candidates, exclusions = (None if part is None else part.by_row for part in (listed, excluded))
    counts += [part.counts for part in pairs]
    return Request(ids, numbers_R, allowed_I, candidates, exclusions, available, asked.unknown, unknown_items, tuple(counts))


def typed(vocabulary: Vocabulary, ids: Ids) -> Ids:
    """Ids in the type of the vocabulary. With an id beyond its range, which is unknown, they keep the type that the file has."""
    kind = vocabulary.type
    return ids.cast(kind) if held(kind, ids) == kind else ids


def _users(dataset: Dataset, files: RequestFiles, keep_unknown: bool) -> tuple[Named, pa.Array | None]:
    """The users that a file names, all of the dataset without one, and their segments, None without `files.segment`.

    DataError where none is known, unless `keep_unknown`.
    """
    users, _ = columns_of(dataset)
    path = files.users or files.candidates or files.new_users
    if path is None:
        return Named.all_of(users.vocabulary), None
    with open_ids(path) as table:
        if files.segment is None:
            return named(table, users, dataset.name, keep_unknown), None
        rows = read_labelled(table, users, files.segment)
    return named_of(path, rows.ids_E, users, dataset.name, keep_unknown), rows.by_id()


def _offered(dataset: Dataset, path: Path, segment: str | None) -> tuple[Named, Labelled | None]:
    """The items that a file names, and its rows with their segments, None without `segment`. DataError where none is known."""
    _, items = columns_of(dataset)
    with open_ids(path) as table:
        if segment is None:
            return named(table, items, dataset.name), None
        rows = read_labelled(table, items, segment)
    return named_of(path, rows.ids_E, items, dataset.name), rows


def _items(dataset: Dataset, table: IdTable) -> Named:
    """The items that a file names. DataError where none is known."""
    _, items = columns_of(dataset)
    return named(table, items, dataset.name)


def named(table: IdTable, column: IdColumn, dataset: str, keep_unknown: bool = False) -> Named:
    """The ids of a file's column of users or items of the `dataset`. DataError where none is known, unless `keep_unknown`."""
    return named_of(table.path, table.ids(column), column, dataset, keep_unknown)


def named_of(path: Path, given: pa.Array | pa.ChunkedArray, column: IdColumn, dataset: str, keep_unknown: bool = False) -> Named:
    """As `named`, of ids that were read from `path`."""
    ids, kind = pc.unique(given), column.names[0]
    numbers = column.vocabulary.numbers(ids)
    if not (keep_unknown or (numbers >= 0).any()):
        raise DataError(f"{path} must name {kind}s of {dataset}, none of its {len(ids)} ids is one; check its {kind} column")
    return Named(ids, numbers, len(given))


def _of_items(option: str, found: Named) -> FileCounts:
    return FileCounts(option, found.rows, {"unknown_item": found.unknown, "repeated": found.repeated})


def _pairs(dataset: Dataset, option: str, table: IdTable, rows: Vocabulary) -> _Pairs:
    """Items per row from a file of pairs, of asked users only. DataError where no item is known."""
    users, items = columns_of(dataset)
    path, (user_ids, item_ids) = table.path, table.pairs(users, items)
    rows_E, items_E = rows.numbers(user_ids), dataset.item_ids.numbers(item_ids)
    if not (items_E >= 0).any():
        raise DataError(f"{path} must name items of {dataset.name}, none of its {len(items_E)} ids is one; check its item column")
    unknown = len(pc.unique(item_ids.filter(pa.array(items_E < 0))))
    stranger_E = (rows_E < 0) & (dataset.user_ids.numbers(user_ids) < 0)
    keep_E = (rows_E >= 0) & (items_E >= 0)
    by_row = csr_from_edges(rows_E[keep_E], items_E[keep_E], len(rows), len(dataset.item_ids))
    dropped = {
        "unknown_user": int(stranger_E.sum()), "unknown_item": int((~stranger_E & (items_E < 0)).sum()),
        "not_asked": int((~stranger_E & (rows_E < 0) & (items_E >= 0)).sum()), "repeated": int(keep_E.sum()) - by_row.num_edges,
    }  # fmt: skip
    return _Pairs(by_row, unknown, FileCounts(option, len(rows_E), dropped))
