"""Places of given items among all, against sorting all scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.errors import DivergedError
from gcnrec.graph import csr_from_edges
from gcnrec.ops.topk import Hidden, ItemLists
from gcnrec.ranking.places import keys, places
from gcnrec.ranking.scorer import EmbeddingScorer

USERS, ITEMS = 9, 40


def drawn(seed, ties):
    """Scores, of which many are equal with `ties`; pairs of a user and its items, in order; and hidden pairs."""
    draw = np.random.default_rng(seed)
    scores_UI = draw.integers(-2, 3, (USERS, ITEMS)).astype(np.float32) if ties else draw.normal(size=(USERS, ITEMS))
    pairs = csr_from_edges(
        draw.integers(0, USERS, 60).astype(np.int32), draw.integers(0, ITEMS, 60).astype(np.int32), USERS, ITEMS
    )
    hidden = csr_from_edges(
        draw.integers(0, USERS, 90).astype(np.int32), draw.integers(0, ITEMS, 90).astype(np.int32), USERS, ITEMS
    )
    return scores_UI.astype(np.float32), pairs, hidden


def by_sorting(scores_UI, pairs, hidden, users):
    """Score and place of each pair: the number of items that are ahead of it, and not hidden, and one."""
    found = []
    for user in users:
        out = set(hidden.row(user).tolist())
        for item in pairs.row(user).tolist():
            own = scores_UI[user, item]
            ahead = [
                other for other in range(ITEMS)
                if other not in out and (scores_UI[user, other] > own or (scores_UI[user, other] == own and other < item))
            ]  # fmt: skip
            found.append((own, 1 + len(ahead)))
    scores, ranks = zip(*found, strict=True)
    return np.array(scores, np.float32), np.array(ranks, np.int32)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("items_per_tile", [1, 7, 64])
@pytest.mark.parametrize("hides", [True, False])
def test_places_are_those_of_a_full_sort(ties, items_per_tile, hides):
    scores_UI, pairs, hidden = drawn(items_per_tile, ties)
    users_B = np.array([3, 0, 8, 5, 1], np.int32)
    scorer = EmbeddingScorer(torch.from_numpy(scores_UI), torch.eye(ITEMS))
    none = csr_from_edges(np.empty(0, np.int32), np.empty(0, np.int32), USERS, ITEMS)
    left_out = Hidden((ItemLists(hidden, users_B),)) if hides else Hidden(())
    scores_E, places_E = places(scorer, users_B, ItemLists(pairs, users_B), left_out, items_per_tile)
    expected = by_sorting(scores_UI, pairs, hidden if hides else none, users_B)
    np.testing.assert_array_equal(scores_E, expected[0])
    np.testing.assert_array_equal(places_E, expected[1])
    assert scores_E.dtype == np.float32 and places_E.dtype == np.int32


def test_keys_order_by_falling_score_then_rising_item():
    scores = np.array([np.inf, 3e38, 1.0, 1e-45, 0.0, -0.0, -1e-45, -1.0, -3e38, -np.inf], np.float32)
    items = np.array([5, 4, 9, 0, 1, 2, 8, 7, 3, 2**31 - 1])
    assert np.all(np.diff(keys(scores, items)) > 0)
    assert np.all(
        keys(np.full(3, -1.5, np.float32), np.arange(3)) == keys(np.float32(-1.5) * np.ones(3, np.float32), np.arange(3))
    )
    assert np.all(np.diff(keys(np.full(3, -1.5, np.float32), np.array([2, 1, 0]))) < 0)


@pytest.mark.parametrize("item", [0, 2])
def test_a_score_that_is_no_number_is_refused(item):
    """Of the pair itself, or of another item."""
    scores_UI = np.zeros((1, 3), np.float32)
    scores_UI[0, item] = np.nan
    pairs = csr_from_edges(np.zeros(1, np.int32), np.zeros(1, np.int32), 1, 3)
    users = np.zeros(1, np.int32)
    with pytest.raises(DivergedError, match="scores must be numbers, got NaN"):
        # A product with the unit matrix would spread the NaN.
        places(Given(scores_UI), users, ItemLists(pairs, users), Hidden(()))


class Given:
    """Scores as they are."""

    def __init__(self, scores_UI):
        self.scores_UI = torch.from_numpy(scores_UI)
        self.num_users, self.num_items = scores_UI.shape

    def prepare(self, users_B):
        return self.scores_UI[torch.from_numpy(users_B.astype(np.int64))]

    def score(self, prepared, first, last, out_BT):
        out_BT.copy_(prepared[:, first:last])
