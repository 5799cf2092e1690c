"""The search of parts and weights, on models whose use is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gcnrec.closed_forms import mixing
from gcnrec.closed_forms.mixing import GRID, chosen, judge_of, looked_at, weighed
from gcnrec.closed_forms.mixture import MixtureScorer, Shares, Softmax
from gcnrec.graph import csr_from_edges
from gcnrec.ops.topk import ItemLists, Seen, contained
from gcnrec.ranking import metrics
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import top_k_all

USERS, ITEMS = 200, 300


def crowd(seed=0):
    """Users who like items by two tastes, and models that know one taste each, both, or nothing."""
    draw = np.random.default_rng(seed)
    users, items = draw.standard_normal((USERS, 6)), draw.standard_normal((ITEMS, 6))
    liked = np.argsort(-(users @ items.T + draw.gumbel(size=(USERS, ITEMS)) * 2), axis=1)[:, :12]
    pairs = np.repeat(np.arange(USERS), 12).astype(np.int32), liked.ravel().astype(np.int32)
    even = np.tile(np.arange(12) % 3 == 0, USERS)
    held, seen = (csr_from_edges(pairs[0][part], pairs[1][part], USERS, ITEMS) for part in (even, ~even))
    return users.astype(np.float32), items.astype(np.float32), held, Seen((seen,))


def knowing(users, items, columns, scale=1.0):
    return EmbeddingScorer(
        *(torch.from_numpy(np.ascontiguousarray(each[:, columns]) * np.float32(scale)) for each in (users, items))
    )


@pytest.fixture(scope="module")
def world():
    users, items, held, seen = crowd()
    noise = np.random.default_rng(9).standard_normal((USERS + ITEMS, 3)).astype(np.float32)
    first, second = knowing(users, items, slice(0, 3)), knowing(users, items, slice(3, 6))
    return {
        "trained": Softmax(first, 1.0), "partner": Shares(second), "silent": Shares(knowing(users, items, slice(0, 3), 0.0)),
        "noise": Shares(knowing(noise[:USERS], noise[USERS:], slice(0, 3))), "held": held, "seen": seen,
    }  # fmt: skip


def judge(world, *names, metric="recall@5"):
    parts = tuple(world[name] for name in names)
    return judge_of(parts, world["held"], world["seen"], metric), parts


@pytest.mark.parametrize("metric", [f"{name}@5" for name in metrics.PER_USER])
def test_a_trial_is_worth_what_evaluation_finds(world, metric):
    """Over all items, for every user, whatever the weights; a weight of 0 of the trained part included."""
    judging, parts = judge(world, "trained", "partner", "silent", metric=metric)
    users = looked_at(world["held"])
    for weights in [(1.0, 1.0, 1.0), (0.25, 2.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]:
        lists = top_k_all(MixtureScorer(parts, weights), users, 5, world["seen"])
        hits = contained(lists.items_BK, ItemLists(world["held"], users))
        judged = metrics.Judged(lists.items_BK, hits, world["held"].degrees[users])
        assert np.array_equal(judging.values(weights), metrics.PER_USER[metric.partition("@")[0]](judged, 5)), weights


def test_weights_of_two_parts_are_the_best_of_the_grid(world):
    judging, _ = judge(world, "trained", "partner")
    found = weighed(judging, 2)
    values = {(weight, 1.0): judging.values((weight, 1.0)).mean() for weight in GRID}
    assert found.value == max(values.values()) == values[found.weights]
    assert found.alone == (judging.values((1.0, 0.0)).mean(), judging.values((0.0, 1.0)).mean())


def test_no_single_weight_of_three_parts_can_be_changed_for_the_better(world):
    judging, _ = judge(world, "trained", "partner", "noise")
    found = weighed(judging, 3)
    assert found.weights[1] == 1.0 and set(found.weights) <= set(GRID)
    for part, weight in itertools.product((0, 2), GRID):
        other = (*found.weights[:part], weight, *found.weights[part + 1 :])
        assert judging.values(other).mean() <= found.value


def test_parts_that_add_nothing_are_left_out(world):
    judging, _ = judge(world, "trained", "silent", "partner", "noise")
    found = chosen(judging, 4)
    assert found.weights[0] and found.weights[2] and not found.weights[1] and not found.weights[3]
    assert found.value > max(found.alone) and found.trials < 60


def test_a_trained_model_that_knows_nothing_is_left_out(world):
    noise = Softmax(world["noise"].scorer, 1.0)
    judging = judge_of((noise, world["partner"], world["silent"]), world["held"], world["seen"], "ndcg@10")
    assert chosen(judging, 3).weights == (0.0, 1.0, 0.0)


def test_of_equal_parts_the_first_alone_is_chosen(world):
    judging, _ = judge(world, "silent", "silent", "silent")
    assert chosen(judging, 3).weights == (1.0, 0.0, 0.0)
    assert weighed(judging, 3).weights == (1.0, 1.0, 1.0)


def test_a_part_replaces_the_first_only_with_proof():
    """Three of five users are won and two lost: the mean is better, and noise."""
    items, users = torch.eye(2), 5
    liked = np.array([0, 0, 1, 1, 1], np.int32)
    held = csr_from_edges(np.arange(users, dtype=np.int32), liked, users, 2)
    first, second = (EmbeddingScorer(torch.eye(2)[[item] * users], items) for item in (0, 1))
    judging = judge_of((Softmax(first, 1.0), Shares(second)), held, Seen(()), "recall@1")
    assert judging.values((0.0, 1.0)).mean() == pytest.approx(0.6) and judging.values((1.0, 0.0)).mean() == pytest.approx(0.4)
    assert chosen(judging, 2).weights == (1.0, 0.0)
    one = csr_from_edges(np.zeros(1, np.int32), np.ones(1, np.int32), users, 2)
    assert chosen(judge_of((Softmax(first, 1.0), Shares(second)), one, Seen(()), "recall@1"), 2).weights == (1.0, 0.0)


def test_more_users_than_are_looked_at_are_spread_evenly(world, monkeypatch):
    monkeypatch.setattr(mixing, "MOST_USERS", 40)
    users = looked_at(world["held"])
    assert len(users) == 40 and (users[0], users[-1]) == (0, USERS - 1) and (np.diff(users) >= 4).all()
    assert judge(world, "trained", "partner")[0].num_users == 40


def test_the_search_does_not_depend_on_threads_or_chunks(world, threads, monkeypatch):
    whole = chosen(judge(world, "trained", "partner", "noise")[0], 3)
    monkeypatch.setattr(mixing, "BLOCK_USERS", 16)
    threads(1)
    assert chosen(judge(world, "trained", "partner", "noise")[0], 3) == whole


def test_one_user_and_one_item():
    one = EmbeddingScorer(torch.ones(1, 2), torch.ones(1, 2))
    held = csr_from_edges(np.zeros(1, np.int32), np.zeros(1, np.int32), 1, 1)
    judging = judge_of((Softmax(one, 1.0), Shares(one)), held, Seen(()), "recall@5")
    assert chosen(judging, 2).weights == (1.0, 0.0) and judging.values((1.0, 0.0)).tolist() == [1.0]
