"""`pending` and `targetknn` on two behaviours, by hand and against dense NumPy; the rest reads the union."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gcnrec import config
from gcnrec.closed_forms import closed_form
from gcnrec.errors import DataError
from gcnrec.graph import Behaviour, BipartiteGraph

USERS, ITEMS = 30, 20


def graph_of(matrix):
    users, items = np.nonzero(matrix)
    return BipartiteGraph.from_edges(users.astype(np.int32), items.astype(np.int32), *matrix.shape)


def shop(seed=0, *, times=False):
    """A graph of purchases with views and carts, and their matrices."""
    rng = np.random.default_rng(seed)
    bought, viewed, carted = (rng.random((USERS, ITEMS)) < share for share in (0.1, 0.3, 0.1))
    others = []
    for name, matrix in (("view", viewed), ("cart", carted)):
        graph = graph_of(matrix)
        others.append(Behaviour(name, graph, rng.integers(50, size=graph.num_edges) if times else None))
    return replace(graph_of(bought), others=tuple(others)), bought, viewed, carted


def scores(name, graph, **settings):
    scorer = closed_form.fit(name, graph, config.Model(name=name, **settings), 0)
    return scorer.prepare(np.arange(USERS, dtype=np.int32)).numpy()


def test_pending_items_come_first_and_popular_ones_behind_them():
    graph, bought, viewed, carted = shop()
    popularity_I = bought.sum(0)
    found = scores("pending", graph)
    for user in range(USERS):
        pending = (viewed[user] | carted[user]) & ~bought[user]
        order = np.lexsort((np.arange(ITEMS), -popularity_I, ~pending))
        assert np.argsort(-found[user], kind="stable").tolist() == order.tolist()


def test_pending_lists_the_newest_first():
    graph, bought, *_ = shop(1, times=True)
    newest = np.full((USERS, ITEMS), -1)
    for other in graph.others:
        csr = other.graph.user_items
        np.maximum.at(newest, (csr.row_numbers(), csr.indices), other.times_E)
    newest[bought] = -1
    popularity_I = bought.sum(0)
    found = scores("pending", graph)
    for user in range(USERS):
        order = np.lexsort((np.arange(ITEMS), -popularity_I, -newest[user]))
        waiting = int((newest[user] >= 0).sum())
        assert np.argsort(-found[user], kind="stable")[:waiting].tolist() == order[:waiting].tolist()
        np.testing.assert_allclose(found[user][order[:waiting]], 1 / np.arange(1, waiting + 1), rtol=1e-6)


@pytest.mark.parametrize("shrink", [0.0, 2.0])
def test_targetknn_counts_who_took_an_item_of_those_who_met_another(shrink):
    graph, bought, viewed, carted = shop(2)
    met = (bought | viewed | carted).astype(np.float64)
    shared = met.T @ bought
    roots = np.sqrt(met.sum(0)[:, None] * bought.sum(0)[None, :])
    similar = np.divide(shared, roots + shrink, out=np.zeros_like(shared), where=roots + shrink > 0)
    np.fill_diagonal(similar, 0.0)
    np.testing.assert_allclose(scores("targetknn", graph, shrink=shrink), met @ similar, rtol=1e-5)


@pytest.mark.parametrize("name", ["itemknn", "linkprop", "gfcf", "ease"])
def test_other_closed_forms_read_all_behaviours_as_one_graph(name):
    graph, bought, viewed, carted = shop(3)
    assert np.array_equal(scores(name, graph), scores(name, graph_of(bought | viewed | carted)))


def test_popularity_counts_the_target():
    graph, bought, *_ = shop(4)
    out = torch.empty(1, ITEMS)
    scorer = closed_form.fit("popularity", graph, config.Model(), 0)
    scorer.score(scorer.prepare(np.zeros(1, np.int32)), 0, ITEMS, out)
    assert np.array_equal(out[0], bought.sum(0))


@pytest.mark.parametrize("name", closed_form.OF_BEHAVIOURS)
def test_what_was_saved_scores_alike(name, tmp_path):
    graph, *_ = shop(5, times=True)
    scorer = closed_form.fit(name, graph, config.Model(name=name), 0)
    closed_form.save(scorer, tmp_path / "model.safetensors")
    loaded = closed_form.load(name, graph, tmp_path / "model.safetensors")
    users = np.arange(USERS, dtype=np.int32)
    assert np.array_equal(loaded.prepare(users), scorer.prepare(users))
    with pytest.raises(DataError, match=r"must hold .*; fit the model again"):
        closed_form.load(name, BipartiteGraph.from_edges(*np.zeros((2, 0), np.int32), 3, 4), tmp_path / "model.safetensors")


def test_nothing_is_pending_for_users_behind_the_known_ones():
    graph, *_ = shop(6)
    scorer = closed_form.fit("pending", graph, config.Model(), 0)
    nobody, popular = scorer.prepare(np.array([USERS + 3], np.int32))[0], scorer.shares_I
    assert np.array_equal(nobody, popular) and popular.max() < 1e-6


def test_in_a_mixture_pending_has_no_say_where_nothing_is_pending(tmp_path):
    graph, bought, viewed, carted = shop(7)
    closed_form.save(closed_form.fit("pending", graph, config.Model(), 0), tmp_path / "pending.safetensors")
    found = closed_form.load_partner("pending", graph, tmp_path / "pending.safetensors").prepare(np.arange(USERS, dtype=np.int32))
    assert np.array_equal(found.numpy() > 0, (viewed | carted) & ~bought)


@pytest.mark.parametrize("name", closed_form.OF_BEHAVIOURS)
def test_a_graph_of_one_behaviour_is_refused(name):
    with pytest.raises(DataError, match="ingest with --behaviour and --target"):
        scores(name, graph_of(shop()[1]))
