"""Which interaction is train, validation or test. Rows are sorted pairs; parts are one int8 per row.

Draws come from counter-based streams whose index is the pair itself, so a split depends on the data and the seed only,
and repeats of a pair never land on two sides. Every function that cuts by time works on rows before repeats are merged.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec import random
from gcnrec.loaders.scratch import count_high, count_low
from gcnrec.random import Stage, philox4x32

TRAIN, VALID, TEST = 0, 1, 2
_TEST_STEP, _VALID_STEP, _COLD_STEP = 0, 1, 2
_SPLIT = int(Stage.SPLIT)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def random_test(pairs_E: NDArray[np.uint64], num_users: int, share: float, seed: int) -> NDArray[np.int8]:
    """TEST for `round(share * n)` of every user's n distinct pairs, never all of them; TRAIN for the rest."""
    ends = np.cumsum(count_high(pairs_E, num_users))
    parts = np.zeros(len(pairs_E), np.int8)
    _random_test(pairs_E, ends, share, np.uint64(seed), parts)
    return parts


def leave_last(pairs_E: NDArray[np.uint64], times_E: NDArray[np.int64], num_users: int, valid: bool) -> NDArray[np.int8]:
    """TEST for every user's last interaction, VALID (if asked for) for the one before; the first one stays TRAIN.

    Equal times are ordered by item number.
    """
    ends = np.cumsum(count_high(pairs_E, num_users))
    parts = np.zeros(len(pairs_E), np.int8)
    _leave_last(ends, times_E, valid, parts)
    return parts


def temporal(times_E: NDArray[np.int64], valid_from: int, test_from: int) -> NDArray[np.int8]:
    """TEST from `test_from` on, VALID from `valid_from` up to there, TRAIN before."""
    parts = np.zeros(len(times_E), np.int8)
    parts[times_E >= valid_from] = VALID
    parts[times_E >= test_from] = TEST
    return parts


def cold_items(pairs_E: NDArray[np.uint64], num_items: int, test_size: float, valid_size: float, seed: int) -> NDArray[np.int8]:
    """All interactions of a random `test_size` share of the items are TEST, of `valid_size` of the other items VALID.

    Validation items are cold as well: the epoch must be chosen by what the test measures.
    """
    present = np.flatnonzero(count_low(pairs_E, num_items))
    order = present[random.permutation(seed, Stage.SPLIT, _COLD_STEP, len(present))]
    num_test = round(test_size * len(order))
    num_valid = round(valid_size * (len(order) - num_test))
    part_of_item = np.zeros(num_items, np.int8)
    part_of_item[order[:num_test]] = TEST
    part_of_item[order[num_test : num_test + num_valid]] = VALID
    return part_of_item[(pairs_E & _LOW).astype(np.int64)]


def carve(pairs_E: NDArray[np.uint64], num_users: int, num_items: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Mask of the merged train pairs that become validation: each with probability `share`.

    The last train pair of a user or an item is never taken, so no node is lost from train.
    """
    taken: NDArray[np.bool_] = _carve(pairs_E, num_users, num_items, np.uint64(share * 2.0**64), np.uint64(seed))
    return taken


def time_at(times_E: NDArray[np.int64], share: float, below: int | None = None) -> int:
    """The time from which on at least `share` of the interactions (those before `below`) lie."""
    if below is not None and not (times_E < below).any():
        return below
    limit = np.iinfo(np.int64).max if below is None else below
    count = len(times_E) if below is None else int(np.count_nonzero(times_E < below))
    rank = min(int((1.0 - share) * count), count - 1)
    low = int(times_E.min())
    high = int(times_E.max() if below is None else min(int(times_E.max()), below - 1))
    while low < high:
        width = (high - low) // 65536 + 1
        bins = _histogram(times_E, low, high, width, limit)
        ends = np.cumsum(bins)
        chosen = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[chosen - 1]) if chosen else 0
        low, high = low + chosen * width, min(high, low + (chosen + 1) * width - 1)
    return low


@numba.njit(inline="always")
def _draw(pair, seed, step):  # type: ignore[no-untyped-def]
    a, b, _, _ = philox4x32(
        np.uint32(pair & _LOW), np.uint32(pair >> _32), np.uint32(step), np.uint32(_SPLIT), np.uint32(seed & _LOW),
        np.uint32(seed >> _32),
    )  # fmt: skip
    return (np.uint64(a) << _32) | np.uint64(b)


@numba.njit(parallel=True, cache=True)
def _random_test(pairs, ends, share, seed, parts):  # type: ignore[no-untyped-def]
    for user in numba.prange(len(ends)):
        first = np.int64(0) if user == 0 else ends[user - 1]
        keys = np.empty(ends[user] - first, np.uint64)
        distinct = 0
        for row in range(first, ends[user]):
            if row == first or pairs[row] != pairs[row - 1]:
                keys[distinct] = _draw(pairs[row], seed, _TEST_STEP)
                distinct += 1
        take = min(int(share * distinct + 0.5), distinct - 1)
        if take <= 0:
            continue
        last = np.sort(keys[:distinct])[take - 1]
        for row in range(first, ends[user]):
            if _draw(pairs[row], seed, _TEST_STEP) <= last:
                parts[row] = TEST


@numba.njit(cache=True)
def _leave_last(ends, times, valid, parts):  # type: ignore[no-untyped-def]
    for user in range(len(ends)):
        first = np.int64(0) if user == 0 else ends[user - 1]
        count = ends[user] - first
        last, before = np.int64(-1), np.int64(-1)
        for row in range(first, ends[user]):
            if last < 0 or times[row] >= times[last]:
                last, before = row, last
            elif before < 0 or times[row] >= times[before]:
                before = row
        if count >= 2:
            parts[last] = TEST
        if valid and count >= 3:
            parts[before] = VALID


@numba.njit(cache=True)
def _carve(pairs, num_users, num_items, threshold, seed):  # type: ignore[no-untyped-def]
    taken = np.zeros(len(pairs), np.bool_)
    user_left, item_left = np.zeros(num_users, np.int64), np.zeros(num_items, np.int64)
    user_best, item_best = np.full(num_users, -1, np.int64), np.full(num_items, -1, np.int64)
    user_key, item_key = np.zeros(num_users, np.uint64), np.zeros(num_items, np.uint64)
    for row in range(len(pairs)):
        user, item = np.int64(pairs[row] >> _32), np.int64(pairs[row] & _LOW)
        key = _draw(pairs[row], seed, _VALID_STEP)
        if key >= threshold:
            user_left[user] += 1
            item_left[item] += 1
            continue
        taken[row] = True
        if user_best[user] < 0 or key > user_key[user]:
            user_best[user], user_key[user] = row, key
        if item_best[item] < 0 or key > item_key[item]:
            item_best[item], item_key[item] = row, key
    for user in range(num_users):
        if user_left[user] == 0 and user_best[user] >= 0:
            taken[user_best[user]] = False
            item_left[np.int64(pairs[user_best[user]] & _LOW)] += 1
    for item in range(num_items):
        if item_left[item] == 0 and item_best[item] >= 0:
            taken[item_best[item]] = False
    return taken


@numba.njit(cache=True)
def _histogram(times, low, high, width, limit):  # type: ignore[no-untyped-def]
    bins = np.zeros((high - low) // width + 1, np.int64)
    for row in range(len(times)):
        if low <= times[row] <= high and times[row] < limit:
            bins[(times[row] - low) // width] += 1
    return bins
