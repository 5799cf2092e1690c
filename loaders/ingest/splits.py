"""Which interaction is train, validation or test. Rows are sorted pairs; codes are one int8 per row: the part.

Draws come from counter-based streams whose index is the pair itself, so a split depends on the data and the seed only,
and repeats of a pair never land on two sides. Every function that cuts by time works on rows before repeats are merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec import random
from gcnrec.loaders.ingest.rows import Rows, count_high, count_low, count_until, high_of, low_of, radix_sort
from gcnrec.random import Stage, two_u64
from gcnrec.system.scratch import Scratch

TRAIN, VALID, TEST, LATER = 0, 1, 2, 3
_TEST_STEP, _VALID_STEP, _COLD_STEP = 0, 1, 2
_SPLIT = int(Stage.SPLIT)
_DRAWN = 2**16
"""Draws that are held at a time."""
_LONG = 2**16
"""Interactions from which on a user's draws are counted, pass by pass, and not held."""


@dataclass(frozen=True, slots=True)
class SortedPairs:
    """Pairs to split, sorted, of `num_users` users and `num_items` items; codes and counts lie in `scratch`."""

    pairs_E: NDArray[np.uint64]
    num_users: int
    num_items: int
    scratch: Scratch

    def codes(self) -> NDArray[np.int8]:
        """TRAIN for every pair."""
        return self.scratch.codes(len(self.pairs_E))

    def user_ends(self) -> NDArray[np.int64]:
        """Where every user's pairs end, int64 (U)."""
        ends = count_high(self.pairs_E, self.num_users, self.scratch)
        return np.cumsum(ends, out=ends)


def random_test(pairs: SortedPairs, share: float, seed: int) -> NDArray[np.int8]:
    """TEST for `round(share * n)` of every user's n distinct pairs, never all of them."""
    codes = pairs.codes()
    _random_test(pairs.pairs_E, pairs.user_ends(), share, np.uint64(seed), codes)
    return codes


def leave_last(pairs: SortedPairs, times_E: NDArray[np.int64], valid: bool) -> NDArray[np.int8]:
    """TEST for every user's last interaction, with `valid` VALID for the previous one; the first one stays TRAIN.

    Equal times are ordered by item number.
    """
    codes = pairs.codes()
    _leave_last(pairs.user_ends(), times_E, valid, codes)
    return codes


@numba.njit(parallel=True, cache=True)
def temporal(times_E, valid_from, test_from, test_until, parts):  # type: ignore[no-untyped-def]
    """TEST from `test_from` on, VALID from `valid_from` up to there; LATER, no part at all, after `test_until`."""
    for row in numba.prange(len(times_E)):
        if times_E[row] > test_until:
            parts[row] = LATER
        elif times_E[row] >= test_from:
            parts[row] = TEST
        elif times_E[row] >= valid_from:
            parts[row] = VALID


def cold_items(pairs: SortedPairs, test_size: float, valid_size: float, warm_size: float, seed: int) -> NDArray[np.int8]:
    """All interactions of a random `test_size` share of the items are TEST, of `valid_size` of the other items VALID.

    Validation items are cold, too: the epoch must be chosen by what the test measures. Of the interactions with the items
    that are left, a share of `warm_size` is TEST and as much again VALID; the last of a user or an item stays TRAIN.
    """
    codes, scratch = pairs.codes(), pairs.scratch
    order = _shuffled_items(count_low(pairs.pairs_E, pairs.num_items, scratch), seed, scratch)
    num_test = round(test_size * len(order))
    num_valid = round(valid_size * (len(order) - num_test))
    part_of_item = scratch.codes(pairs.num_items)
    part_of_item[order[:num_test]] = TEST
    part_of_item[order[num_test : num_test + num_valid]] = VALID
    _by_item(pairs.pairs_E, part_of_item, codes)
    if warm_size:
        _take(pairs, warm_size, min(2.0 * warm_size, 1.0 - 2.0**-53), seed, codes)
    return codes


def _shuffled_items(counts_I: NDArray[np.int64], seed: int, scratch: Scratch) -> NDArray[np.int64]:
    """The items that occur, in a random order: by a draw each, ties by number."""
    size = int(np.count_nonzero(counts_I))
    keys, items = scratch.empty(size, np.uint64), scratch.empty(size, np.int64)
    _occurring(counts_I, items)
    for first in range(0, size, _DRAWN):
        count = min(_DRAWN, size - first)
        keys[first : first + count] = random.u64(seed, Stage.SPLIT, _COLD_STEP, count, first)
    rows = Rows(keys, items, None)
    order = radix_sort(rows, rows.empty(size, scratch), 2**32, 2**32).times_E
    assert order is not None
    return order


def carve(pairs: SortedPairs, share: float, seed: int) -> NDArray[np.int8]:
    """VALID for the merged train pairs that become validation: each with probability `share`.

    The last train pair of a user or an item is never taken, so no node is lost from train.
    """
    codes = pairs.codes()
    _take(pairs, 0.0, share, seed, codes)
    return codes


def _take(pairs: SortedPairs, test: float, both: float, seed: int, codes: NDArray[np.int8]) -> None:
    """TEST for a share `test` of the pairs coded TRAIN, VALID for more up to a share of `both`."""
    limits = np.uint64(test * 2.0**64), np.uint64(both * 2.0**64)
    nodes, scratch = (pairs.num_users, pairs.num_items), pairs.scratch
    # Of each side's nodes: the rows left to train, the row that was taken with the largest draw, and this draw.
    sides = [(scratch.full(n, np.int64, 0), scratch.full(n, np.int64, -1), scratch.full(n, np.uint64, 0)) for n in nodes]
    _carve(pairs.pairs_E, *limits, np.uint64(seed), codes, *sides[0], *sides[1])


def time_at(times_E: NDArray[np.int64], share: float, below: int | None = None) -> int:
    """The time from which on at least `share` of the interactions (before `below`) lie; of none, the first one after all."""
    low, high = int(times_E.min()), int(times_E.max())
    high = high if below is None else min(high, below - 1)
    if high < low or not share:
        return high + 1
    count = int(count_until(times_E, high))
    rank = min(int((1.0 - share) * count), count - 1)
    while low < high:
        width = (high - low) // 65536 + 1
        bins = _histogram(times_E, low, high, width, (high - low) // width + 1)
        ends = np.cumsum(bins)
        chosen = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[chosen - 1]) if chosen else 0
        low, high = low + chosen * width, min(high, low + (chosen + 1) * width - 1)
    return low


@numba.njit(inline="always")
def _draw(pair, seed, step):  # type: ignore[no-untyped-def]
    return two_u64(seed, _SPLIT, step, pair)[0]


@numba.njit(parallel=True, cache=True)
def _random_test(pairs, ends, share, seed, parts):  # type: ignore[no-untyped-def]
    for user in numba.prange(len(ends)):
        first = np.int64(0) if user == 0 else ends[user - 1]
        distinct = 0
        for row in range(first, ends[user]):
            distinct += row == first or pairs[row] != pairs[row - 1]
        take = min(int(share * distinct + 0.5), distinct - 1)
        if take <= 0:
            continue
        if ends[user] - first > _LONG:
            last = _counted_draw(pairs, first, ends[user], take - 1, seed)
        else:
            last = _sorted_draw(pairs, first, ends[user], take - 1, seed)
        for row in range(first, ends[user]):
            if _draw(pairs[row], seed, _TEST_STEP) <= last:
                parts[row] = TEST


@numba.njit(cache=True)
def _sorted_draw(pairs, first, end, rank, seed):  # type: ignore[no-untyped-def]
    """The draw of rank `rank` among the draws of the distinct pairs in rows `first .. end - 1`."""
    keys = np.empty(end - first, np.uint64)
    distinct = 0
    for row in range(first, end):
        if row == first or pairs[row] != pairs[row - 1]:
            keys[distinct] = _draw(pairs[row], seed, _TEST_STEP)
            distinct += 1
    return np.sort(keys[:distinct])[rank]


@numba.njit(cache=True)
def _counted_draw(pairs, first, end, rank, seed):  # type: ignore[no-untyped-def]
    """What `_sorted_draw` returns, sixteen bits of it a pass: memory does not grow with the rows."""
    found = np.uint64(0)
    for shift in (np.uint64(48), np.uint64(32), np.uint64(16), np.uint64(0)):
        bins = np.zeros(2**16, np.int64)
        for row in range(first, end):
            if row == first or pairs[row] != pairs[row - 1]:
                key = _draw(pairs[row], seed, _TEST_STEP)
                # Two shifts, as one by 64 bits would be undefined.
                if (key >> shift) >> np.uint64(16) == (found >> shift) >> np.uint64(16):
                    bins[np.int64((key >> shift) & np.uint64(0xFFFF))] += 1
        chosen = 0
        while rank >= bins[chosen]:
            rank -= bins[chosen]
            chosen += 1
        found |= np.uint64(chosen) << shift
    return found


@numba.njit(cache=True)
def _occurring(counts, items):  # type: ignore[no-untyped-def]
    at = 0
    for item in range(len(counts)):
        if counts[item]:
            items[at] = item
            at += 1


@numba.njit(cache=True)
def _leave_last(ends, times, valid, parts):  # type: ignore[no-untyped-def]
    for user in range(len(ends)):
        first = np.int64(0) if user == 0 else ends[user - 1]
        count = ends[user] - first
        last = before = first - 1
        for row in range(first, ends[user]):
            if last < first or times[row] >= times[last]:
                before = last
                last = row
            elif before < first or times[row] >= times[before]:
                before = row
        if count >= 2:
            parts[last] = TEST
        if valid and count >= 3:
            parts[before] = VALID


@numba.njit(parallel=True, cache=True)
def _by_item(pairs, part_of_item, parts):  # type: ignore[no-untyped-def]
    for row in numba.prange(len(pairs)):
        parts[row] = part_of_item[low_of(pairs[row])]


@numba.njit(cache=True)
def _carve(  # type: ignore[no-untyped-def]
    pairs, test_below, below, seed, parts, user_left, user_best, user_key, item_left, item_best, item_key
):  # fmt: skip
    for row in range(len(pairs)):
        if parts[row] != TRAIN:
            continue
        user, item = high_of(pairs[row]), low_of(pairs[row])
        key = _draw(pairs[row], seed, _VALID_STEP)
        if key >= below:
            user_left[user] += 1
            item_left[item] += 1
            continue
        parts[row] = TEST if key < test_below else VALID
        if user_best[user] < 0 or key > user_key[user]:
            user_best[user] = row
            user_key[user] = key
        if item_best[item] < 0 or key > item_key[item]:
            item_best[item] = row
            item_key[item] = key
    for node in range(len(user_left)):
        if user_left[node] == 0 and user_best[node] >= 0:
            parts[user_best[node]] = TRAIN
            item_left[low_of(pairs[user_best[node]])] += 1
    for node in range(len(item_left)):
        if item_left[node] == 0 and item_best[node] >= 0:
            parts[item_best[node]] = TRAIN


@numba.njit(cache=True)
def _histogram(times, low, high, width, size):  # type: ignore[no-untyped-def]
    """Times of low .. high in `size` bins of `width`; unsigned, because any two times of 64 bits may lie between them."""
    bins = np.zeros(size, np.int64)
    for row in range(len(times)):
        if low <= times[row] <= high:
            bins[np.int64((np.uint64(times[row]) - np.uint64(low)) // np.uint64(width))] += 1
    return bins
