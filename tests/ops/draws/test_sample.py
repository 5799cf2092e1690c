"""Negatives against a transcription in Python integers, their distribution, and the redrawing of seen items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.graph import csr_from_edges
from gcnrec.ops.draws.sample import ATTEMPTS, negatives, popularity_table
from gcnrec.random import Stage


def philox(counter, key):
    """Salmon et al. 2011 in Python integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        (h0, l0), (h1, l1) = divmod(0xD2511F53 * c0, 2**32), divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def naive(users, num, table, seen, seed, step):
    out = np.zeros((len(users), num), int)
    for b, user in enumerate(users):
        for n in range(num):
            for attempt in range(ATTEMPTS):
                counter = (b * num + n, attempt, step, int(Stage.NEGATIVES))
                high, low, word, _ = philox(counter, (seed % 2**32, seed >> 32))
                item = (high << 32 | low) * len(table.others_I) >> 64
                if word >= table.thresholds_I[item]:
                    item = int(table.others_I[item])
                if seen is None or item not in seen.row(user):
                    break
            out[b, n] = item
    return out


def random_seen(users, items, edges):
    rng = np.random.default_rng(3)
    return csr_from_edges(
        rng.integers(0, users, edges).astype(np.int32), rng.integers(0, items, edges).astype(np.int32), users, items
    )


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("seed", [0, 2**40 + 5])
def test_equals_the_transcription(exclude, seed):
    seen = random_seen(12, 15, 80) if exclude else None
    users = np.random.default_rng(0).integers(0, 12, 40).astype(np.int32)
    table = popularity_table(np.arange(15), 0.75)
    drawn = negatives(users, 3, table, seen, seed, 17)
    assert drawn.dtype == np.int32
    assert np.array_equal(drawn, naive(users, 3, table, seen, seed, 17))


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_negatives_are_items_and_never_seen_ones(items, seed, step):
    # User u has seen the first u items of 30, so that every share from none to all but one is there.
    users = np.arange(items, dtype=np.int32)
    pairs = [(user, item) for user in range(items) for item in range(user)]
    rows, columns = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    seen = csr_from_edges(rows, columns, items, items)
    # 32 draws all miss the one allowed item of 30 with chance (29/30)^32 = 0.34: ask only users with at most half seen.
    users = users[: items // 2 + 1]
    drawn = negatives(users, 2, popularity_table(np.ones(items, int), 0.0), seen, seed, step)
    assert drawn.min() >= 0 and drawn.max() < items
    # Missing 32 times has chance 2^-32 for each of these.
    assert all(item >= user for user, row in zip(users, drawn, strict=True) for item in row)


def test_a_user_who_has_seen_everything_still_gets_items():
    seen = csr_from_edges(np.zeros(4, np.int32), np.arange(4, dtype=np.int32), 1, 4)
    drawn = negatives(np.zeros(50, np.int32), 1, popularity_table(np.ones(4, int), 0.0), seen, 0, 1)
    assert drawn.min() >= 0 and drawn.max() < 4


@pytest.mark.parametrize("power", [0.0, 0.5, 0.75, 1.0])
def test_distribution_is_degree_to_the_power(power):
    degrees = np.array([400, 90, 60, 30, 12, 5, 2, 1, 1, 1])
    drawn = negatives(np.zeros(20_000, np.int32), 5, popularity_table(degrees, power), None, 11, 1).ravel()
    expected = len(drawn) * degrees**power / (degrees**power).sum()
    statistic = ((np.bincount(drawn, minlength=10) - expected) ** 2 / expected).sum()
    # Chi-square with 9 degrees of freedom exceeds 27.9 for one seed in 1000; the seed is fixed.
    assert statistic < 27.9


def test_draws_of_one_batch_are_independent_of_its_order_in_time():
    table = popularity_table(np.ones(50, int), 0.0)
    users = np.zeros(64, np.int32)
    base = negatives(users, 2, table, None, 1, 1)
    assert np.array_equal(base, negatives(users, 2, table, None, 1, 1))
    assert np.array_equal(base[:10], negatives(users[:10], 2, table, None, 1, 1))
    for other in (negatives(users, 2, table, None, 1, 2), negatives(users, 2, table, None, 2, 1)):
        # Two independent draws agree in 1 of 50: 128 of them in more than 20 with chance below 1e-10.
        assert (base == other).sum() <= 20


def test_items_without_users_are_drawn_only_when_all_count_alike():
    degrees = np.array([3, 0, 1])
    assert 1 not in negatives(np.zeros(500, np.int32), 1, popularity_table(degrees, 1.0), None, 0, 1)
    assert 1 in negatives(np.zeros(500, np.int32), 1, popularity_table(degrees, 0.0), None, 0, 1)


def test_threads_do_not_matter(threads):
    users, table = np.zeros(999, np.int32), popularity_table(np.arange(70), 0.75)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(negatives(users, 3, table, None, 4, 5))
    assert np.array_equal(*results)
