"""Pairs of numbers, as an engine wrote them: in the range of the numbers, sorted, each pair once; with times and weights.

Letters: E pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.loaders.buckets.csr import write_indptr
from gcnrec.loaders.buckets.lists import count_numbers, item_degrees, mark_in_lists
from gcnrec.loaders.ingest.inputs import Input
from gcnrec.loaders.ingest.pairs import mark_contained
from gcnrec.loaders.ingest.rows import LOW, Rows
from gcnrec.loaders.numbered.layout import AGAIN
from gcnrec.loaders.numbered.parts import Part, Places, integers
from gcnrec.system.scratch import Scratch, new_npy

_NO_USER, _NO_ITEM, _TWICE, _UNSORTED = 1, 2, 3, 4
"""What may be wrong with a pair."""
_MORE = {"time": np.int64, "weight": np.float32}
"""Columns that pairs may have."""


def pair_columns(source: Input, like: frozenset[str] | None) -> dict[str, ds.Expression]:
    """What to read: user and item int64, and as far as known time int64 (seconds) and weight float32.

    `like`: the columns of train, None for train itself. Held-out pairs have a time where train has one, and may lack its weights.
    Raises DataError for a column of another type, and where parts differ.
    """
    columns = {name: integers(source, name, "node numbers") for name in ("user", "item")}
    names = source.dataset.schema.names
    for name in ("time", "weight"):
        if like is not None and (name in names) > (name in like):
            raise DataError(f"{source.text} has a column {name!r}, which train lacks; write it there, too, or leave it out")
    if like is not None and "time" in like and "time" not in names:
        raise DataError(f"{source.text} must have a column 'time', as train has; {AGAIN}")
    if "time" in names:
        columns["time"] = integers(source, "time", "seconds since 1970")
    if "weight" in names:
        kind = source.field("weight").type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise DataError(f"{source.text}: column 'weight' must hold numbers, it holds {kind}; {AGAIN}")
        columns["weight"] = source.expression("weight").cast(pa.float32(), safe=False)
    return columns


@dataclass(frozen=True, slots=True)
class Train:
    """The users' CSR as it lies in the dataset folder, mapped: user u has the items `items_E[starts[u] : starts[u + 1]]`.

    `times_E` in seconds where they are known; degrees are int64.
    """

    starts: NDArray[np.int64]
    items_E: NDArray[np.int32]
    times_E: NDArray[np.int64] | None
    degrees_U: NDArray[np.int64]
    degrees_I: NDArray[np.int64]

    def mark_contained(self, pairs_E: NDArray[np.uint64], codes_E: NDArray[np.int8]) -> None:
        """Code 1 for each of the pairs that is in train."""
        mark_in_lists(pairs_E, 0, self.starts, self.items_E, codes_E)


def read_train(part: Part, sizes: tuple[int, int], folder: Path, scratch: Scratch, counted: Callable[[int], None]) -> Train:
    """Write the users' CSR, times and weights into the dataset folder as they are read; see `_checked`."""
    count = part.source.rows
    items_E = new_npy(folder / "user_items.indices.npy", count, np.int32)
    files = {name: (f"{name}s.npy", kind) for name, kind in _MORE.items() if name in part.columns}
    more = [new_npy(folder / name, count, kind) for name, kind in files.values()]
    degrees_U = scratch.full(sizes[0], np.int64, 0)
    for rows, users, items, columns in _checked(part, sizes, counted):
        items_E[rows] = items
        count_numbers(users, degrees_U)
        for target, values in zip(more, columns, strict=True):
            target[rows] = values
    starts = write_indptr(folder, "user_items", degrees_U)
    return Train(starts, items_E, more[0] if "time" in files else None, degrees_U, item_degrees([items_E], sizes[1], scratch))


def read_held_out(part: Part, sizes: tuple[int, int], scratch: Scratch, counted: Callable[[int], None]) -> Rows:
    """The pairs of validation or test; see `_checked`."""
    rows = _no_rows(part.columns, part.source.rows, scratch)
    for place, users, items, columns in _checked(part, sizes, counted):
        rows.pairs_E[place] = (users.astype(np.uint64) << np.uint64(32)) | items.astype(np.uint64)
        for target, values in zip(rows.columns()[1:], columns, strict=True):
            target[place] = values
    return rows


def no_pairs(columns: Collection[str], scratch: Scratch) -> Rows:
    """No row, with the optional columns among `columns`."""
    return _no_rows(columns, 0, scratch)


def _no_rows(columns: Collection[str], size: int, scratch: Scratch) -> Rows:
    times, weights = (scratch.empty(size, kind) if name in columns else None for name, kind in _MORE.items())
    return Rows(scratch.empty(size, np.uint64), times, weights)


def _checked(
    part: Part, sizes: tuple[int, int], counted: Callable[[int], None]
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64], list[NDArray[Any]]]]:
    """The rows of a part, a batch at a time: which they are, users, items, and the other columns.

    `sizes` are the numbers of users and of items. `counted` gets the rows read so far. Raises DataError, naming file and row,
    where a number is none of `sizes`, where pairs do not rise by (user, item), and for a weight that is negative or not finite.
    """
    last = (-1, -1)
    for first, batch in part.batches():
        users, items, *more = (column.to_numpy() for column in batch.columns)
        row, fault = _first_fault(users, items, *sizes, *last)
        if fault:
            before = (int(users[row - 1]), int(items[row - 1])) if row else last
            place = part.places.of(first + row)
            raise DataError(f"{_FAULTS[fault](int(users[row]), int(items[row]), before, sizes)} in {place}; {AGAIN}")
        if "weight" in part.columns:
            _check_weights(more[-1], first, part.places)
        if len(batch):
            last = int(users[-1]), int(items[-1])
        yield slice(first, first + len(batch)), users, items, more
        counted(first + len(batch))


def check_apart(train: Train, held_out: dict[str, Rows], places: dict[str, Places], scratch: Scratch) -> None:
    """DataError, naming file and row, for a pair of test that train or valid has, or one of valid that train has."""

    def mark_valid(pairs_E: NDArray[np.uint64], codes_E: NDArray[np.int8]) -> None:
        mark_contained(pairs_E, held_out["valid"].pairs_E, codes_E)

    for name, others in (
        ("valid", {"train": train.mark_contained}),
        ("test", {"train": train.mark_contained, "valid": mark_valid}),
    ):
        rows = held_out[name]
        for other, mark in others.items():
            codes = scratch.codes(len(rows))
            mark(rows.pairs_E, codes)
            if codes.any():
                row = int(codes.argmax())
                user, item = int(rows.pairs_E[row]) >> 32, int(rows.pairs_E[row] & LOW)
                raise DataError(
                    f"{name} must hold no pair of {other}, user {user:,} and item {item:,} are in both, in "
                    f"{places[name].of(row)}; drop such pairs from {name}, and {AGAIN}"
                )


def _check_weights(weights: NDArray[np.float32], first: int, places: Places) -> None:
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        row = int(wrong[0])
        place = places.of(first + row)
        raise DataError(f"weights must be finite and not negative, {place} has {weights[row]} as a float32; {AGAIN}")


_FAULTS: dict[int, Callable[[int, int, tuple[int, int], tuple[int, int]], str]] = {
    _NO_USER: lambda user, item, before, sizes: f"users must be numbers 0 to {sizes[0] - 1:,}, user {user:,} is",
    _NO_ITEM: lambda user, item, before, sizes: f"items must be numbers 0 to {sizes[1] - 1:,}, item {item:,} is",
    _TWICE: lambda user, item, before, sizes: f"each pair must come once, user {user:,} and item {item:,} come again",
    _UNSORTED: lambda user, item, before, sizes: (
        "pairs must be sorted by user, then item, and files must not overlap: "
        f"user {user:,}, item {item:,} follows user {before[0]:,}, item {before[1]:,}"
    ),
}


@numba.njit(cache=True, nogil=True)
def _first_fault(users, items, num_users, num_items, last_user, last_item):  # type: ignore[no-untyped-def]
    """The first row with a fault, and which, of pairs that follow the pair of `last_user` and `last_item`."""
    for row in range(len(users)):
        if users[row] < 0 or users[row] >= num_users:
            return row, _NO_USER
        if items[row] < 0 or items[row] >= num_items:
            return row, _NO_ITEM
        if users[row] == last_user and items[row] == last_item:
            return row, _TWICE
        if users[row] < last_user or (users[row] == last_user and items[row] < last_item):
            return row, _UNSORTED
        last_user, last_item = users[row], items[row]
    return 0, 0
