"""The baselines on a world of three users and three items, worked out by hand, and against dense formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gcnrec import config
from gcnrec.closed_forms import closed_form, ease, gfcf
from gcnrec.closed_forms.plateau import plateau
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.graph import BipartiteGraph

WORLD = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0]])
"""Users in rows. Degrees of the items 3, 1, 1; of the users 2, 2, 1."""
OF_ONE = [name for name in closed_form.NAMES if name not in closed_form.OF_BEHAVIOURS]
SETTINGS = [*((name, {}) for name in OF_ONE), ("gfcf", {"response": "plateau"}), ("gfcf", {"response": "polynomial"})]


def scale(degrees, exponent):
    return np.where(degrees > 0, np.maximum(degrees, 1.0) ** exponent, 0.0)


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


def test_ease_refuses_a_catalogue_that_is_too_large(monkeypatch):
    monkeypatch.setattr(ease, "MAX_ITEMS", 3)
    with pytest.raises(DeviceError, match=r"fewer than 3 items, got 3; use gfcf"):
        fitted("ease", WORLD)


def test_linkprop_by_hand():
    """Users 0 and 1 of two items each link item 0 with 1 and with 2, both by 1/2; user 2 has item 0 alone and adds nothing.

    With source power 1 item 0 says a third of that, items 1 and 2 all of it; a target power of 1 divides by the other degree."""
    plain = {"source_power": 0.0, "target_power": 0.0}
    np.testing.assert_allclose(fitted("linkprop", WORLD, **plain), [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0.5, 0.5]], rtol=1e-6)
    given = {"source_power": 1.0, "target_power": 0.0, "sharpness": 2.0}
    np.testing.assert_allclose(fitted("linkprop", WORLD, **given)[2], [0, 1 / 36, 1 / 36], rtol=1e-6)
    np.testing.assert_allclose(fitted("linkprop", WORLD, source_power=0.0, target_power=1.0)[0], [1 / 6, 0.5, 0.5], rtol=1e-6)


def test_linkprop_with_the_exponents_of_gfcf_is_its_linear_filter():
    matrix = random_matrix()
    normalised = scale(matrix.sum(1), -0.5)[:, None] * matrix * scale(matrix.sum(0), -0.5)
    linear = normalised.T @ normalised
    np.fill_diagonal(linear, 0)
    halves = fitted("linkprop", matrix, source_power=0.5, target_power=0.5)
    np.testing.assert_allclose(halves, matrix @ linear, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("response", ["plateau", "polynomial"])
def test_gfcf_by_other_responses_against_dense(response):
    """`plateau` with every vector and every neighbour is exact, but for the diagonal of its linear part: items a user has."""
    matrix = random_matrix()
    items = matrix.sum(0)
    normalised = scale(matrix.sum(1), -0.5)[:, None] * matrix * scale(items, -0.5)
    singular, vectors = np.linalg.svd(normalised)[1:]
    values, rank = np.append(singular, [0] * 30)[:30] ** 2, np.linalg.matrix_rank(normalised)
    if response == "plateau":
        response_K = plateau(values) + 0.2
        response_K[rank:] = 0
        diagonal = 1.45 * np.diag((normalised**2).sum(0))
    else:
        fitted_curve = np.polynomial.chebyshev.Chebyshev.interpolate(plateau, 5, [0, 1])
        response_K, diagonal = fitted_curve(values), 0.0
        response_K[rank:] = fitted_curve(0.0)
    filter_II = scale(items, -0.3)[:, None] * (vectors.T * response_K @ vectors - diagonal) * scale(items, 0.3)
    given = fitted("gfcf", matrix, response=response, filter_power=0.3, filter_order=5)
    np.testing.assert_allclose(given, matrix @ filter_II, rtol=1e-3, atol=1e-4)


def test_a_few_vectors_of_the_plateau_come_near_to_all():
    """What the table of co-occurrences leaves to smaller eigenvalues is small: its slope is that of the response there."""
    matrix = (np.random.default_rng(4).random((400, 60)) < np.linspace(0.5, 0.05, 60)).astype(int)
    few, all_of_them = (fitted("gfcf", matrix, response="plateau", filter_weight=0.0, factors=factors) for factors in (6, 60))
    assert np.abs(few - all_of_them).max() < 0.02 * np.abs(all_of_them).max()


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_saved_and_loaded_scores_are_equal(name, settings, tmp_path):
    graph = graph_of(random_matrix())
    scorer = closed_form.fit(name, graph, config.Model(name=name, **settings), 3, features())
    closed_form.save(scorer, tmp_path / "model.safetensors")
    loaded = closed_form.load(name, graph, tmp_path / "model.safetensors")
    assert (loaded.num_users, loaded.num_items) == (40, 30)
    assert np.array_equal(scores(loaded), scores(scorer))


def test_files_of_earlier_versions_still_load(tmp_path):
    """gfcf's tensors had these names before it had responses, and itemknn's before rows were compressed."""
    graph, vectors, path = graph_of(WORLD), torch.tensor([[0.6], [0.0], [0.8]]), tmp_path / "model.safetensors"
    save_file({"vectors": vectors, "weight": torch.tensor(0.3, dtype=torch.float64)}, path)
    loaded = closed_form.load("gfcf", graph, path)
    assert isinstance(loaded, gfcf.GfcfScorer)
    assert (loaded.vectors_IK.tolist(), loaded.weight) == (vectors.tolist(), 0.3)
    neighbours = torch.tensor([[1, 2], [0, -1], [0, -1]], dtype=torch.int32)
    save_file({"neighbours": neighbours, "similarity": torch.tensor([[0.5, 0.25], [0.5, 0.0], [0.25, 0.0]])}, path)
    assert scores(closed_form.load("itemknn", graph, path)).tolist() == [[0.5, 0.5, 0.25], [0.25, 0.5, 0.25], [0, 0.5, 0.25]]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_loaded_tensors_stay_in_their_file(tmp_path):
    graph, path = graph_of(random_matrix()), tmp_path / "model.safetensors"
    closed_form.save(closed_form.fit("gfcf", graph, config.Model(response="plateau"), 0), path)
    loaded = closed_form.load("gfcf", graph, path)
    assert str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert np.isfinite(scores(loaded)).all()


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_tiles_and_renumbered_items_give_the_same_scores(name, settings):
    """Tile width changes nothing; exchanging item numbers exchanges the columns (all neighbours kept: no ties to break)."""
    matrix = random_matrix(seed=2)
    order = np.random.default_rng(0).permutation(30)
    settings = config.Model(name=name, factors=30, **settings)
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


ROWS = {"indptr": torch.tensor([0, 1, 2, 2]), "indices": torch.tensor([1, 0], dtype=torch.int32), "values": torch.ones(2)}
NEAR = {"neighbours": torch.tensor([[1], [0], [-1]], dtype=torch.int32), "similarity": torch.ones(3, 1)}


@pytest.mark.parametrize(
    ("name", "tensors", "expected"),
    [
        ("itemknn", {**NEAR, "neighbours": torch.tensor([[1], [3], [0]], dtype=torch.int32)}, r"in -1 \.\. 2, holds 0 \.\. 3"),
        ("contentknn", {**NEAR, "neighbours": torch.tensor([[-2], [0], [0]], dtype=torch.int32)}, r"holds -2 \.\. 0"),
        ("itemknn", {**NEAR, "similarity": torch.ones(3, 2)}, "'similarity' of torch.float32, 3 x 1; holds 3 x 2"),
        ("itemknn", {"neighbours": NEAR["neighbours"]}, "must hold the tensors of 'itemknn' .*, holds neighbours;"),
        ("linkprop", {**ROWS, "indptr": torch.tensor([0, 2**45, 2, 2])}, "indptr must rise from 0 to 2; fit the model again"),
        ("linkprop", {**ROWS, "indices": torch.tensor([1, 3], dtype=torch.int32)}, r"columns must ascend within 0 \.\. 2; fit"),
        ("linkprop", {**ROWS, "values": torch.ones(3)}, "'values' of torch.float32, 2; holds 3"),
        ("popularity", {"degrees": torch.ones(4)}, "'degrees' of torch.float32, 3; holds 4"),
        (
            "ease",
            {"weights": torch.ones(3, 3, dtype=torch.float64)},
            "'weights' of torch.float32, 3 x 3; holds 3 x 3 of",
        ),
        (
            "gfcf",
            {"vectors": torch.ones(3, 2), "weight": torch.ones(1, dtype=torch.float64)},
            "'weight' .* one value; holds 1",
        ),
    ],
)
def test_tensors_that_would_lead_a_kernel_astray_are_refused(tmp_path, name, tensors, expected):
    graph = BipartiteGraph.from_edges(np.array([0, 0, 1], np.int32), np.array([0, 1, 2], np.int32), 2, 3)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=expected):
        closed_form.load(name, graph, tmp_path / "model.safetensors")


@pytest.mark.parametrize(("name", "tensors"), [("itemknn", NEAR), ("linkprop", ROWS), ("contentknn", NEAR)])
def test_tensors_of_the_model_are_read(tmp_path, name, tensors):
    graph = BipartiteGraph.from_edges(np.array([0, 0, 1], np.int32), np.array([0, 1, 2], np.int32), 2, 3)
    save_file(tensors, tmp_path / "model.safetensors")
    read = closed_form.load(name, graph, tmp_path / "model.safetensors").tensors()
    assert all(torch.equal(read[key], tensor) for key, tensor in tensors.items())
