"""Pairs of numbers, as an engine wrote them: in the range of the numbers, sorted, each pair once; with times and weights.

Letters: E pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.loaders.ingest.heldout import Parts
from gcnrec.loaders.ingest.inputs import Input
from gcnrec.loaders.ingest.pairs import mark_contained
from gcnrec.loaders.ingest.rows import LOW, Rows, packed
from gcnrec.loaders.numbered.layout import AGAIN
from gcnrec.loaders.numbered.parts import Part, Places, integers
from gcnrec.system.scratch import Scratch

_NO_USER, _NO_ITEM, _TWICE, _UNSORTED = 1, 2, 3, 4
"""What may be wrong with a pair."""


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


def read_pairs(part: Part, sizes: tuple[int, int], scratch: Scratch, counted: Callable[[int], None]) -> Rows:
    """All pairs of a part, sorted; `sizes` are the numbers of users and of items. `counted` gets the rows read so far.

    Raises DataError, naming file and row, where a number is none of `sizes`, where pairs do not rise by (user, item), and for a
    weight that is negative or not finite.
    """
    count = part.source.rows
    rows = Rows(
        scratch.empty(count, np.uint64),
        scratch.empty(count, np.int64) if "time" in part.columns else None,
        scratch.empty(count, np.float32) if "weight" in part.columns else None,
    )
    for first, batch in part.batches():
        users, items, *more = (column.to_numpy() for column in batch.columns)
        row, fault = _pack(users, items, *sizes, first, rows.pairs_E)
        if fault:
            before = int(rows.pairs_E[first + row - 1]) if first + row else 0
            place = part.places.of(first + row)
            raise DataError(f"{_FAULTS[fault](int(users[row]), int(items[row]), before, sizes)} in {place}; {AGAIN}")
        for target, values in zip(rows.columns()[1:], more, strict=True):
            target[first : first + len(batch)] = values
        if rows.weights_E is not None:
            _check_weights(rows.weights_E[first : first + len(batch)], first, part.places)
        counted(first + len(batch))
    return rows


def no_pairs(like: Rows, scratch: Scratch) -> Rows:
    """No row, with the columns of `like`."""
    return like.empty(0, scratch)


def check_apart(parts: Parts, places: dict[str, Places], scratch: Scratch) -> None:
    """DataError, naming file and row, for a pair of test that train or valid has, or one of valid that train has."""
    for name, rows, others in (
        ("valid", parts.valid, {"train": parts.train}),
        ("test", parts.test, {"train": parts.train, "valid": parts.valid}),
    ):
        for other, known in others.items():
            codes = scratch.codes(len(rows))
            mark_contained(rows.pairs_E, known.pairs_E, codes)
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


_FAULTS: dict[int, Callable[[int, int, int, tuple[int, int]], str]] = {
    _NO_USER: lambda user, item, before, sizes: f"users must be numbers 0 to {sizes[0] - 1:,}, user {user:,} is",
    _NO_ITEM: lambda user, item, before, sizes: f"items must be numbers 0 to {sizes[1] - 1:,}, item {item:,} is",
    _TWICE: lambda user, item, before, sizes: f"each pair must come once, user {user:,} and item {item:,} come again",
    _UNSORTED: lambda user, item, before, sizes: (
        "pairs must be sorted by user, then item, and files must not overlap: "
        f"user {user:,}, item {item:,} follows user {before >> 32:,}, item {before & 0xFFFFFFFF:,}"
    ),
}


@numba.njit(cache=True, nogil=True)
def _pack(users, items, num_users, num_items, first, pairs):  # type: ignore[no-untyped-def]
    """Pairs go to `pairs` from `first` on, which follow those before. Returns the first row with a fault, and which."""
    for row in range(len(users)):
        if users[row] < 0 or users[row] >= num_users:
            return row, _NO_USER
        if items[row] < 0 or items[row] >= num_items:
            return row, _NO_ITEM
        pair = packed(users[row], items[row])
        at = first + row
        if at and pair <= pairs[at - 1]:
            return row, _TWICE if pair == pairs[at - 1] else _UNSORTED
        pairs[at] = pair
    return 0, 0
