"""Singular triplets against dense and iterative solvers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.models.spectral import top_singular


def skewed_graph(users, items, edges, seed=0):
    draw = np.random.default_rng(seed)
    chosen = (users * draw.random(edges) ** 2).astype(np.int32), (items * draw.random(edges) ** 3).astype(np.int32)
    return BipartiteGraph.from_edges(*chosen, users, items)


def normalised(graph):
    shape = (graph.num_users, graph.num_items)
    csr = graph.user_items
    matrix = scipy.sparse.csr_matrix((np.ones(graph.num_edges), csr.indices, csr.indptr), shape=shape)
    scales = []
    for degrees in (csr.degrees, graph.item_users.degrees):
        scale = np.zeros(len(degrees))
        scale[degrees > 0] = degrees[degrees > 0] ** -0.5
        scales.append(scipy.sparse.diags(scale))
    return scales[0] @ matrix @ scales[1]


@pytest.mark.parametrize(("users", "items"), [(300, 120), (120, 300), (90, 90)])
def test_against_dense(users, items):
    graph = skewed_graph(users, items, 2500)
    matrix = normalised(graph).toarray()
    expected = np.linalg.svd(matrix, compute_uv=False)[:24]
    left, singular, right = top_singular(graph, 24, seed=1)
    np.testing.assert_allclose(singular.numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(left.T @ left, np.eye(24), atol=1e-4)
    np.testing.assert_allclose(right.T @ right, np.eye(24), atol=1e-4)
    np.testing.assert_allclose(matrix @ right.numpy(), left.numpy() * singular.numpy(), atol=2e-4)


def test_against_scipy_on_a_larger_graph():
    graph = skewed_graph(3000, 2000, 40_000)
    found = scipy.sparse.linalg.svds(normalised(graph), 32, return_singular_vectors=False, random_state=0)
    expected = np.sort(found)[::-1]
    # random edges: all but the first value crowd below 0.56, the hardest spectrum there is
    np.testing.assert_allclose(top_singular(graph, 32, seed=0)[1].numpy(), expected, rtol=1e-2)
    np.testing.assert_allclose(top_singular(graph, 32, seed=0, iterations=16)[1].numpy(), expected, rtol=1e-5)


def test_signs_and_order():
    left, singular, _ = top_singular(skewed_graph(200, 150, 2000), 16, seed=0)
    assert (singular[:-1] >= singular[1:]).all()
    assert (left.gather(0, left.abs().argmax(0, keepdim=True)) > 0).all()


def test_one_seed_one_result_and_another_seed_the_same_spectrum():
    graph = skewed_graph(200, 150, 2000)
    first, again, other = (top_singular(graph, 8, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for a, b in zip(first, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_a_low_rank_is_padded_with_zeros():
    """A complete graph has one singular value, 1, with constant vectors."""
    users, items = (side.ravel().astype(np.int32) for side in np.meshgrid(np.arange(4), np.arange(9), indexing="ij"))
    left, singular, right = top_singular(BipartiteGraph.from_edges(users, items, 4, 9), 6, seed=0)
    np.testing.assert_allclose(singular, [1, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(left[:, 0], 1 / 2, atol=1e-6)
    np.testing.assert_allclose(right[:, 0], 1 / 3, atol=1e-6)
    assert not left[:, 1:].any() and not right[:, 1:].any()


def test_tiny_worlds():
    one = np.zeros(1, np.int32)
    left, singular, right = top_singular(BipartiteGraph.from_edges(one, one, 1, 1), 4, seed=0)
    assert left.tolist() == [[1, 0, 0, 0]] and singular.tolist() == [1, 0, 0, 0] and right.tolist() == [[1, 0, 0, 0]]
    none = np.zeros(0, np.int32)
    assert not any(part.any() for part in top_singular(BipartiteGraph.from_edges(none, none, 3, 5), 2, seed=0))


def test_wrong_settings():
    with pytest.raises(UsageError, match="rank >= 1"):
        top_singular(skewed_graph(5, 5, 9), 0, seed=0)
