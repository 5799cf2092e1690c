"""Batches: every edge once an epoch or a fresh share of them, fixed by (seed, epoch), negatives by their shares, never seen."""

from __future__ import annotations

import importlib
import json
from fractions import Fraction

import numpy as np
import pytest
from heard import Cut
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from gcnrec.config import Job, Sampler
from gcnrec.graph import BipartiteGraph, csr_from_edges
from gcnrec.ops.draws.sample import own_negatives
from gcnrec.random import Stage, shuffled, uniform
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.testing import check_sampler, checkerboard, worlds, write_dataset
from gcnrec.training.check import check
from gcnrec.training.train import train

IN_BATCH = Sampler()
KINDS = {
    "in_batch": IN_BATCH,
    "uniform": Sampler(negatives="uniform", num_negatives=3),
    "popularity": Sampler(negatives="popularity", num_negatives=2, exclude_seen=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_conformance(world, kind, batch_size):
    check_sampler(edge_sampler(KINDS[kind], world.graph, None, batch_size, seed=3))


@settings(max_examples=40)
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1), st.integers(1, 30), st.integers(0, 2**63))
def test_conformance_on_any_graph(edges, batch_size, seed):
    users, items = (np.array([edge[side] for edge in sorted(edges)], np.int32) for side in (0, 1))
    check_sampler(edge_sampler(IN_BATCH, BipartiteGraph.from_edges(users, items, 10, 7), None, batch_size, seed))


def positives(seed, epoch):
    batches = edge_sampler(IN_BATCH, checkerboard().graph, None, 32, seed).epoch(epoch)
    return [(u, i) for b in batches for u, i in zip(b.triples.users_B.tolist(), b.triples.positives_B.tolist(), strict=True)]


def test_orders_differ_by_seed_and_epoch():
    orders = [positives(0, 0), positives(1, 0), positives(0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] and orders[0] != orders[2]
    assert orders[0] == positives(0, 0)


def test_neighbourhoods_without_the_edges_of_the_batch():
    graph = checkerboard().graph
    known = set(zip(graph.user_items.row_numbers().tolist(), graph.user_items.indices.tolist(), strict=True))
    for exclude in (False, True):
        neighbours = NeighbourSampler(graph, (64,), 0, with_targets=True)
        batch = edge_sampler(Sampler(exclude_positives=exclude), graph, None, 32, 0, neighbours).batch(0, 0)
        own = set(zip(batch.triples.users_B.tolist(), batch.triples.positives_B.tolist(), strict=True))
        (block,) = batch.blocks
        targets = batch.rows_R[block.targets_T][block.csr.row_numbers()]
        sources = batch.rows_R[block.sources_S][block.csr.indices] - graph.num_users
        of_users = targets < graph.num_users
        drawn = set(zip(targets[of_users].tolist(), sources[of_users].tolist(), strict=True))
        of_batch = {pair for pair in known if pair[0] in batch.triples.users_B}
        assert drawn == (of_batch - own if exclude else of_batch)


def test_in_batch_draws_no_negatives():
    batch = edge_sampler(IN_BATCH, checkerboard().graph, None, 32, 0).batch(0, 0)
    assert batch.triples.negatives_BN.shape == (len(batch.users_B), 0)
    assert len(batch.nodes_V) == len({*batch.triples.users_B}) + len({*batch.triples.positives_B})


def test_negatives_are_in_range_and_never_seen():
    world = checkerboard()
    sampler = edge_sampler(Sampler(negatives="uniform", num_negatives=5, exclude_seen=True), world.graph, None, 64, 0)
    seen = {*world.train}
    for batch in sampler.epoch(0):
        items = batch.triples.negatives_BN
        assert items.min() >= 0 and items.max() < world.num_items
        # 10 of 24 items are seen: all 32 draws of an entry are seen ones with chance 7e-13.
        assert not [1 for user, row in zip(batch.triples.users_B, items, strict=True) for item in row if (user, item) in seen]


@pytest.mark.parametrize(("kind", "power"), [("uniform", 0.0), ("popularity", 0.75)])
def test_negatives_follow_popularity(kind, power):
    """Chi-square with 7 degrees of freedom exceeds 24.3 for one seed in 1000; the seed is fixed."""
    degrees = np.array([256, 128, 64, 32, 16, 8, 4, 2])
    users = np.concatenate([np.arange(degree) for degree in degrees]).astype(np.int32)
    graph = BipartiteGraph.from_edges(users, np.repeat(np.arange(8), degrees).astype(np.int32), 256, 8)
    sampler = edge_sampler(Sampler(negatives=kind, num_negatives=20, popularity_power=0.75), graph, None, 200, 5)
    drawn = np.concatenate([batch.triples.negatives_BN.ravel() for epoch in range(3) for batch in sampler.epoch(epoch)])
    expected = len(drawn) * degrees**power / (degrees**power).sum()
    assert ((np.bincount(drawn, minlength=8) - expected) ** 2 / expected).sum() < 24.3


def disliked_of(world, share=0.5):
    """User -> some of the items that the user has not, for about half of the users."""
    rng, pairs = np.random.default_rng(4), set(world.train)
    users = rng.choice(world.num_users, world.num_users // 2, replace=False)
    edges = [
        (u, i) for u in sorted(users.tolist()) for i in range(world.num_items) if (u, i) not in pairs and rng.random() < share
    ]
    return csr_from_edges(*(np.array(side, np.int32) for side in zip(*edges, strict=True)), world.num_users, world.num_items)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [7, 10_000])
def test_conformance_with_items_rated_low(kind, batch_size):
    world = checkerboard()
    disliked = disliked_of(world)
    sampler = edge_sampler(KINDS[kind], world.graph, None, batch_size, seed=3, disliked=disliked)
    check_sampler(sampler)
    for batch in sampler.epoch(1):
        for user, item, place in zip(batch.triples.users_B, batch.triples.disliked_B, batch.disliked_B, strict=True):
            assert item in disliked.row(user) if len(disliked.row(user)) else (item, place) == (-1, -1)
            assert place < 0 or batch.nodes_V[place] == world.num_users + item


def test_items_rated_low_follow_the_stream_of_their_step():
    """Entry b takes place floor(u_b * count) of its user's row, u_b being number b of the stream (seed, OWN_NEGATIVES, step)."""
    disliked = disliked_of(checkerboard())
    users = np.random.default_rng(0).integers(24, size=4001).astype(np.int32)
    for step in (1, 7):
        found = own_negatives(users, disliked, 5, step)
        numbers = uniform(5, Stage.OWN_NEGATIVES, step, len(users))
        rows = [disliked.row(user) for user in users]
        assert found.tolist() == [row[int(u * len(row))] if len(row) else -1 for row, u in zip(rows, numbers, strict=True)]
    user = int(disliked.degrees.argmax())
    counts = np.bincount(own_negatives(np.full(20_000, user, np.int32), disliked, 0, 1), minlength=24)[disliked.row(user)]
    expected = 20_000 / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(counts) - 1)
    beyond = own_negatives(users, disliked, 5, 2**40 + 1)
    assert not np.array_equal(beyond, own_negatives(users, disliked, 5, 1))


def test_without_items_rated_low_batches_are_as_they_were():
    plain, none = (edge_sampler(IN_BATCH, checkerboard().graph, None, 32, 0, disliked=each).batch(0, 0) for each in (
        None, csr_from_edges(np.empty(0, np.int32), np.empty(0, np.int32), 24, 24)
    ))  # fmt: skip
    assert plain.disliked_B is None and np.array_equal(plain.nodes_V, none.nodes_V) and (none.disliked_B == -1).all()


def test_negatives_change_from_epoch_to_epoch():
    sampler = edge_sampler(KINDS["uniform"], checkerboard().graph, None, 10_000, 0)
    first, second = sampler.batch(0, 0).triples.negatives_BN, sampler.batch(1, 0).triples.negatives_BN
    # Two independent draws of 24 items agree in 1 of 24.
    assert (first == second).mean() < 0.15


def test_weights_follow_their_edges():
    graph = checkerboard().graph
    csr = graph.user_items
    weights = (100.0 * csr.row_numbers() + csr.indices).astype(np.float32)
    for batch in edge_sampler(IN_BATCH, graph, weights, 50, 1).epoch(0):
        assert np.array_equal(batch.triples.weights_B, 100.0 * batch.triples.users_B + batch.triples.positives_B)


def edges_of(sampler, epoch):
    """Numbers of the edges that an epoch trains on, in its order: they serve as the edges' weights."""
    return [int(edge) for batch in sampler.epoch(epoch) for edge in batch.triples.weights_B]


def numbered(fraction, batch_size=32, seed=0):
    graph = checkerboard().graph
    return edge_sampler(Sampler(fraction=fraction), graph, np.arange(graph.num_edges, dtype=np.float32), batch_size, seed)


@settings(max_examples=40)
@given(st.floats(0.001, 1.0), st.integers(1, 300), st.integers(0, 3))
def test_an_epoch_is_the_beginning_of_a_whole_one(fraction, batch_size, epoch):
    sampler = numbered(fraction, batch_size, seed=5)
    total = sampler.graph.num_edges
    order = shuffled(5, Stage.ORDER, epoch, 0, total, total).tolist()
    assert order == edges_of(numbered(1.0, batch_size, seed=5), epoch)
    drawn = edges_of(sampler, epoch)
    assert drawn == order[: len(drawn)]
    # The next edge is taken for any part of one, but a product of floats may be off by its last digit.
    assert abs(len(drawn) - Fraction(fraction) * total) < 1 + Fraction(1, 10**9) and len(drawn) >= 1
    sizes = [len(batch.users_B) for batch in sampler.epoch(epoch)]
    assert len(sizes) == sampler.steps_per_epoch == -(-len(drawn) // batch_size)
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size
    assert [batch.step for batch in sampler.epoch(epoch)] == [epoch * len(sizes) + n for n in range(1, len(sizes) + 1)]


def test_subsets_are_fresh_and_every_edge_is_drawn_about_equally_often():
    """400 epochs of a quarter. For independent uniform subsets the statistic is chi-square with E - 1 degrees of freedom;
    the bounds on both sides hold for all but one seed in 1000, and the seed is fixed. Subsets that avoided edges of earlier
    epochs would be far below the lower one."""
    sampler = numbered(0.25)
    edges, epochs = sampler.graph.num_edges, 400
    subsets = [edges_of(sampler, epoch) for epoch in range(epochs)]
    assert {len(set(subset)) for subset in subsets} == {edges // 4} and edges % 4 == 0
    assert len({frozenset(subset) for subset in subsets}) == epochs
    counts = np.bincount(np.concatenate(subsets), minlength=edges)
    assert counts.min() > 0
    statistic = np.square(counts - epochs / 4).sum() / (epochs * 0.25 * 0.75) * (edges - 1) / edges
    assert chi2.ppf(0.0005, edges - 1) < statistic < chi2.ppf(0.9995, edges - 1)


def test_runs_on_subsets_resume_count_and_predict(tmp_path, monkeypatch):
    """Three epochs of ceil(0.3 * E / 16) steps: the schedule ends where they end, and resuming draws the same subsets."""
    monkeypatch.setattr(importlib.import_module("gcnrec.steps.epochs"), "REPORT_SECONDS", 0.0)
    data = write_dataset(checkerboard(), tmp_path / "data")
    sections = {
        "model": {"width": 4},
        "sampler": {"fraction": 0.3},
        "optimizer": {"learning_rate": 0.02, "schedule": "linear"},
        "train": {"epochs": 3, "batch_size": 16, "threads": 1, "refit": "train+valid"},
        "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0},
    }
    job = Job.parse(sections, [], "test")
    whole = train(job, data, tmp_path / "whole")
    for epochs in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            train(job, data, tmp_path / f"cut-{epochs}", observer=Cut(epochs))
        resumed = train(job, data, tmp_path / f"cut-{epochs}", resume=True)
        for side in ("users", "items"):
            again, once = (run.folder / "embeddings" / f"{side}.parquet" for run in (resumed, whole))
            assert again.read_bytes() == once.read_bytes(), f"cut after {epochs} epochs"
    steps = -(-int(np.ceil(0.3 * data.graph.num_edges)) // 16)
    events = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    fitted = [event for event in events if event["stage"] == "fit"]
    assert [event["step"] for event in fitted] == [steps, 2 * steps, 3 * steps]
    # A line from the whole rate at the first step to zero after the last: 1 / (3 * steps) of it is left for that one.
    assert fitted[-1]["learning_rate"] == pytest.approx(0.02 / (3 * steps))
    predicted = check(job, data)
    assert predicted["steps_per_epoch"] == steps
    assert predicted["epoch_seconds"] == steps * predicted["step_seconds"]
