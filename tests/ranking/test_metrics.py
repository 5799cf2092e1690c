"""Every metric against a hand-computed example, a plain loop and, where it knows the metric, trec_eval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.ranking.metrics import (
    PER_USER,
    Judged,
    bootstrap_intervals,
    coverage,
    gini,
    holm,
    long_tail,
    measured,
    novelty,
    self_information,
    sign_flip_p_values,
    split_name,
)

# One user, 4 held-out items, hits at ranks 1, 3 and 4 of a list of 5.
HAND = Judged(np.array([[7, 2, 9, 4, 1]], np.int32), np.array([[True, False, True, True, False]]), np.array([4]))
BY_HAND = {
    ("recall", 3): 2 / 4,
    ("recall_capped", 3): 2 / 3,
    ("precision", 3): 2 / 3,
    ("hit_rate", 3): 1.0,
    ("mrr", 3): 1.0,
    ("map", 3): (1 / 1 + 2 / 3) / 3,
    ("ndcg", 3): (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2),
    ("recall", 5): 3 / 4,
    ("recall_capped", 5): 3 / 4,
    ("precision", 5): 3 / 5,
    ("map", 5): (1 / 1 + 2 / 3 + 3 / 4) / 4,
    ("ndcg", 5): (1 + 1 / 2 + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)),
    ("recall", 10): 3 / 4,  # the list has only 5
    ("precision", 10): 3 / 10,
    ("ndcg", 10): (1 + 1 / 2 + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)),
}


@pytest.mark.parametrize(("name", "k"), BY_HAND)
def test_hand_computed(name, k):
    assert PER_USER[name](HAND, k) == pytest.approx([BY_HAND[name, k]], abs=1e-15)


def test_first_hit_late_and_no_hit():
    judged = Judged(np.zeros((2, 4), np.int32), np.array([[False, False, False, True], [False] * 4]), np.array([1, 9]))
    np.testing.assert_allclose(PER_USER["mrr"](judged, 4), [1 / 4, 0])
    np.testing.assert_allclose(PER_USER["mrr"](judged, 3), [0, 0])
    for name in PER_USER:
        assert PER_USER[name](judged, 4)[1] == 0


def test_novelty_by_hand():
    # 8 users; items with 4, 1 and 0 train users carry 1, 3 and (as if one) 3 bits
    information = self_information(np.array([4, 1, 0]), 8)
    np.testing.assert_allclose(information, [1.0, 3.0, 3.0])
    judged = Judged(np.array([[0, 1], [0, -1], [-1, -1], [2, 0]], np.int32), np.zeros((4, 2), bool), np.ones(4, int))
    np.testing.assert_allclose(novelty(judged, 2, information[judged.items_BK]), [2.0, 1.0, 0.0, 2.0])
    np.testing.assert_allclose(novelty(judged, 1, information[judged.items_BK]), [1.0, 1.0, 0.0, 3.0])


def test_coverage_and_gini_by_hand():
    assert coverage(np.array([3, 0, 1, 0])) == 0.5
    assert gini(np.array([5, 5, 5])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert gini(np.array([1, 3])) == pytest.approx(1 / 4)  # |1-3| + |3-1| over 2 * 2 * 4
    assert gini(np.array([0, 0])) == 0.0


def test_the_long_tail_by_hand():
    """Of six items, ceil(1.2) = 2 are the head: the one with 9 users, and of the two with 5 the first."""
    degrees_I = np.array([1, 5, 0, 9, 5, 2])
    assert long_tail(np.array([1, 2, 0, 4, 3, 0]), degrees_I) == pytest.approx(4 / 10)
    assert long_tail(np.array([0, 3, 0, 0, 0, 0]), degrees_I) == 0.0
    assert long_tail(np.zeros(6, np.int64), degrees_I) == 0.0


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=20).filter(any))
def test_gini_is_the_mean_absolute_difference(exposure):
    x = np.array(exposure)
    expected = np.abs(x[:, None] - x[None, :]).sum() / (2 * len(x) * x.sum())
    assert gini(x) == pytest.approx(expected, abs=1e-12)


@st.composite
def rankings(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_users, num_items, width = draw(st.integers(1, 6)), draw(st.integers(1, 30)), draw(st.integers(1, 30))
    width = min(width, num_items)
    items = np.array([rng.permutation(num_items)[:width] for _ in range(num_users)], np.int32)
    held_out = [set(rng.permutation(num_items)[: rng.integers(1, num_items + 1)].tolist()) for _ in range(num_users)]
    hits = np.array([[item in held for item in row] for row, held in zip(items.tolist(), held_out, strict=True)])
    return items, held_out, Judged(items, hits, np.array([len(held) for held in held_out]))


def trec(items, held_out, k):
    """trec_eval's values per user and metric; scores fall strictly, so that its tie rule never acts."""
    import pytrec_eval

    run = {
        str(u): {f"i{item}": float(len(row) - rank) for rank, item in enumerate(row[:k].tolist())} for u, row in enumerate(items)
    }
    qrels = {str(u): {f"i{item}": 1 for item in held} for u, held in enumerate(held_out)}
    names = {f"recall.{k}", f"ndcg_cut.{k}", f"P.{k}", f"success.{k}", f"map_cut.{k}", "recip_rank"}
    found = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    keys = {"recall": f"recall_{k}", "ndcg": f"ndcg_cut_{k}", "precision": f"P_{k}", "hit_rate": f"success_{k}",
            "map": f"map_cut_{k}", "mrr": "recip_rank"}  # fmt: skip
    return {name: np.array([found[str(u)][key] for u in range(len(items))]) for name, key in keys.items()}


@settings(deadline=None, max_examples=60)
@given(rankings(), st.integers(1, 35))
def test_agrees_with_trec_eval(world, k):
    items, held_out, judged = world
    for name, expected in trec(items, held_out, k).items():
        if name == "map":  # trec_eval divides by all held-out items
            expected = expected * judged.num_held_out_B / np.minimum(judged.num_held_out_B, k)
        np.testing.assert_allclose(PER_USER[name](judged, k), expected, rtol=0, atol=1e-9, err_msg=name)


def test_agrees_with_ir_measures():
    import ir_measures
    from ir_measures import AP, RR, P, R, Success, nDCG

    rng = np.random.default_rng(5)
    items = np.array([rng.permutation(60)[:20] for _ in range(40)], np.int32)
    held_out = [set(rng.permutation(60)[: rng.integers(1, 25)].tolist()) for _ in range(40)]
    hits = np.array([[item in held for item in row] for row, held in zip(items.tolist(), held_out, strict=True)])
    judged = Judged(items, hits, np.array([len(held) for held in held_out]))
    run = [ir_measures.ScoredDoc(str(u), f"i{item}", 20.0 - r) for u, row in enumerate(items) for r, item in enumerate(row)]
    qrels = [ir_measures.Qrel(str(u), f"i{item}", 1) for u, held in enumerate(held_out) for item in held]
    for k in (1, 5, 20):
        measures = {"recall": R @ k, "precision": P @ k, "hit_rate": Success @ k, "ndcg": nDCG @ k, "mrr": RR @ k, "map": AP @ k}
        values = {name: np.zeros(40) for name in measures}
        names = {measure: name for name, measure in measures.items()}
        for metric in ir_measures.iter_calc(list(measures.values()), qrels, run):
            values[names[metric.measure]][int(metric.query_id)] = metric.value
        values["map"] *= judged.num_held_out_B / np.minimum(judged.num_held_out_B, k)
        for name, expected in values.items():
            np.testing.assert_allclose(PER_USER[name](judged, k), expected, rtol=0, atol=1e-9, err_msg=f"{name}@{k}")


def test_bootstrap_covers_the_mean_and_is_repeatable():
    values = np.random.default_rng(1).normal(3.0, 2.0, (400, 2))
    values[:, 1] = 7.0
    low, high = bootstrap_intervals(values, 800, seed=3)
    standard_error = values[:, 0].std() / math.sqrt(400)
    # percentile ends of a mean of 400 normals: 1.96 standard errors, themselves known to about 7 % from 800 resamples
    assert (values[:, 0].mean() - low[0]) / standard_error == pytest.approx(1.96, rel=0.2)
    assert (high[0] - values[:, 0].mean()) / standard_error == pytest.approx(1.96, rel=0.2)
    assert low[1] == high[1] == pytest.approx(7.0)
    again = bootstrap_intervals(values, 800, seed=3)
    np.testing.assert_array_equal(low, again[0])
    assert (bootstrap_intervals(values, 800, seed=4)[0][0]) != low[0]


def test_sign_flip_equals_full_enumeration():
    differences = np.array([0.5, -0.25, 1.0, 0.75, 0.0, 0.5, 0.25, -0.5])[:, None]
    signs = np.array(np.meshgrid(*[[1, -1]] * 8)).reshape(8, -1)
    exact = (np.abs(differences[:, 0] @ signs) >= abs(differences.sum()) - 1e-12).mean()
    # 20 000 flips: standard error below 0.0036
    assert sign_flip_p_values(differences, 20_000, seed=0)[0] == pytest.approx(exact, abs=0.015)


def test_sign_flip_of_no_difference_and_of_a_clear_one():
    values = np.zeros((50, 2))
    values[:, 1] = 1.0
    np.testing.assert_allclose(sign_flip_p_values(values, 999, seed=0), [1.0, 1 / 1000])
    assert sign_flip_p_values(np.zeros((3, 1)), 99, seed=0)[0] == 1.0


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])


def test_the_metrics_of_a_document_are_its_numbers_with_a_list_length():
    document = {"split": "test", "users": 7, "recall@20": 1, "intervals": {}, "hits@5": None, "ndcg@5": 0.5}
    assert list(measured(document).items()) == [("recall@20", 1.0), ("ndcg@5", 0.5)]
    assert split_name("recall_capped@50") == ("recall_capped", 50)


@pytest.mark.parametrize("name", PER_USER)
def test_a_k_beyond_all_items_takes_no_more_memory_than_all(name):
    """One user with 2 held-out items among 3, listed at ranks 1 and 3: lists of a billion are lists of 3."""
    judged = Judged(np.array([[0, 1, 2]], np.int32), np.array([[True, False, True]]), np.array([2]))
    expected = {
        "recall": 1.0, "recall_capped": 1.0, "ndcg": (1 + 1 / 2) / (1 + 1 / math.log2(3)), "precision": 2 / 999_999_999,
        "hit_rate": 1.0, "mrr": 1.0, "map": (1 / 1 + 2 / 3) / 2,
    }  # fmt: skip
    assert PER_USER[name](judged, 999_999_999) == pytest.approx([expected[name]], rel=1e-12)


def test_what_is_called_like_a_metric_is_none():
    document = {"recall@20": 0.5, "recall@1\u0662": 0.5, "recall@": 0.5, "recall@x": 0.5, "a@" + "9" * 30: 0.5, "ndcg@5": "0.5"}
    assert measured(document) == {"recall@20": 0.5}
