"""Where tables start: scale, seed, the spectrum of a known graph, and the rows of an earlier run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from built import start_table

from gcnrec.config import Job
from gcnrec.graph import BipartiteGraph
from gcnrec.steps.start import Start, continued_rows
from gcnrec.testing import checkerboard, dense_hop, halves, one_item, one_user, star


def job(start, seed=0, scale=0.1):
    return Job.parse({"model": {"start": start, "start_scale": scale}, "train": {"seed": seed}}, [], "test")


NOISE = Start("normal", 0.1, 0)


def start_rows(job, graph, width):
    """The rows of a dense table before its first step."""
    wide = job.model_copy(update={"model": job.model.model_copy(update={"width": width})})
    return start_table(wide, graph).columns(0, width)


@pytest.mark.parametrize("start", ["normal", "spectral"])
def test_scale_seed_and_shape(start):
    graph = checkerboard().graph
    rows = start_rows(job(start, scale=0.3), graph, 8)
    assert rows.shape == (graph.num_nodes, 8) and rows.dtype == torch.float32
    # 384 normal draws: the standard error of their root mean square is 3.6 %; five of them.
    assert float(rows.square().mean().sqrt()) == pytest.approx(0.3, rel=1e-5 if start == "spectral" else 0.18)
    assert torch.equal(rows, start_rows(job(start, scale=0.3), graph, 8))


def test_normal_rows_differ_by_seed():
    graph = checkerboard().graph
    assert not torch.equal(start_rows(job("normal"), graph, 8), start_rows(job("normal", seed=1), graph, 8))


def test_spectral_rows_are_the_singular_vectors():
    """Normalised, two halves have the singular value 1 twice, then 1/(n-1) of each half: compare the projections."""
    graph = halves(9, 6).graph
    rows = start_rows(job("spectral"), graph, 2)
    left, singular, right = torch.linalg.svd(dense_hop(graph)[: graph.num_users, graph.num_users :])
    assert singular[:3].numpy() == pytest.approx([1.0, 1.0, 1 / 5], rel=1e-6)
    best = torch.cat([left[:, :2], right[:2].T])
    scores, expected = rows[: graph.num_users] @ rows[graph.num_users :].T, best[: graph.num_users] @ best[graph.num_users :].T
    ratio = float(scores.norm() / expected.norm())
    assert scores.numpy() == pytest.approx(ratio * expected.numpy(), abs=1e-5 * ratio)


@pytest.mark.parametrize("world", [star(), one_user(), one_item()], ids=lambda world: world.name)
def test_more_columns_than_the_graph_has_singular_vectors(world):
    """Columns beyond the rank start as noise: zero on both sides, they would never get a gradient."""
    rows, noise = start_rows(job("spectral"), world.graph, 16), start_rows(job("normal"), world.graph, 16)
    assert rows.isfinite().all() and rows[:, 0].any()
    assert torch.equal(rows[:, 1:], noise[:, 1:])


def test_continued_rows_by_hand():
    """World of two complete halves; the earlier run knew all nodes but user 0 and the item 8 (numbered anew)."""
    graph = halves(9, 6).graph
    known = [node for node in range(30) if node not in (0, 15 + 8)]
    earlier = torch.randn(28, 4, generator=torch.Generator().manual_seed(0))
    order = np.random.default_rng(0).permutation(28)
    places = np.full(30, -1, np.int32)
    places[known] = order
    rows = continued_rows(NOISE, graph, earlier, places)
    assert torch.equal(rows[known], earlier[torch.from_numpy(order)])
    before = torch.zeros(30, 4, dtype=torch.float64)
    before[known] = rows[known].double()
    hopped = dense_hop(graph) @ before
    for new, side in ((0, slice(0, 15)), (15 + 8, slice(15, 30))):
        others = [node for node in known if side.start <= node < side.stop]
        scale = before[others].square().mean().sqrt() / hopped[others].square().mean().sqrt()
        assert rows[new].numpy() == pytest.approx((scale * hopped[new]).numpy(), rel=1e-5)


def test_a_new_node_without_known_neighbours_starts_from_noise():
    """The second half is all new."""
    graph = halves(9, 6).graph
    places = np.full(30, -1, np.int32)
    places[:9], places[15:24] = np.arange(9), np.arange(9, 18)
    rows = continued_rows(NOISE, graph, torch.ones(18, 64), places)
    assert rows[:9].eq(1).all() and rows[15:24].eq(1).all()
    new = torch.cat([rows[9:15], rows[24:]])
    # 768 normal draws of scale 0.1: standard error 2.6 %; five of them.
    assert float(new.square().mean().sqrt()) == pytest.approx(0.1, rel=0.13)


def test_nothing_known_is_a_fresh_start():
    graph = checkerboard().graph
    rows = continued_rows(NOISE, graph, torch.empty(0, 8), np.full(graph.num_nodes, -1, np.int32))
    assert torch.equal(rows, start_rows(job("normal"), graph, 8))


def test_matched_nodes_that_meet_only_new_ones_do_not_blow_up_the_scale():
    """Known user 0 meets new item 1, new user 1 meets known item 0: no matched row has a matched neighbour."""
    graph = BipartiteGraph.from_edges(np.array([0, 1], np.int32), np.array([1, 0], np.int32), 2, 2)
    rows = continued_rows(NOISE, graph, torch.tensor([[3.0], [5.0]]), np.array([0, -1, 1, -1], np.int32))
    assert rows[:, 0].tolist() == pytest.approx([3.0, 3.0, 5.0, 5.0])
