"""What is done to sorted pairs: merge repeats, reduce to a k-core, compare two sets, renumber. Marks are int8 codes per row."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.loaders.ingest.rows import LOW, Rows, high_of, low_of, packed, radix_sort
from gcnrec.system.scratch import Scratch


def merge(rows: Rows, duplicates: str, scratch: Scratch) -> Rows:
    """One row per pair of sorted rows: the latest (largest time, then weight), with `sum` the sum of all weights.

    Raises DataError where a sum is no float32.
    """
    codes = scratch.codes(len(rows))
    codes[-1:] = 1
    np.not_equal(rows.pairs_E[1:], rows.pairs_E[:-1], out=codes[:-1].view(np.bool_))
    if duplicates == "sum" and rows.weights_E is not None:
        _sum_runs(rows.pairs_E, rows.weights_E)
        if np.isinf(rows.weights_E.max(initial=0.0)):
            raise DataError("duplicates = 'sum': the sums of weights are larger than a float32 can be; scale the weights down")
    return rows.keep(codes, 1, scratch)


def k_core(
    pairs_E: NDArray[np.uint64], num_users: int, num_items: int, k: int, scratch: Scratch
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Users and items of the k-core of sorted pairs, and the rounds it took: every survivor keeps k distinct partners."""
    users, items = (scratch.full(size, np.bool_, 1) for size in (num_users, num_items))
    degrees_U, degrees_I = (scratch.empty(size, np.int64) for size in (num_users, num_items))
    rounds = int(_peel(pairs_E, users, items, degrees_U, degrees_I, k))
    return users, items, rounds


def falling(degrees: NDArray[np.int64], kept: NDArray[np.bool_], scratch: Scratch) -> NDArray[np.int64]:
    """Old numbers of the kept nodes by falling degree, ties by old number (the order of the ids)."""
    count, most = int(np.count_nonzero(kept)), int(degrees.max(initial=0))
    keys = scratch.empty(count, np.uint64)
    _falling_keys(degrees, kept, most, keys)
    spare = Rows(scratch.empty(count, np.uint64), None, None)
    keys = radix_sort(Rows(keys, None, None), spare, most + 1, 0).pairs_E
    keys &= LOW
    order: NDArray[np.int64] = keys.view(np.int64)
    return order


def inverse(order: NDArray[np.int64], size: int, scratch: Scratch) -> NDArray[np.int32]:
    """The place of every number below `size` in `order`, -1 where it is absent."""
    places: NDArray[np.int32] = scratch.full(size, np.int32, -1)
    invert(order, places)
    return places


@numba.njit(parallel=True, cache=True)
def mark_alive(pairs_E, users, items, codes):  # type: ignore[no-untyped-def]
    """Code 1 for the pairs whose user and item are both marked."""
    for row in numba.prange(len(pairs_E)):
        if users[high_of(pairs_E[row])] and items[low_of(pairs_E[row])]:
            codes[row] = 1


@numba.njit(cache=True)
def mark_contained(pairs_E, others, codes):  # type: ignore[no-untyped-def]
    """Code 1 for the pairs that also occur in `others`; both sorted."""
    at = 0
    for row in range(len(pairs_E)):
        while at < len(others) and others[at] < pairs_E[row]:
            at += 1
        if at < len(others) and others[at] == pairs_E[row]:
            codes[row] = 1


@numba.njit(parallel=True, cache=True)
def renumber(pairs_E, user_numbers, item_numbers):  # type: ignore[no-untyped-def]
    """The pairs in new numbers, in place."""
    for row in numba.prange(len(pairs_E)):
        user = user_numbers[high_of(pairs_E[row])]
        item = item_numbers[low_of(pairs_E[row])]
        pairs_E[row] = packed(user, item)


def low_numbers(pairs_E: NDArray[np.uint64], out_E: NDArray[np.int32]) -> None:
    """`out_E` gets the low number of every pair."""
    np.bitwise_and(pairs_E, LOW, out=out_E, casting="unsafe")


@numba.njit(cache=True)
def _sum_runs(pairs, weights):  # type: ignore[no-untyped-def]
    """Running sums in float64 inside runs of equal pairs: a run's last row holds its total."""
    total = 0.0
    for row in range(len(pairs)):
        if row and pairs[row] != pairs[row - 1]:
            total = 0.0
        total += np.float64(weights[row])
        weights[row] = np.float32(total)


@numba.njit(cache=True)
def _falling_keys(degrees, kept, most, keys):  # type: ignore[no-untyped-def]
    """`most - degree << 32 | node` of the kept nodes: they sort by falling degree."""
    at = 0
    for node in range(len(degrees)):
        if kept[node]:
            keys[at] = packed(most - degrees[node], node)
            at += 1


@numba.njit(cache=True)
def invert(order, places):  # type: ignore[no-untyped-def]
    """`places` gets at every number of `order` where it stands."""
    for place in range(len(order)):
        places[order[place]] = place


@numba.njit(cache=True)
def _peel(pairs, users, items, degrees_U, degrees_I, k):  # type: ignore[no-untyped-def]
    """Alternate sides until nothing falls: a round counts partners of live users, then of live items."""
    rounds = 0
    while True:
        rounds += 1
        fallen = 0
        degrees_I[:] = 0
        for row in range(len(pairs)):
            if users[high_of(pairs[row])] and (row == 0 or pairs[row] != pairs[row - 1]):
                degrees_I[low_of(pairs[row])] += 1
        for item in range(len(items)):
            if items[item] and degrees_I[item] < k:
                items[item] = False
                fallen += 1
        degrees_U[:] = 0
        for row in range(len(pairs)):
            if items[low_of(pairs[row])] and (row == 0 or pairs[row] != pairs[row - 1]):
                degrees_U[high_of(pairs[row])] += 1
        for user in range(len(users)):
            if users[user] and degrees_U[user] < k:
                users[user] = False
                fallen += 1
        if fallen == 0:
            return rounds
