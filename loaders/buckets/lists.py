"""Each user's items in provisional numbers, sorted and once each: what the dealt rows of a bucket become, file by file.

Letters: B buckets, P users, E pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.loaders.buckets.deal import dealt_path
from gcnrec.loaders.ingest.heldout import Report
from gcnrec.loaders.ingest.rows import high_of, low_of
from gcnrec.system.scratch import Scratch, new_npy

LONG = 2**16
"""Items from which on a list is sorted by NumPy, whose sort is never slower than n log n."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The lists of users `first`, `first + 1` ...: user `first + p` has `items_E[starts[p] : starts[p + 1]]`."""

    first: int
    starts: NDArray[np.int64]
    items_E: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists of all users in files of `folder`; bucket b has users `bounds[b]` to `bounds[b + 1] - 1`. `degrees_P`: items."""

    folder: Path
    bounds: NDArray[np.int64]
    degrees_P: NDArray[np.int64]

    def __len__(self) -> int:
        """Pairs."""
        return int(self.degrees_P.sum())

    def buckets(self) -> Iterator[Bucket]:
        """The lists, a bucket at a time, mapped."""
        for bucket, first in enumerate(self.bounds[:-1]):
            degrees = self.degrees_P[first : self.bounds[bucket + 1]]
            yield Bucket(int(first), _starts(degrees), np.load(_items_path(self.folder, bucket), mmap_mode="r"))

    def mark_contained(self, pairs_E: NDArray[np.uint64], codes_E: NDArray[np.int8]) -> None:
        """Code 1 for each of the sorted pairs that is in a list."""
        cuts = np.searchsorted(pairs_E, self.bounds.astype(np.uint64) << np.uint64(32))
        for number, bucket in enumerate(self.buckets()):
            part = slice(cuts[number], cuts[number + 1])
            mark_in_lists(pairs_E[part], bucket.first, bucket.starts, bucket.items_E, codes_E[part])

    def item_degrees(self, num_items: int, scratch: Scratch) -> NDArray[np.int64]:
        """Users of each item, int64."""
        return item_degrees((bucket.items_E for bucket in self.buckets()), num_items, scratch)


def item_degrees(parts: Iterable[NDArray[np.int32]], num_items: int, scratch: Scratch) -> NDArray[np.int64]:
    """How often each item occurs in the lists `parts`, int64."""
    degrees_I = scratch.full(num_items, np.int64, 0)
    for items_E in parts:
        _count(items_E, degrees_I, numba.get_num_threads())
    return degrees_I


def merge_buckets(folder: Path, bounds: NDArray[np.int64], scratch: Scratch, report: Report) -> Lists:
    """The lists of the users of all buckets; the dealt rows of a bucket are removed as soon as its lists are whole.

    A bucket whose lists a killed process has finished is not merged again.
    """
    degrees_P, count = scratch.empty(int(bounds[-1]), np.int64), len(bounds) - 1
    for bucket in range(count):
        items, first, last = _items_path(folder, bucket), int(bounds[bucket]), int(bounds[bucket + 1])
        degrees = _degrees_path(folder, bucket)
        if not items.exists():
            _merge_bucket(dealt_path(folder, bucket), first, last - first, (degrees, items), scratch)
        dealt_path(folder, bucket).unlink(missing_ok=True)
        degrees_P[first:last] = np.load(degrees, mmap_mode="r")
        report.work("merging buckets", bucket + 1, count)
    return Lists(folder, bounds, degrees_P)


def _merge_bucket(dealt: Path, first: int, users: int, paths: tuple[Path, Path], scratch: Scratch) -> None:
    """Write how many items each of a bucket's users has, and these items; the latter file appears whole, and last."""
    pairs_E = np.memmap(dealt, np.uint64, "r") if dealt.stat().st_size else np.zeros(0, np.uint64)
    starts, cursor = scratch.full(users + 1, np.int64, 0), scratch.empty(users, np.int64)
    _count_users(pairs_E, first, starts[1:])
    np.cumsum(starts, out=starts)
    cursor[:] = starts[:-1]
    items_E = scratch.empty(len(pairs_E), np.int32)
    _deal_items(pairs_E, first, cursor, items_E, numba.get_num_threads())
    for user in _long_lists(starts, LONG):
        items_E[starts[user] : starts[user + 1]].sort()
    degrees = cursor  # has been used
    _sort_once(items_E, starts, LONG, degrees)
    np.save(paths[0], degrees)
    unfinished = paths[1].with_name("unfinished.npy")
    out_E = new_npy(unfinished, int(degrees.sum()), np.int32)
    _compact(items_E, starts, degrees, out_E)
    del out_E
    unfinished.rename(paths[1])


def _items_path(folder: Path, bucket: int) -> Path:
    return folder / f"{bucket:05d}.items.npy"


def _degrees_path(folder: Path, bucket: int) -> Path:
    return folder / f"{bucket:05d}.degrees.npy"


def _starts(degrees: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.zeros(len(degrees) + 1, np.int64)
    np.cumsum(degrees, out=starts[1:])
    return starts


@numba.njit(cache=True)
def _count_users(pairs, first, counts):  # type: ignore[no-untyped-def]
    for row in range(len(pairs)):
        counts[high_of(pairs[row]) - first] += 1


@numba.njit(cache=True)
def count_numbers(numbers, counts):  # type: ignore[no-untyped-def]
    """Add to `counts` how often each of the numbers occurs."""
    for at in range(len(numbers)):
        counts[numbers[at]] += 1


@numba.njit(cache=True)
def _long_lists(starts, long):  # type: ignore[no-untyped-def]
    return [user for user in range(len(starts) - 1) if starts[user + 1] - starts[user] > long]


@numba.njit(parallel=True, cache=True)
def _deal_items(pairs, first, cursor, items, parts):  # type: ignore[no-untyped-def]
    """The items of each user's rows from `cursor` on, in their order. Each of `parts` threads takes the users of a range."""
    users = len(cursor)
    for part in numba.prange(parts):
        low, high = first + part * users // parts, first + (part + 1) * users // parts
        for row in range(len(pairs)):
            user = high_of(pairs[row])
            if low <= user < high:
                items[cursor[user - first]] = low_of(pairs[row])
                cursor[user - first] += 1


@numba.njit(parallel=True, cache=True)
def _sort_once(items, starts, long, degrees):  # type: ignore[no-untyped-def]
    """Sort each list of at most `long` items in place; every list begins with its distinct items, `degrees` of them."""
    for user in numba.prange(len(degrees)):
        some = items[starts[user] : starts[user + 1]]
        if len(some) <= long:
            some.sort()
        count = 0
        for at in range(len(some)):
            if count == 0 or some[at] != some[count - 1]:
                some[count] = some[at]
                count += 1
        degrees[user] = count


@numba.njit(cache=True)
def _compact(items, starts, degrees, out):  # type: ignore[no-untyped-def]
    at = 0
    for user in range(len(degrees)):
        for place in range(starts[user], starts[user] + degrees[user]):
            out[at] = items[place]
            at += 1


@numba.njit(cache=True)
def mark_in_lists(pairs, first, starts, items, codes):  # type: ignore[no-untyped-def]
    """Code 1 for each of the pairs that is in the sorted lists of users `first`, `first + 1` ..."""
    for row in range(len(pairs)):
        user, item = high_of(pairs[row]) - first, low_of(pairs[row])
        some = items[starts[user] : starts[user + 1]]
        at = np.searchsorted(some, item)
        if at < len(some) and some[at] == item:
            codes[row] = 1


@numba.njit(parallel=True, cache=True)
def _count(items, degrees, parts):  # type: ignore[no-untyped-def]
    """Add how often each item occurs. Each of `parts` threads takes the items of a range."""
    for part in numba.prange(parts):
        low, high = part * len(degrees) // parts, (part + 1) * len(degrees) // parts
        for at in range(len(items)):
            if low <= items[at] < high:
                degrees[items[at]] += 1
