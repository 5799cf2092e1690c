"""Metrics of what training did not see, by hand; what a report shows of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from gcnrec.cold import cold_metrics
from gcnrec.graph import csr_from_edges
from gcnrec.interactions import Interactions, Vocabulary
from gcnrec.models.scorer import EmbeddingScorer
from gcnrec.show import metric_lines

TRAIN = [(0, 0), (0, 1), (1, 0), (1, 2)]
USERS, ITEMS = 3, 6  # user 2 and items 3, 4, 5 are cold
SCORES_UI = torch.tensor([[9.0, 8, 7, 6, 5, 4], [9, 8, 7, 4, 6, 5], [1, 2, 3, 4, 5, 6]])


def pairs(edges):
    users_E, items_E = (np.array(column, np.int32) for column in zip(*edges, strict=True))
    vocabularies = Vocabulary(pa.array(["a", "b", "c"])), Vocabulary(pa.array(range(ITEMS)))
    return Interactions(users_E, items_E, None, None, *vocabularies)


def measured(edges, ks=(1, 2)):
    seen = csr_from_edges(*(np.array(column, np.int32) for column in zip(*TRAIN, strict=True)), USERS, ITEMS)
    degrees_I = np.bincount([item for _, item in TRAIN], minlength=ITEMS)
    scorer = EmbeddingScorer(SCORES_UI, torch.eye(ITEMS))
    return cold_metrics(scorer, pairs(edges), seen, degrees_I, seen.degrees, ks)


def test_groups_by_hand():
    # Lists without what was seen: user 0: 2 3 4 5; user 1: 1 4 5 3; user 2: 5 4 3 2 1 0.
    found = measured([(0, 2), (0, 3), (1, 4), (1, 3), (2, 4), (2, 0)])
    assert list(found) == ["warm", "warm_apart", "cold_items", "cold_items_apart", "cold_users"]
    assert found["warm"] == {"users": 1, "pairs": 1, "recall@1": 1.0, "recall@2": 1.0, "ndcg@1": 1.0, "ndcg@2": 1.0}
    cold = found["cold_items"]
    assert (cold["users"], cold["pairs"]) == (3, 4)
    # At 2 among all: 3 for user 0 (1/1), 4 for user 1 (1/2), 4 for user 2 (1/1); at 1 nobody.
    assert cold["recall@1"] == 0.0 and cold["recall@2"] == pytest.approx((1 + 0.5 + 1) / 3)
    # Among 3, 4, 5 alone: user 0: 3 first; user 1: 4 5 3; user 2: 5 4 3.
    apart = found["cold_items_apart"]
    assert apart["recall@1"] == pytest.approx((1 + 0.5 + 0) / 3) and apart["recall@2"] == pytest.approx((1 + 0.5 + 1) / 3)
    second = 1 / np.log2(3)
    assert apart["ndcg@2"] == pytest.approx((1 + 1 / (1 + second) + second) / 3)
    assert (found["cold_users"]["users"], found["cold_users"]["recall@2"]) == (1, 0.5)


def test_nothing_to_tell_without_cold_nodes():
    assert measured([(0, 2), (1, 1)]) == {}


def test_a_group_without_pairs_is_left_out():
    assert list(measured([(0, 3)])) == ["cold_items", "cold_items_apart"]


def test_lines():
    lines = metric_lines({"split": "test", "recall@2": 0.5, "cold_start": measured([(0, 3)])})
    assert "cold_items: 1 users, 1 pairs" in lines
