"""Samples of users and held-out items by user, against sets and dictionaries of plain Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gcnrec.errors import DataError
from gcnrec.graph import csr_from_edges
from gcnrec.interactions import Interactions, MemoryVocabulary
from gcnrec.ranking.held_out import Held, counts_of, of_users, sampled
from gcnrec.ranking.metrics import by_popularity

USERS, ITEMS = 5_000, 40
RNG = np.random.default_rng(5)
USERS_E, ITEMS_E = RNG.integers(0, USERS, 4_000).astype(np.int32), RNG.integers(0, ITEMS, 4_000).astype(np.int32)


def pairs(users_E=USERS_E, items_E=ITEMS_E):
    return Interactions(
        users_E, items_E, None, None, MemoryVocabulary(pa.array(range(USERS))), MemoryVocabulary(pa.array(range(ITEMS)))
    )


def test_a_sample_keeps_all_pairs_of_its_users_and_grows_by_nesting():
    small, large = sampled(pairs(), 100), sampled(pairs(), 700)
    chosen, more = set(small.users_E.tolist()), set(large.users_E.tolist())
    assert (len(chosen), len(more)) == (100, 700) and chosen < more < set(USERS_E.tolist())
    expected = [(u, i) for u, i in zip(USERS_E.tolist(), ITEMS_E.tolist(), strict=True) if u in chosen]
    assert list(zip(small.users_E.tolist(), small.items_E.tolist(), strict=True)) == expected
    assert sampled(pairs(), None).users_E is USERS_E and sampled(pairs(), USERS).users_E is USERS_E


def test_each_user_is_as_likely_as_any_other():
    """The mean place of a sample of 1,000 of 5,000: 5 standard errors of 5000 / sqrt(12) / sqrt(1000), without replacement."""
    everyone = np.arange(USERS, dtype=np.int32)
    found = sampled(pairs(everyone, np.zeros(USERS, np.int32)), 1_000).users_E
    assert abs(found.mean() - (USERS - 1) / 2) < 5 * USERS / 12**0.5 / 1_000**0.5 * 0.8**0.5


def test_held_out_items_by_user_are_sets_of_pairs():
    expected = {}
    for user, item in zip(USERS_E.tolist(), ITEMS_E.tolist(), strict=True):
        expected.setdefault(user, set()).add(item)
    held = Held.of(pairs())
    assert held.users_H.tolist() == sorted(expected)
    asked = held.users_H[::7]
    assert [held.items.row(row).tolist() for row in held.rows(asked)] == [sorted(expected[user]) for user in asked.tolist()]
    whole = held.by_user(USERS)
    assert [whole.row(user).tolist() for user in range(USERS)] == [sorted(expected.get(user, ())) for user in range(USERS)]
    assert whole.degrees_of(asked).tolist() == [len(expected[user]) for user in asked.tolist()]
    assert counts_of(USERS_E, asked).tolist() == [USERS_E.tolist().count(user) for user in asked.tolist()]
    with pytest.raises(DataError, match="no user has held-out items"):
        Held.of(of_users(pairs(), np.empty(0, np.int32)))


def test_few_edges_make_the_same_csr():
    """500 edges of 5,000 rows are sorted; with each edge eight times they are counted."""
    few = csr_from_edges(USERS_E[:500], ITEMS_E[:500], USERS, ITEMS)
    counted = csr_from_edges(np.tile(USERS_E[:500], 8), np.tile(ITEMS_E[:500], 8), USERS, ITEMS)
    assert few.indptr.tolist() == counted.indptr.tolist() and few.indices.tolist() == counted.indices.tolist()
    assert (few.indptr.dtype, few.indices.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize("degrees", [[9, 7, 7, 2, 0], [2, 9, 0, 7, 7]])
def test_parts_by_popularity(degrees):
    expected = sorted(range(5), key=lambda item: (-degrees[item], item))
    parts = [np.arange(5)[part].tolist() for part in by_popularity(np.array(degrees), [2, 5])]
    assert parts == [expected[:2], expected[2:]]
