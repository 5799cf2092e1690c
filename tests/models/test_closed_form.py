"""The baselines on a world of three users and three items, worked out by hand, and against dense formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec import config
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.models import closed_form, ease

WORLD = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0]])
"""Users in rows. Degrees of the items 3, 1, 1; of the users 2, 2, 1."""


def graph_of(matrix):
    users, items = np.nonzero(matrix)
    return BipartiteGraph.from_edges(users.astype(np.int32), items.astype(np.int32), *matrix.shape)


def random_matrix(users=40, items=30, seed=0):
    draw = np.random.default_rng(seed)
    matrix = (draw.random((users, items)) < draw.random(items) * 0.4).astype(int)
    matrix[5] = 0  # a user without train edges
    matrix[:, 7] = 0
    return matrix


def features(items=30, width=6):
    """For `contentknn`, the one that reads them."""
    return np.random.default_rng(1).standard_normal((items, width)).astype(np.float32)


def scores(scorer, tile=7):
    """Every score, by chunks of users and tiles of items; the target of a tile is a block of a wider matrix."""
    out = torch.full((scorer.num_users, scorer.num_items), torch.nan)
    for start in range(0, scorer.num_users, 16):
        users = np.arange(start, min(start + 16, scorer.num_users), dtype=np.int32)
        prepared = scorer.prepare(users)
        for first in range(0, scorer.num_items, tile):
            last = min(first + tile, scorer.num_items)
            scorer.score(prepared, first, last, out[start : start + 16, first:last])
    return out.numpy()


def fitted(name, matrix, **settings):
    return scores(closed_form.fit(name, graph_of(matrix), config.Model(name=name, **settings), seed=0))


def test_popularity_by_hand():
    assert fitted("popularity", WORLD).tolist() == [[3, 1, 1]] * 3


def test_itemknn_by_hand():
    """Items 0 and 1 share one user: 1 / (sqrt(3 * 1) + 1); items 1 and 2 share none."""
    s = 1 / (np.sqrt(3) + 1)
    expected = [[s, s, s], [s, s, s], [0, s, s]]
    np.testing.assert_allclose(fitted("itemknn", WORLD, shrink=1.0), expected, rtol=1e-6)


def test_itemknn_keeps_the_nearest_only():
    """With one neighbour item 0 keeps item 1: as near as item 2, and of smaller number."""
    s = 1 / np.sqrt(3)
    np.testing.assert_allclose(fitted("itemknn", WORLD, shrink=0.0, neighbours=1), [[s, s, 0], [s, s, 0], [0, s, 0]], rtol=1e-6)


@pytest.mark.parametrize("neighbours", [1, 4, 100])
def test_itemknn_against_dense(neighbours):
    matrix = random_matrix()
    shared, degrees = (matrix.T @ matrix).astype(float), matrix.sum(0)
    similarity = shared / (np.sqrt(np.outer(degrees, degrees)) + 2.5)
    np.fill_diagonal(similarity, 0)
    for row in similarity:
        row[np.argsort(-row, kind="stable")[neighbours:]] = 0
    np.testing.assert_allclose(
        fitted("itemknn", matrix, shrink=2.5, neighbours=neighbours), matrix @ similarity, rtol=1e-5, atol=1e-6
    )


def test_ease_by_hand():
    """Two users of two items, both of the first, one of the second: G = [[2, 1], [1, 1]] and regularisation 1 give
    P = [[2, -1], [-1, 3]] / 5, so the weights are -P_01 / P_11 = 1/3 and -P_10 / P_00 = 1/2."""
    np.testing.assert_allclose(
        fitted("ease", np.array([[1, 1], [1, 0]]), regularisation=1.0), [[1 / 2, 1 / 3], [0, 1 / 3]], rtol=1e-6
    )


def test_ease_against_dense(monkeypatch):
    monkeypatch.setattr(ease, "_ROWS", 8)
    matrix = random_matrix()
    inverse = np.linalg.inv(matrix.T @ matrix + 3.0 * np.eye(30))
    weights = np.eye(30) - inverse / np.diag(inverse)
    np.testing.assert_allclose(fitted("ease", matrix, regularisation=3.0), matrix @ weights, rtol=1e-4, atol=1e-5)


def test_ease_says_how_many_bytes_it_lacks(monkeypatch):
    monkeypatch.setattr(ease.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100})())
    with pytest.raises(DeviceError, match=r"3 x 3 items, 72 bytes.*50 bytes; use gfcf"):
        fitted("ease", WORLD)


def test_gfcf_by_hand():
    """One user, two items: N = [1/sqrt 2, 1/sqrt 2], so N'N is 1/2 everywhere and V V' too. The user's linear score is
    1/2 + 1/2, and with item degrees of 1 the low-pass part is 0.3 (1/2 + 1/2)."""
    np.testing.assert_allclose(fitted("gfcf", np.array([[1, 1]]), factors=1), [[1.3, 1.3]], rtol=1e-6)


@pytest.mark.parametrize("factors", [3, 200])
def test_gfcf_against_dense(factors):
    matrix = random_matrix()
    with np.errstate(divide="ignore"):
        user_scale, item_scale = matrix.sum(1) ** -0.5, matrix.sum(0) ** -0.5
    user_scale[np.isinf(user_scale)], item_scale[np.isinf(item_scale)] = 0, 0
    normalised = user_scale[:, None] * matrix * item_scale
    vectors = np.linalg.svd(normalised)[2][: min(factors, np.linalg.matrix_rank(normalised))]
    low = (matrix * item_scale) @ vectors.T @ vectors * np.sqrt(matrix.sum(0))
    expected = matrix @ normalised.T @ normalised + 0.7 * low
    np.testing.assert_allclose(fitted("gfcf", matrix, factors=factors, filter_weight=0.7), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", closed_form.NAMES)
def test_saved_and_loaded_scores_are_equal(name, tmp_path):
    graph = graph_of(random_matrix())
    scorer = closed_form.fit(name, graph, config.Model(name=name), 3, features())
    closed_form.save(scorer, tmp_path / "model.safetensors")
    loaded = closed_form.load(name, graph, tmp_path / "model.safetensors")
    assert (loaded.num_users, loaded.num_items) == (40, 30)
    assert np.array_equal(scores(loaded), scores(scorer))


@pytest.mark.parametrize("name", closed_form.NAMES)
def test_tiles_and_renumbered_items_give_the_same_scores(name):
    """Tile width changes nothing; exchanging item numbers exchanges the columns (all neighbours kept: no ties to break)."""
    matrix = random_matrix(seed=2)
    order = np.random.default_rng(0).permutation(30)
    settings = config.Model(name=name, factors=30)
    scorer = closed_form.fit(name, graph_of(matrix), settings, 0, features())
    assert np.array_equal(scores(scorer, tile=7), scores(scorer, tile=30))
    renumbered = closed_form.fit(name, graph_of(matrix[:, order]), settings, 0, features()[order])
    np.testing.assert_allclose(scores(renumbered), scores(scorer)[:, order], rtol=1e-3, atol=1e-4)


def test_unknown_name_and_damaged_file(tmp_path):
    graph = graph_of(WORLD)
    with pytest.raises(UsageError, match=r"got 'lightgcn'"):
        closed_form.fit("lightgcn", graph, config.Model(), seed=0)
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(b"not tensors")
    with pytest.raises(DataError, match="fit the model again"):
        closed_form.load("gfcf", graph, damaged)
    closed_form.save(closed_form.fit("popularity", graph, config.Model(), seed=0), damaged)
    with pytest.raises(DataError, match="'gfcf'"):
        closed_form.load("gfcf", graph, damaged)
