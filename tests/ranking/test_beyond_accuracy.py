"""Diversity and serendipity against sums over all pairs and against whole lists by popularity."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gcnrec.graph import csr_from_edges
from gcnrec.ops.topk import TopK
from gcnrec.ranking import beyond_accuracy
from gcnrec.ranking.beyond_accuracy import BeyondAccuracy

USERS, ITEMS, WIDTH, K = 23, 31, 5, 12
KS = (1, 4, K, 40)


@pytest.fixture(scope="module")
def world():
    """Random lists of different lengths with hits, embeddings of which two are zero, and two overlapping parts of seen items."""
    rng = np.random.default_rng(5)
    rows_IF = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32) * rng.uniform(0.1, 9, (ITEMS, 1)).astype(np.float32)
    rows_IF[[3, 17]] = 0
    items_BK = np.stack([rng.permutation(ITEMS)[:K] for _ in range(USERS)]).astype(np.int32)
    items_BK[np.arange(K) >= rng.integers(0, K + 1, USERS)[:, None]] = -1
    seen = []
    for _ in range(2):
        users, items = rng.integers(0, USERS, 80).astype(np.int32), rng.integers(0, ITEMS, 80).astype(np.int32)
        seen.append(csr_from_edges(users, items, USERS, ITEMS))
    hits_BK = (rng.random(items_BK.shape) < 0.4) & (items_BK >= 0)
    for user in range(USERS):  # a hit is never an item that lists leave out
        known = np.concatenate([part.row(user) for part in seen])
        hits_BK[user] &= ~np.isin(items_BK[user], known)
    lists = TopK(np.arange(USERS, dtype=np.int32), items_BK, np.zeros(items_BK.shape, np.float32))
    return rows_IF, rng.integers(0, 4, ITEMS), tuple(seen), lists, hits_BK


@pytest.mark.parametrize("gathered", [1, beyond_accuracy.GATHERED_VALUES])
def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs(world, monkeypatch, gathered):
    rows_IF, degrees_I, seen, lists, _ = world
    monkeypatch.setattr(beyond_accuracy, "GATHERED_VALUES", gathered)
    found = BeyondAccuracy.of(rows_IF, degrees_I, seen).diversity(lists, KS)
    exact_IF = rows_IF.astype(np.float64)
    exact_IF /= np.maximum(np.linalg.norm(exact_IF, axis=1, keepdims=True), 1e-12)
    for k in KS:
        for user, items in enumerate(lists.items_BK):
            pairs = list(combinations(items[:k][items[:k] >= 0], 2))
            expected = 1 - np.mean([exact_IF[one] @ exact_IF[other] for one, other in pairs]) if pairs else 0.0
            assert found[f"diversity@{k}"][user] == pytest.approx(expected, abs=1e-6)


def test_places_are_those_of_whole_lists_by_popularity(world):
    _, degrees_I, seen, lists, hits_BK = world
    for parts in (seen, seen[:1], ()):
        places_P = iter(BeyondAccuracy.of(None, degrees_I, parts).places(lists, hits_BK).tolist())
        for user in range(USERS):
            known = {int(item) for part in parts for item in part.row(user)}
            popular = [item for item in sorted(range(ITEMS), key=lambda item: (-degrees_I[item], item)) if item not in known]
            for item in lists.items_BK[user][hits_BK[user]].tolist():
                assert next(places_P) == popular.index(item)
        assert next(places_P, None) is None


def test_without_rows_there_is_no_diversity(world):
    _, degrees_I, seen, lists, _ = world
    beyond = BeyondAccuracy.of(None, degrees_I, seen)
    assert (beyond.names, beyond.diversity(lists, KS)) == ((), {})
