"""Tilted recall and ndcg by hand, and against loops over lists in float64."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from gcnrec.graph import BipartiteGraph, csr_from_edges
from gcnrec.interactions import Interactions, MemoryVocabulary
from gcnrec.ops.topk import Seen
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, evaluate, metric_columns
from gcnrec.ranking.metrics import Judged
from gcnrec.ranking.pairs.tilt import Tilt
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import Here

USERS, ITEMS = 30, 50


def csr(pairs, users, items):
    columns = np.array(sorted(pairs), np.int32).T
    return csr_from_edges(columns[0], columns[1], users, items)


def test_two_users_by_hand():
    """Degrees 16, 4, 1, 0 with power 1/2 weigh 4, 2, 1, 1. User 0 holds out items 0, 1 and 3, user 2 holds out item 2."""
    held = csr({(0, 0), (0, 1), (0, 3), (2, 2)}, 3, 4)
    tilt = Tilt.of(held, np.array([16, 4, 1, 0]), 0.5, (1, 2))
    lists = np.array([[1, 0], [2, -1]], np.int32)
    judged = Judged(lists, np.array([[True, True], [True, False]]), np.array([3, 1]))
    mean = (7 / 3 + 1) / 2
    at_1, at_2 = (tilt.judge(judged, slice(0, 2), k) for k in (1, 2))
    assert at_1["recall_tilted@1"] == pytest.approx([2 / 7 * 7 / 3 / mean, 1 / mean])
    assert at_2["recall_tilted@2"] == pytest.approx([6 / 7 * 7 / 3 / mean, 1 / mean])
    assert at_1["ndcg_tilted@1"] == pytest.approx([2 / 4 * 7 / 3 / mean, 1 / mean])
    best = 4 + 2 / math.log2(3)
    assert at_2["ndcg_tilted@2"] == pytest.approx([(2 + 4 / math.log2(3)) / best * 7 / 3 / mean, 1 / mean])


@pytest.fixture(scope="module")
def world():
    """Embeddings, a train graph in which some items have no user, and held-out pairs of most users."""
    rng = np.random.default_rng(3)
    train = {(int(u), int(i)) for u, i in zip(rng.integers(0, USERS, 500), rng.integers(0, 40, 500) ** 2 // 40, strict=True)}
    held = {(int(u), int(i)) for u, i in zip(rng.integers(1, USERS, 150), rng.integers(0, ITEMS, 150), strict=True)} - train
    columns = np.array(sorted(train), np.int32).T
    graph = BipartiteGraph.from_edges(columns[0], columns[1], USERS, ITEMS)
    embeddings = [torch.from_numpy(rng.normal(size=(size, 3)).astype(np.float32)) for size in (USERS, ITEMS)]
    return EmbeddingScorer(*embeddings), graph, train, held


def judged(world, tilt, ks=(3, 20)):
    scorer, graph, _, held = world
    users, items = (np.ascontiguousarray(column) for column in np.array(sorted(held), np.int32).T)
    ids = [MemoryVocabulary(pa.array(np.arange(size))) for size in (USERS, ITEMS)]
    pairs = Interactions(users, items, None, None, *ids)
    return evaluate(
        scorer, HeldOutSplit.of(pairs, graph, Seen((graph.user_items,))), Measures(ks, resamples=20, tilt=tilt), ranker=Here(7)
    )


def naive(world, power, k):
    """Weighted means over users of recall and ndcg, by loops."""
    scorer, graph, train, held = world
    scores = (scorer.users_UD.double() @ scorer.items_ID.double().T).numpy()
    weights = [max(int(degree), 1) ** power for degree in graph.item_users.degrees]
    sums = np.zeros(3)
    for user in sorted({user for user, _ in held}):
        wanted = [item for one, item in held if one == user]
        listed = sorted((i for i in range(ITEMS) if (user, i) not in train), key=lambda i: (-scores[user, i], i))[:k]
        found = sum(weights[item] for item in listed if item in wanted)
        gained = sum(weights[item] / math.log2(rank + 2) for rank, item in enumerate(listed) if item in wanted)
        ideal = sum(w / math.log2(rank + 2) for rank, w in enumerate(sorted((weights[i] for i in wanted), reverse=True)[:k]))
        share = np.mean([weights[item] for item in wanted])
        sums += share * np.array([found / sum(weights[item] for item in wanted), gained / ideal, 1.0])
    return sums[:2] / sums[2]


@pytest.mark.parametrize("power", [0.15, 1.0])
def test_tilted_metrics_are_weighted_means_over_users(world, power):
    result = judged(world, power)
    for k in (3, 20):
        expected = naive(world, power, k)
        assert [result.metrics[f"recall_tilted@{k}"], result.metrics[f"ndcg_tilted@{k}"]] == pytest.approx(expected, abs=1e-12)
        low, high = result.intervals[f"recall_tilted@{k}"]
        assert low < result.metrics[f"recall_tilted@{k}"] < high
    assert "ndcg_tilted@20" in metric_columns(result.per_user)


def test_without_a_tilt_there_are_no_such_columns_and_the_others_stay(world):
    plain, tilted = judged(world, 0.0), judged(world, 0.5)
    assert not [name for name in plain.metrics if "tilted" in name]
    assert {name: tilted.metrics[name] for name in plain.metrics} == plain.metrics


def test_equal_degrees_change_nothing(world):
    _, _, _, held = world
    tilt = Tilt.of(csr(held, USERS, ITEMS), np.full(ITEMS, 5), 0.7, (4,))
    assert np.allclose(tilt.share_H, 1.0) and len(tilt.share_H) == len({user for user, _ in held})
