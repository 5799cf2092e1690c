"""What is done to sorted pairs: merge repeats, reduce to a k-core, compare two sets, renumber."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.loaders.scratch import Rows, Scratch

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def merge(rows: Rows, duplicates: str, scratch: Scratch) -> Rows:
    """One row per pair of sorted rows: the latest (largest time, then weight), with `sum` the sum of all weights."""
    mask = _last_of_run(rows.pairs_E)
    if duplicates == "sum" and rows.weights_E is not None:
        _sum_runs(rows.pairs_E, rows.weights_E)
    return rows.keep(mask, scratch)


def k_core(
    pairs_E: NDArray[np.uint64], num_users: int, num_items: int, k: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Users and items of the k-core of sorted pairs, and the rounds it took: every survivor keeps k distinct partners."""
    users = np.ones(num_users, np.bool_)
    items = np.ones(num_items, np.bool_)
    rounds = int(_peel(pairs_E, users, items, k))
    return users, items, rounds


def alive(pairs_E: NDArray[np.uint64], users: NDArray[np.bool_], items: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of the pairs whose user and item are both marked."""
    mask: NDArray[np.bool_] = _alive(pairs_E, users, items)
    return mask


def contained(pairs_E: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Mask of the pairs that also occur in `others`; both sorted."""
    mask: NDArray[np.bool_] = _contained(pairs_E, others)
    return mask


def unpack(pairs_E: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`users_E` and `items_E` int32 of pairs."""
    return (pairs_E >> _32).astype(np.int32), (pairs_E & _LOW).astype(np.int32)


@numba.njit(parallel=True, cache=True)
def renumber(pairs_E, user_numbers, item_numbers, out_E):  # type: ignore[no-untyped-def]
    """`out_E` gets the pairs in new numbers, rows in place; `out_E` may be `pairs_E`."""
    for row in numba.prange(len(pairs_E)):
        user = user_numbers[np.int64(pairs_E[row] >> _32)]
        item = item_numbers[np.int64(pairs_E[row] & _LOW)]
        out_E[row] = (np.uint64(user) << _32) | np.uint64(item)


@numba.njit(parallel=True, cache=True)
def swap(pairs_E, out_E):  # type: ignore[no-untyped-def]
    """`out_E` gets `item << 32 | user`."""
    for row in numba.prange(len(pairs_E)):
        out_E[row] = (pairs_E[row] << _32) | (pairs_E[row] >> _32)


@numba.njit(parallel=True, cache=True)
def low_numbers(pairs_E, out_E):  # type: ignore[no-untyped-def]
    """`out_E` int32 gets the low number of every pair."""
    for row in numba.prange(len(pairs_E)):
        out_E[row] = np.int32(pairs_E[row] & _LOW)


def falling(degrees: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[Any]:
    """Old numbers of the kept nodes by falling degree, ties by old number (the order of the ids)."""
    nodes = np.flatnonzero(kept)
    return nodes[np.argsort(-degrees[nodes], kind="stable")]


@numba.njit(cache=True)
def _last_of_run(pairs):  # type: ignore[no-untyped-def]
    mask = np.ones(len(pairs), np.bool_)
    for row in range(len(pairs) - 1):
        mask[row] = pairs[row] != pairs[row + 1]
    return mask


@numba.njit(cache=True)
def _sum_runs(pairs, weights):  # type: ignore[no-untyped-def]
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


@numba.njit(parallel=True, cache=True)
def _alive(pairs, users, items):  # type: ignore[no-untyped-def]
    mask = np.empty(len(pairs), np.bool_)
    for row in numba.prange(len(pairs)):
        mask[row] = users[np.int64(pairs[row] >> _32)] and items[np.int64(pairs[row] & _LOW)]
    return mask


@numba.njit(cache=True)
def _contained(pairs, others):  # type: ignore[no-untyped-def]
    mask = np.zeros(len(pairs), np.bool_)
    at = 0
    for row in range(len(pairs)):
        while at < len(others) and others[at] < pairs[row]:
            at += 1
        mask[row] = at < len(others) and others[at] == pairs[row]
    return mask
