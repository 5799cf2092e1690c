"""Content neighbours against a loop over all pairs of items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.closed_forms import closed_form, itemknn
from gcnrec.config import Model
from gcnrec.errors import DataError
from gcnrec.testing import empty_rows


def scores_of(scorer, num_users, num_items):
    users = np.arange(num_users, dtype=np.int32)
    out = torch.empty(num_users, num_items)
    scorer.score(scorer.prepare(users), 0, num_items, out)
    return out.numpy()


@pytest.mark.parametrize("rows", [512, 2])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_equals_the_loop(monkeypatch, count, rows):
    monkeypatch.setattr(itemknn, "_ROWS", rows)
    graph = empty_rows().graph  # item 3 has no edge, and is a neighbour all the same
    features = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    features[1] = 0.0  # without features: similar to none
    expected = np.zeros((4, 4))
    for user in range(4):
        for item in graph.user_items.row(user):
            norms = np.linalg.norm(features, axis=1) * max(np.linalg.norm(features[item]), 1e-12)
            cosines = features @ features[item] / np.maximum(norms, 1e-12)
            cosines[item] = 0.0
            for other in np.argsort(-cosines)[:count]:
                expected[user, other] += max(cosines[other], 0.0)
    scorer = itemknn.fit_content(graph, Model(neighbours=count), features)
    assert scores_of(scorer, 4, 4) == pytest.approx(expected, abs=1e-6)


def test_by_name_and_back(tmp_path):
    graph, features = empty_rows().graph, np.eye(4, dtype=np.float32) + 0.1
    scorer = closed_form.fit("contentknn", graph, Model(), 0, features)
    closed_form.save(scorer, tmp_path / "model.safetensors")
    again = closed_form.load("contentknn", graph, tmp_path / "model.safetensors")
    assert np.array_equal(scores_of(scorer, 4, 4), scores_of(again, 4, 4))
    with pytest.raises(DataError, match="the data has none; ingest with --item-features"):
        closed_form.fit("contentknn", graph, Model(), 0)
