"""Mixtures against the formula in float64 NumPy, from the graph and the embeddings alone, and at the edges of what there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gcnrec import config
from gcnrec.closed_forms import closed_form
from gcnrec.closed_forms.mixture import BLOCK_USERS, MixtureScorer, Shares, Softmax
from gcnrec.errors import DivergedError
from gcnrec.graph import BipartiteGraph
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import top_k, top_k_all

TAU = 0.12
CLOSER = 1e-6
"""Pairs of scores nearer than this may swap places."""


def skewed(users, items, seed=0):
    """A 0/1 matrix with popular and unpopular items, a user without items and an item without users."""
    draw = np.random.default_rng(seed)
    matrix = (draw.random((users, items)) < 0.9 * draw.random(items) ** 4).astype(np.float64)
    matrix[users // 2], matrix[:, items // 2] = 0, 0
    return matrix


def graph_of(matrix):
    users, items = np.nonzero(matrix)
    return BipartiteGraph.from_edges(users.astype(np.int32), items.astype(np.int32), *matrix.shape)


def embeddings(matrix, width=8, seed=1):
    """Rows of unit length, and tau log degree."""
    draw = np.random.default_rng(seed)
    rows = [draw.standard_normal((count, width)) for count in matrix.shape]
    users, items = (torch.from_numpy((each / np.linalg.norm(each, axis=1, keepdims=True)).astype(np.float32)) for each in rows)
    return EmbeddingScorer(users, items, torch.from_numpy((TAU * np.log1p(matrix.sum(0))).astype(np.float32)))


def power(degrees, exponent):
    return np.where(degrees > 0, np.maximum(degrees, 1.0) ** exponent, 0.0)


def linkprop64(matrix):
    """r D^-.9 R' D_u^-1 R D^-.1 without its diagonal."""
    weights = matrix.T * power(matrix.sum(1), -1.0) @ matrix
    np.fill_diagonal(weights, 0)
    return matrix * power(matrix.sum(0), -0.9) @ weights * power(matrix.sum(0), -0.1)


def itemknn64(matrix):
    shared, degrees = matrix.T @ matrix, matrix.sum(0)
    similarity = shared / (np.sqrt(np.outer(degrees, degrees)) + 10.0)
    np.fill_diagonal(similarity, 0)
    return matrix @ similarity


def ease64(matrix):
    inverse = np.linalg.inv(matrix.T @ matrix + 200.0 * np.eye(matrix.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return matrix @ weights


ORACLES = {"linkprop": linkprop64, "itemknn": itemknn64, "ease": ease64}


def mixture64(trained, matrix, weights):
    """w P + sum of w_k Q_k in float64, from the embeddings and the matrix."""
    logits = trained.users_UD.double().numpy() @ trained.items_ID.double().numpy().T + trained.column_I.double().numpy()
    shares = np.exp((logits - logits.max(1, keepdims=True)) / TAU)
    scores = weights[0] * shares / shares.sum(1, keepdims=True)
    for oracle, weight in zip(ORACLES.values(), weights[1:], strict=True):
        positive = np.maximum(oracle(matrix), 0)
        total = positive.sum(1, keepdims=True)
        scores += weight * np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    return scores


def mixed(trained, matrix, weights, names=tuple(ORACLES)):
    graph = graph_of(matrix)
    settings = config.Model(neighbours=matrix.shape[1])
    partners = [Shares(closed_form.fit(name, graph, settings, 0)) for name in names]
    return MixtureScorer((Softmax(trained, TAU), *partners), weights)


def everyone(scorer):
    return np.arange(scorer.num_users, dtype=np.int32)


def assert_lists_follow(lists, scores, seen, k):
    """Every list is the best of `scores` beside the seen items, but for pairs that are closer than `CLOSER`."""
    hidden = np.where(seen > 0, -np.inf, scores)
    best = np.argsort(-hidden, axis=1, kind="stable")[:, :k]
    wanted, got = (np.take_along_axis(hidden, items, 1) for items in (best, np.maximum(lists.items_BK, 0)))
    assert ((lists.items_BK == best) | (np.abs(wanted - got) < CLOSER)).all()
    assert (lists.items_BK == best).mean() > 0.999


@pytest.mark.parametrize(("users", "items", "asked"), [(60, 50, 60), (400, 700, 200)])
def test_lists_are_those_of_the_formula_in_float64(users, items, asked):
    matrix = skewed(users, items)
    trained, weights = embeddings(matrix), (0.5, 1.0, 2.0, 0.25)
    scorer = mixed(trained, matrix, weights)
    scores = mixture64(trained, matrix, weights)
    chosen = everyone(scorer)[:: users // asked]
    np.testing.assert_allclose(scorer.prepare(chosen).numpy(), scores[chosen], rtol=3e-6, atol=1e-9)
    lists = top_k_all(scorer, chosen, 20, graph_of(matrix).user_items)
    assert_lists_follow(lists, scores[chosen], matrix[chosen], 20)


def test_gfcf_adds_its_positive_scores():
    """Each response, by its own scores: their formula has a test of its own."""
    matrix = skewed(60, 50)
    graph = graph_of(matrix)
    for response in ("ideal", "plateau"):
        gfcf = closed_form.fit("gfcf", graph, config.Model(factors=8, response=response), 0)
        scores = gfcf.prepare(np.arange(60, dtype=np.int32)).double().clamp_min(0).numpy()
        shares = scores / np.maximum(scores.sum(1, keepdims=True), 1e-300)
        found = MixtureScorer((Softmax(embeddings(matrix), TAU), Shares(gfcf)), (1.0, 3.0)).prepare(everyone(gfcf)).numpy()
        alone = MixtureScorer((Softmax(embeddings(matrix), TAU),), (1.0,)).prepare(everyone(gfcf)).numpy()
        np.testing.assert_allclose(found - alone, 3.0 * shares, rtol=1e-4, atol=1e-6)


def test_a_user_without_items_gets_the_trained_list():
    matrix = skewed(60, 50)
    trained = embeddings(matrix)
    for weight in (0.5, 0.0):
        lists = top_k_all(mixed(trained, matrix, (weight, 1.0, 1.0, 1.0)), np.array([30], np.int32), 10, None)
        assert lists.items_BK.tolist() == top_k_all(trained, np.array([30], np.int32), 10, None).items_BK.tolist()


def test_a_partner_without_any_score_changes_nothing():
    matrix = skewed(60, 50)
    trained, empty = embeddings(matrix), np.zeros_like(matrix)
    lists = top_k_all(mixed(trained, empty, (1.0, 2.0), names=["linkprop"]), np.arange(60, dtype=np.int32), 10, None)
    assert np.array_equal(lists.items_BK, top_k_all(trained, np.arange(60, dtype=np.int32), 10, None).items_BK)


def test_without_weight_the_trained_model_orders_what_partners_leave_at_zero():
    matrix = np.array([[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], np.float64)
    users = torch.ones(3, 1)
    trained = EmbeddingScorer(users, torch.tensor([[0.0], [0.0], [0.0], [0.1], [0.3], [0.2]]))
    lists = top_k_all(
        mixed(trained, matrix, (0.0, 1.0), names=["linkprop"]), np.array([0], np.int32), 4, graph_of(matrix).user_items
    )
    assert lists.items_BK.tolist() == [[2, 4, 5, 3]]


def test_ties_go_to_the_smaller_item():
    trained = EmbeddingScorer(torch.ones(20, 1), torch.zeros(30, 1))
    lists = top_k_all(MixtureScorer((Softmax(trained, TAU),), (1.0,)), np.arange(20, dtype=np.int32), 4, None)
    assert lists.items_BK.tolist() == [[0, 1, 2, 3]] * 20


@pytest.mark.parametrize("chunk", [1, 7, 15, BLOCK_USERS, BLOCK_USERS + 3])
def test_chunks_do_not_change_a_bit(chunk, threads):
    matrix = skewed(290, 70)
    scorer = mixed(embeddings(matrix), matrix, (0.5, 1.0, 1.0, 2.0))
    whole = top_k_all(scorer, everyone(scorer), 9, None)
    threads(1)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = list(top_k(scorer, everyone(scorer), 9, None, users_per_chunk=chunk))
    finally:
        torch.set_num_threads(torch_threads)
    for name in ("items_BK", "scores_BK"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    matrix = skewed(60, 50)
    trained = embeddings(matrix)
    broken = replace(trained, users_UD=trained.users_UD.clone())
    broken.users_UD[3, 0] = bad
    with pytest.raises(DivergedError, match="user number 3"):
        top_k_all(mixed(broken, matrix, (1.0, 1.0), names=["linkprop"]), np.arange(60, dtype=np.int32), 5, None)
    with pytest.raises(DivergedError, match="user number 3"):
        top_k_all(MixtureScorer((Softmax(trained, TAU), Shares(broken)), (1.0, 1.0)), np.arange(60, dtype=np.int32), 5, None)


def test_one_user_and_one_item():
    one = EmbeddingScorer(torch.ones(1, 2), torch.ones(1, 2))
    scorer = MixtureScorer((Softmax(one, TAU), Shares(one)), (1.0, 0.5))
    lists = top_k_all(scorer, np.zeros(1, np.int32), 5, None)
    assert lists.items_BK.tolist() == [[0, -1, -1, -1, -1]] and lists.scores_BK[0, 0] == 1.5
    assert len(scorer.prepare(np.empty(0, np.int32))) == 0


def test_scores_far_apart_stay_probabilities():
    """A logit range of 2,000 temperatures leaves float32; the least items get no less than nothing, the sum is the weight."""
    wide = EmbeddingScorer(torch.ones(16, 1), torch.linspace(-120, 120, 40)[:, None])
    scores = MixtureScorer((Softmax(wide, TAU),), (0.5,)).prepare(np.arange(16, dtype=np.int32)).numpy()
    assert (scores >= 0).all() and scores.sum(1) == pytest.approx(0.5, rel=1e-6)
