"""What is done to sorted pairs: merge repeats, reduce to a k-core, compare two sets, renumber. Marks are int8 codes per row."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.loaders.rows import Rows
from gcnrec.loaders.scratch import Scratch

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def merge(rows: Rows, duplicates: str, scratch: Scratch) -> Rows:
    """One row per pair of sorted rows: the latest (largest time, then weight), with `sum` the sum of all weights."""
    codes = scratch.codes(len(rows))
    _mark_last_of_run(rows.pairs_E, codes)
    if duplicates == "sum" and rows.weights_E is not None:
        _sum_runs(rows.pairs_E, rows.weights_E)
    return rows.keep(codes, 1, scratch)


def k_core(
    pairs_E: NDArray[np.uint64], num_users: int, num_items: int, k: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Users and items of the k-core of sorted pairs, and the rounds it took: every survivor keeps k distinct partners."""
    users = np.ones(num_users, np.bool_)
    items = np.ones(num_items, np.bool_)
    rounds = int(_peel(pairs_E, users, items, k))
    return users, items, rounds


def falling(degrees: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[Any]:
    """Old numbers of the kept nodes by falling degree, ties by old number (the order of the ids)."""
    nodes = np.flatnonzero(kept)
    return nodes[np.argsort(-degrees[nodes], kind="stable")]


@numba.njit(parallel=True, cache=True)
def mark_alive(pairs_E, users, items, codes):  # type: ignore[no-untyped-def]
    """Code 1 for the pairs whose user and item are both marked."""
    for row in numba.prange(len(pairs_E)):
        if users[np.int64(pairs_E[row] >> _32)] and items[np.int64(pairs_E[row] & _LOW)]:
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
        user = user_numbers[np.int64(pairs_E[row] >> _32)]
        item = item_numbers[np.int64(pairs_E[row] & _LOW)]
        pairs_E[row] = (np.uint64(user) << _32) | np.uint64(item)


@numba.njit(parallel=True, cache=True)
def swap(pairs_E):  # type: ignore[no-untyped-def]
    """The pairs as `item << 32 | user`, in place."""
    for row in numba.prange(len(pairs_E)):
        pairs_E[row] = (pairs_E[row] << _32) | (pairs_E[row] >> _32)


@numba.njit(parallel=True, cache=True)
def low_numbers(pairs_E, out_E):  # type: ignore[no-untyped-def]
    """`out_E` int32 gets the low number of every pair."""
    for row in numba.prange(len(pairs_E)):
        out_E[row] = np.int32(pairs_E[row] & _LOW)


@numba.njit(parallel=True, cache=True)
def high_numbers(pairs_E, out_E):  # type: ignore[no-untyped-def]
    """`out_E` int32 gets the high number of every pair."""
    for row in numba.prange(len(pairs_E)):
        out_E[row] = np.int32(pairs_E[row] >> _32)


@numba.njit(cache=True)
def _mark_last_of_run(pairs, codes):  # type: ignore[no-untyped-def]
    for row in range(len(pairs)):
        if row + 1 == len(pairs) or pairs[row] != pairs[row + 1]:
            codes[row] = 1


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
def _peel(pairs, users, items, k):  # type: ignore[no-untyped-def]
    """Alternate sides until nothing falls: a round counts partners of live users, then of live items."""
    rounds = 0
    while True:
        rounds += 1
        fallen = 0
        degrees = np.zeros(len(items), np.int64)
        for row in range(len(pairs)):
            if users[np.int64(pairs[row] >> _32)] and (row == 0 or pairs[row] != pairs[row - 1]):
                degrees[np.int64(pairs[row] & _LOW)] += 1
        for item in range(len(items)):
            if items[item] and degrees[item] < k:
                items[item] = False
                fallen += 1
        degrees = np.zeros(len(users), np.int64)
        for row in range(len(pairs)):
            if items[np.int64(pairs[row] & _LOW)] and (row == 0 or pairs[row] != pairs[row - 1]):
                degrees[np.int64(pairs[row] >> _32)] += 1
        for user in range(len(users)):
            if users[user] and degrees[user] < k:
                users[user] = False
                fallen += 1
        if fallen == 0:
            return rounds
