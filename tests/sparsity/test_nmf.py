"""Nonnegative factors: the error falls, blocks are found, zeros are kept apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from gcnrec.graph import BipartiteGraph
from gcnrec.sparsity.nmf import nonnegative_factors
from gcnrec.testing import World, checkerboard, worlds


def matrix_of(graph):
    out = torch.zeros(graph.num_users, graph.num_items, dtype=torch.float64)
    for user in range(graph.num_users):
        out[user, torch.from_numpy(graph.user_items.row(user).astype(np.int64))] = 1
    return out


def error(graph, factors):
    return float((matrix_of(graph) - factors[0].double() @ factors[1].double().T).square().sum())


def random_graph(users, items, edges, seed=0):
    draw = np.random.default_rng(seed)
    return BipartiteGraph.from_edges(
        draw.integers(0, users, edges).astype(np.int32), draw.integers(0, items, edges).astype(np.int32), users, items
    )


@pytest.mark.parametrize(("users", "items", "rank"), [(40, 25, 6), (25, 40, 3), (10, 10, 1)])
def test_the_error_never_rises_and_nothing_is_negative(users, items, rank):
    graph = random_graph(users, items, 200)
    errors = [error(graph, nonnegative_factors(graph, rank, 0, sweeps)) for sweeps in (0, 1, 2, 5, 10, 40)]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(errors))
    assert errors[-1] < 0.8 * errors[0]
    for factor in nonnegative_factors(graph, rank, 0):
        assert factor.dtype == torch.float32 and (factor > 0).all()


def test_one_update_by_hand():
    """Multiplicative updates as Lee & Seung write them, users first, in float64."""
    graph = random_graph(12, 9, 40)
    users, items = (factor.double() for factor in nonnegative_factors(graph, 4, 3, sweeps=0))
    matrix = matrix_of(graph)
    users = users * (matrix @ items) / (users @ items.T @ items)
    items = items * (matrix.T @ users) / (items @ users.T @ users)
    found = nonnegative_factors(graph, 4, 3, sweeps=1)
    np.testing.assert_allclose(found[0], users.clamp_min(1e-10), rtol=1e-5)
    np.testing.assert_allclose(found[1], items.clamp_min(1e-10), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_two_blocks_of_the_checkerboard(seed):
    """Rank 2: one column is large for even users and items, the other for odd ones."""
    users, items = nonnegative_factors(checkerboard().graph, 2, seed)
    for factor in (users, items):
        even = factor.argmax(1)[::2].unique().tolist()
        odd = factor.argmax(1)[1::2].unique().tolist()
        assert (even, odd) in (([0], [1]), ([1], [0]))
        assert (factor.min(1).values < 0.1 * factor.max(1).values).all()
    assert users.argmax(1)[0] == items.argmax(1)[0]


def test_equal_seeds_give_equal_factors():
    graph = checkerboard().graph
    first, second, other = (nonnegative_factors(graph, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]) and not torch.equal(first[0], other[0])


@pytest.mark.parametrize("world", [*worlds(), World("no edges", 3, 2, [], [], [])], ids=lambda world: world.name)
def test_any_world(world):
    users, items = nonnegative_factors(world.graph, 7, 0)
    assert users.shape == (world.num_users, 7) and items.shape == (world.num_items, 7)
    assert users.isfinite().all() and items.isfinite().all()
