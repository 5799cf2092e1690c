"""Running top-k against a naive sort, one Python loop per user."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import DivergedError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.ops.topk import Hidden, ItemLists, TopK, contained, empty_lists, hide, keep_best, keep_best_listed

RNG = np.random.default_rng(0)


def naive(scores_BI, k, hidden, listed=None):
    """Lists of (item, score) per user: sort all items by (-score, item), drop what is hidden, not listed or -inf."""
    lists = []
    for user, row in enumerate(scores_BI):
        items = [
            item
            for item in range(len(row))
            if item not in hidden[user] and (listed is None or item in listed[user]) and row[item] != -np.inf
        ]
        lists.append([(item, row[item]) for item in sorted(items, key=lambda item: (-row[item], item))[:k]])
    return lists


def as_lists(best: TopK):
    return [
        [(int(item), float(score)) for item, score in zip(items, scores, strict=True) if item >= 0]
        for items, scores in zip(best.items_BK, best.scores_BK, strict=True)
    ]


def test_hide_several_lists():
    rng = np.random.default_rng(3)
    users, items, first = 5, 30, 8
    first_lists, second_lists = ([set(rng.integers(0, items, size).tolist()) for size in (9, 0, 4, 12, 7)] for _ in range(2))
    rows_B = np.array([4, 0, -1, 3, 2], np.int32)
    scores = rng.random((users, 14), np.float32)
    lists = tuple(ItemLists(csr_of(each, items), rows_B) for each in (first_lists, second_lists))
    done = scores.copy()
    hide(done, first, Hidden(lists))
    for user, row in enumerate(rows_B.tolist()):
        gone = set() if row < 0 else first_lists[row] | second_lists[row]
        expected = [-np.inf if first + at in gone else scores[user, at] for at in range(14)]
        assert done[user].tolist() == expected
    untouched = scores.copy()
    hide(untouched, first, Hidden(()))
    assert np.array_equal(untouched, scores)


def csr_of(sets, num_items) -> Csr:
    pairs = [(row, item) for row, items in enumerate(sets) for item in items]
    rows, items = np.array(pairs, np.int32).reshape(-1, 2).T
    return csr_from_edges(np.ascontiguousarray(rows), np.ascontiguousarray(items), len(sets), num_items)


def ranked(scores_BI, k, tile, hidden, listed=None) -> TopK:
    num_users, num_items = scores_BI.shape
    rows_B = np.arange(num_users, dtype=np.int32)
    hide = ItemLists(csr_of(hidden, num_items), rows_B)
    best = empty_lists(rows_B, k)
    for first in range(0, num_items, tile):
        block = np.array(scores_BI[:, first : first + tile], np.float32, order="C")  # hidden scores are overwritten
        if listed is None:
            keep_best(block, first, hide, best)
        else:
            keep_best_listed(block, first, hide, ItemLists(csr_of(listed, num_items), rows_B), best)
    return best


@st.composite
def worlds(draw):
    num_users, num_items = draw(st.integers(1, 5)), draw(st.integers(1, 90))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    levels = draw(st.integers(1, 8))  # few levels: many ties
    scores = rng.integers(-levels, levels, (num_users, num_items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = -np.inf
    hidden = [set(np.flatnonzero(rng.random(num_items) < draw(st.sampled_from([0, 0.2, 1])))) for _ in range(num_users)]
    listed = [set(np.flatnonzero(rng.random(num_items) < 0.5)) for _ in range(num_users)]
    return scores, hidden, listed, draw(st.integers(1, 100)), draw(st.integers(1, 100))


@settings(deadline=None)
@given(worlds())
def test_equals_a_naive_sort_with_ties_for_any_tile_and_k(world):
    scores, hidden, listed, k, tile = world
    assert as_lists(ranked(scores, k, tile, hidden)) == naive(scores, k, hidden)
    assert as_lists(ranked(scores, k, tile, hidden, listed)) == naive(scores, k, hidden, listed)


@pytest.mark.parametrize("tile", [1000, 4096, 10_000])
def test_blocks_are_skipped_without_loss(tile):
    scores = RNG.normal(size=(7, 10_000)).astype(np.float32)
    hidden = [set(np.argsort(-row)[:5].tolist()) for row in scores]
    assert as_lists(ranked(scores, 30, tile, hidden)) == naive(scores, 30, hidden)


def test_empty_slots_hold_minus_one_and_minus_infinity():
    best = ranked(np.array([[3.0, 1.0, 2.0]]), 4, 2, [{0}])
    np.testing.assert_array_equal(best.items_BK, [[2, 1, -1, -1]])
    np.testing.assert_array_equal(best.scores_BK, [[2.0, 1.0, -np.inf, -np.inf]])


def test_a_nan_score_names_its_user_unless_hidden():
    scores = np.zeros((3, 100), np.float32)
    scores[1, 70] = np.nan
    for listed in (None, [{70}] * 3):
        with pytest.raises(DivergedError, match="user number 1"):
            ranked(scores, 2, 100, [set()] * 3, listed)
        ranked(scores, 2, 100, [set(), {70}, set()], listed)
    ranked(scores, 2, 100, [set()] * 3, [{1, 2}] * 3)


def test_contained_finds_listed_items_only():
    lists = ItemLists(csr_of([{1, 4, 7}, set(), {0}], 8), np.array([0, 1, 2, 0], np.int32))
    items = np.array([[7, 0, 4], [1, 2, -1], [0, 1, -1], [-1, -1, 1]], np.int32)
    np.testing.assert_array_equal(
        contained(items, lists), [[True, False, True], [False] * 3, [True, False, False], [False, False, True]]
    )


def test_shared_and_empty_lists():
    best = empty_lists(np.arange(2, dtype=np.int32), 3)
    scores = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)
    shared = ItemLists.shared(np.array([0, 2], np.int32), 2, 4)
    keep_best_listed(scores, 0, ItemLists.empty(2, 4), shared, best)
    np.testing.assert_array_equal(best.items_BK, [[2, 0, -1], [0, 2, -1]])
