"""Chunked ranking against a full sort of all scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.errors import DivergedError, UsageError
from gcnrec.graph import csr_from_edges
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import top_k, top_k_all

USERS, ITEMS, WIDTH = 23, 57, 4


def world(seed):
    """Small whole numbers: every inner product is exact and ties are frequent."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(-2, 3, (USERS, WIDTH)), rng.integers(-2, 3, (ITEMS, WIDTH))
    edges = rng.integers(0, USERS, 200).astype(np.int32), rng.integers(0, ITEMS, 200).astype(np.int32)
    scorer = EmbeddingScorer(torch.tensor(users, dtype=torch.float32), torch.tensor(items, dtype=torch.float32))
    return scorer, (users @ items.T).astype(float), csr_from_edges(*edges, USERS, ITEMS)


def full_sort(scores, users, k, seen, allowed=None):
    expected = np.full((len(users), k), -1)
    for row, user in enumerate(users):
        items = [i for i in range(ITEMS) if i not in seen.row(user) and (allowed is None or i in allowed)]
        best = sorted(items, key=lambda item: (-scores[user, item], item))[:k]
        expected[row, : len(best)] = best
    return expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 10, ITEMS + 5])
def test_equals_a_full_sort_for_every_chunk_and_tile(seed, k):
    scorer, scores, seen = world(seed)
    users = np.random.default_rng(seed).permutation(USERS).astype(np.int32)[:15]
    for allowed in (None, [3, 3, 50, 8, 21, 9]):
        candidates = None if allowed is None else np.array(allowed, np.int32)
        for chunk, tile in ((1, 1), (4, 10), (15, 57), (100, 64)):
            parts = list(top_k(scorer, users, k, seen, candidates, chunk, tile))
            np.testing.assert_array_equal(np.concatenate([part.users_B for part in parts]), users)
            found = np.concatenate([part.items_BK for part in parts])
            np.testing.assert_array_equal(found, full_sort(scores, users, k, seen, allowed))
        whole = top_k_all(scorer, users, k, seen, candidates)
        np.testing.assert_array_equal(whole.items_BK, found)
        full = found >= 0
        users_of = np.repeat(users[:, None], k, axis=1)
        np.testing.assert_array_equal(whole.scores_BK[full], scores[users_of[full], found[full]])
        assert (whole.scores_BK[~full] == -np.inf).all()


def test_nothing_excluded_no_users_and_no_candidates():
    scorer, scores, _ = world(0)
    users = np.arange(USERS, dtype=np.int32)
    empty = csr_from_edges(np.empty(0, np.int32), np.empty(0, np.int32), USERS, ITEMS)
    np.testing.assert_array_equal(top_k_all(scorer, users, 7, None).items_BK, full_sort(scores, users, 7, empty))
    assert top_k_all(scorer, users[:0], 7, None).items_BK.shape == (0, 7)
    assert (top_k_all(scorer, users, 7, None, np.empty(0, np.int32)).items_BK == -1).all()


def test_k_below_one_is_refused():
    scorer, _, seen = world(0)
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        top_k_all(scorer, np.zeros(1, np.int32), 0, seen)


def test_threads_leave_the_setting_of_torch_alone_and_errors_come_through():
    scorer, _, seen = world(0)
    users = np.arange(USERS, dtype=np.int32)
    threads = torch.get_num_threads()
    expected = top_k_all(scorer, users, 5, seen).items_BK
    chunks = top_k(scorer, users, 5, seen, None, 2, 16)
    np.testing.assert_array_equal(next(chunks).items_BK, expected[:2])
    chunks.close()
    assert torch.get_num_threads() == threads
    broken = EmbeddingScorer(scorer.users_UD * float("nan"), scorer.items_ID)
    with pytest.raises(DivergedError, match="user number 0"):
        list(top_k(broken, users, 5, None, None, 2, 16))
    assert torch.get_num_threads() == threads
