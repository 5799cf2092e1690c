"""Lists under caps and with diversity, against a plain loop over the whole ranking."""

from __future__ import annotations

import numpy as np
import pytest

from gcnrec.ops.topk import TopK
from gcnrec.ranking.relist import Cap, Relist, pool

ITEMS = 60


def drawn(seed):
    draw = np.random.default_rng(seed)
    scores_UI = draw.integers(0, 30, (6, ITEMS)).astype(np.float32)
    groups = [draw.integers(-1, 4, ITEMS).astype(np.int32), draw.integers(-1, 9, ITEMS).astype(np.int32)]
    unit_IF = draw.normal(size=(ITEMS, 5)).astype(np.float32)
    return scores_UI, groups, unit_IF / np.linalg.norm(unit_IF, axis=1, keepdims=True)


def ranking(scores_I):
    order = np.lexsort([np.arange(len(scores_I)), -scores_I]).astype(np.int32)
    return order, scores_I[order]


def best_of(scores_UI, count):
    rows = [ranking(scores_I) for scores_I in scores_UI]
    items, scores = (np.array([row[at][:count] for row in rows]) for at in (0, 1))
    return TopK(np.arange(len(rows), dtype=np.int32), items, scores)


def fits(listed, item, caps):
    return all(groups[item] < 0 or sum(groups[other] == groups[item] for other in listed) < most for groups, most in caps)


def by_loop(scores_I, k, caps):
    """The ranking from its top on, an item at a time."""
    listed = []
    for item in ranking(scores_I)[0].tolist():
        if len(listed) < k and fits(listed, item, caps):
            listed.append(item)
    return listed


@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("count", [8, 25, ITEMS])
def test_caps_are_kept_and_nothing_else_is_left_out(which, most, count):
    """Also where the caps leave too few of the best items, or of all."""
    scores_UI, groups, _ = drawn(most)
    caps = [(groups[at], most + at) for at in which]
    relist = Relist(tuple(Cap(*cap) for cap in caps))
    made = relist.lists(best_of(scores_UI, count), 8, lambda row: ranking(scores_UI[row]))
    for row in range(len(scores_UI)):
        expected = by_loop(scores_UI[row], 8, caps)
        assert made.items_BK[row].tolist() == expected + [-1] * (8 - len(expected))
        filled = made.scores_BK[row, : len(expected)]
        assert filled.tolist() == scores_UI[row, expected].tolist() and np.all(made.scores_BK[row, len(expected) :] == -np.inf)


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("capped", [False, True])
def test_diversity_is_maximal_marginal_relevance(diversity, capped):
    scores_UI, groups, unit_IF = drawn(7)
    caps = [(groups[0], 2)] if capped else []
    relist = Relist(tuple(Cap(*cap) for cap in caps), diversity, unit_IF)
    made = relist.lists(best_of(scores_UI, 20), 6, lambda row: ranking(scores_UI[row]))
    for row in range(len(scores_UI)):
        items, scores = (part[:20] for part in ranking(scores_UI[row]))
        relevance = (scores - scores.min()) / (scores.max() - scores.min())
        listed, left = [], list(range(20))
        while len(listed) < 6 and left:
            likeness = [max((float(unit_IF[items[at]] @ unit_IF[other]) for other in listed), default=0.0) for at in left]
            values = [(1 - diversity) * relevance[at] - diversity * like for at, like in zip(left, likeness, strict=True)]
            at = left.pop(int(np.argmax(values)))
            if fits(listed, items[at], caps):
                listed.append(int(items[at]))
        assert made.items_BK[row, : len(listed)].tolist() == listed


def test_full_groups_are_left_at_once():
    """A list of one item of each kind among very many: in a fraction of a second, by the loop in minutes."""
    items = np.arange(200_000, dtype=np.int32)
    cap = Cap((items % 5).astype(np.int32), 1)
    best = TopK(np.zeros(30, np.int32), np.tile(items[:10], (30, 1)), np.zeros((30, 10), np.float32))
    made = Relist((cap,)).lists(best, 20, lambda row: (items, np.zeros(len(items), np.float32)))
    assert made.items_BK[:, :6].tolist() == [[0, 1, 2, 3, 4, -1]] * 30


def test_users_without_items_and_equal_scores_have_lists_too():
    none = TopK(np.zeros(1, np.int32), np.full((1, 3), -1, np.int32), np.full((1, 3), -np.inf, np.float32))
    unit = np.eye(4, dtype=np.float32)
    for relist in (Relist((Cap(np.zeros(4, np.int32), 1),)), Relist((), 0.5, unit)):
        assert relist.lists(none, 2, lambda row: pytest.fail("nothing is left")).items_BK.tolist() == [[-1, -1]]
    same = TopK(np.zeros(1, np.int32), np.array([[2, 0, 3]], np.int32), np.ones((1, 3), np.float32))
    unit[3] = unit[2]
    assert Relist((), 0.5, unit).lists(same, 3, lambda row: pytest.fail("all are there")).items_BK.tolist() == [[2, 0, 3]]


def test_a_pool_is_some_times_the_list_and_at_most_all():
    assert (pool(5, 1000), pool(50, 1000), pool(50, 90)) == (100, 250, 90)
