"""The two CSRs of a dataset folder in passes: each fills a range of rows that fits the memory limit, from lists read in order.

Writes go anywhere within a range, reads never jump: a graph larger than memory is read once for each range, and needs no scratch.
Letters: U users, I items, E pairs, in final numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.loaders.buckets.lists import LONG, Lists
from gcnrec.system.scratch import Scratch, new_npy


def write_indptr(folder: Path, name: str, degrees: NDArray[np.int64]) -> NDArray[np.int64]:
    """Write `<name>.indptr.npy`, int64 (rows + 1)."""
    indptr = new_npy(folder / f"{name}.indptr.npy", len(degrees) + 1, np.int64)
    indptr[0] = 0
    np.cumsum(degrees, out=indptr[1:])
    return indptr


def write_user_items(
    path: Path, indptr: NDArray[np.int64], lists: Lists, numbers: list[NDArray[np.int32]], begun: int, scratch: Scratch
) -> Iterator[int]:
    """Write the indices of users' CSR to `path` from `lists`, whose provisional users and items have the final `numbers`.

    Yields how many pairs are written after each pass; an earlier process wrote the first `begun`.
    """
    indices_E = _indices(path, int(indptr[-1]), begun)
    for low, high in _ranges(indptr, begun, scratch.limit):
        for bucket in lists.buckets():
            _take_lists(bucket.first, bucket.starts, bucket.items_E, *numbers, low, high, LONG, indptr, indices_E)
        for user in range(low, high):  # the longest lists come first: numbers follow degrees
            if indptr[user + 1] - indptr[user] <= LONG:
                break
            indices_E[indptr[user] : indptr[user + 1]].sort()
        yield int(indptr[high])


def write_transpose(
    path: Path, indptr: NDArray[np.int64], of: tuple[NDArray[np.int64], NDArray[np.int32]], begun: int, scratch: Scratch
) -> Iterator[int]:
    """Write the indices of the transpose of the CSR `of` (indptr, indices) to `path`: rows in rising order for each column.

    `indptr` is the transpose's. Yields how many pairs are written after each pass; an earlier process wrote the first `begun`.
    """
    indices_E, threads = _indices(path, int(indptr[-1]), begun), numba.get_num_threads()
    for low, high in _ranges(indptr, begun, scratch.limit):
        # Of each thread the columns of a range, of as many pairs each.
        shares = np.linspace(indptr[low], indptr[high], threads + 1).astype(np.int64)
        cuts = np.clip(np.searchsorted(indptr, shares), low, high)
        cuts[0], cuts[-1] = low, high
        cursor = scratch.empty(high - low, np.int64)
        cursor[:] = indptr[low:high]
        _take_rows(*of, cuts, low, cursor, indices_E)
        yield int(indptr[high])


def _indices(path: Path, size: int, begun: int) -> NDArray[np.int32]:
    """The file for `size` indices, new unless some are there."""
    return np.load(path, mmap_mode="r+").view(np.ndarray) if begun else new_npy(path, size, np.int32)


def _ranges(indptr: NDArray[np.int64], begun: int, limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive rows behind the first `begun` pairs, whose indices take 2/5 of the limit; one larger row stands alone."""
    most = max(limit * 2 // 5 // 4, 1)
    low, last = int(np.searchsorted(indptr, begun, "right")) - 1, len(indptr) - 1
    while low < last and indptr[low] < indptr[-1]:
        high = int(np.searchsorted(indptr, indptr[low] + most, "right")) - 1
        yield low, (high := max(high, low + 1))
        low = high


@numba.njit(parallel=True, cache=True)
def _take_lists(first, starts, items, user_numbers, item_numbers, low, high, long, indptr, out):  # type: ignore[no-untyped-def]
    """The lists of users with final numbers `low .. high - 1` go to their places, in final numbers, sorted up to `long` items."""
    for user in numba.prange(len(starts) - 1):
        number = user_numbers[first + user]
        if number < low or number >= high:
            continue
        some = out[indptr[number] : indptr[number + 1]]
        for at in range(len(some)):
            some[at] = item_numbers[items[starts[user] + at]]
        if len(some) <= long:
            some.sort()


@numba.njit(parallel=True, cache=True)
def _take_rows(indptr, indices, cuts, first, cursor, out):  # type: ignore[no-untyped-def]
    """The rows of each column; the next one's place is `cursor[column - first]`. Thread t takes columns from `cuts[t]` on."""
    for part in numba.prange(len(cuts) - 1):
        low, high = cuts[part], cuts[part + 1]
        for row in range(len(indptr) - 1):
            for at in range(indptr[row], indptr[row + 1]):
                column = indices[at]
                if low <= column < high:
                    out[cursor[column - first]] = row
                    cursor[column - first] += 1
