"""Popularity by age: counts as a plain loop has them, a drift that it follows, and the column that a run exports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data, Job
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph, History, LaterRows
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.worlds.shop import Shop, draw_events, write_shop
from gcnrec.ranking import popularity
from gcnrec.ranking.popularity import PopularityScorer, counted
from gcnrec.runs.folder import with_valid
from gcnrec.training.train import train

DAY = 86_400
USERS, ITEMS, DAYS = 30, 12, 10.0


def dated(seed=0):
    """A graph of 12 items whose edges have times, with rows that a refit adds: to item 11 none."""
    rng = np.random.default_rng(seed)
    users, items = (part.astype(np.int32) for part in np.nonzero(rng.random((USERS, ITEMS - 1)) < 0.3))
    graph = BipartiteGraph.from_edges(users, items, USERS, ITEMS)
    later = LaterRows(users[:9], items[:9], rng.integers(90 * DAY, 99 * DAY, 9))
    return replace(graph, history=History(graph.user_items, rng.integers(0, 90 * DAY, graph.num_edges), None, later))


@pytest.mark.parametrize("with_added", [False, True])
def test_counts_halve_with_age(with_added, monkeypatch):
    graph = dated()
    history = graph.history if with_added else replace(graph.history, added=None)
    monkeypatch.setattr(popularity, "_CHUNK", 7)
    rows = list(zip(graph.user_items.indices.tolist(), history.times_E.tolist(), strict=True))
    rows += list(zip(history.added.items_E.tolist(), history.added.times_E.tolist(), strict=True)) if with_added else []
    newest, wanted = max(time for _, time in rows), [0.0] * ITEMS
    for item, time in rows:
        wanted[item] += 0.5 ** ((newest - time) / DAY / DAYS)
    found = counted(replace(graph, history=history), DAYS)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert found[ITEMS - 1] == 0 and PopularityScorer.of(replace(graph, history=history), DAYS).num_items == ITEMS


def test_without_days_counts_are_the_degrees():
    graph = dated()
    assert np.array_equal(counted(graph, None), graph.item_users.degrees)
    np.testing.assert_allclose(counted(replace(graph, history=replace(graph.history, added=None)), 1e9), graph.item_users.degrees)


@pytest.mark.parametrize("days", [5e-324, 1e-9, 1.0])
def test_an_old_item_is_not_one_that_nobody_took(days):
    graph = BipartiteGraph.from_edges(np.zeros(2, np.int32), np.arange(2, dtype=np.int32), 1, 3)
    old = replace(graph, history=History(graph.user_items, np.array([0, 10**10])))
    counts = counted(old, days)
    assert counts[0] > 0 and counts[1] == 1 and counts[2] == 0


def test_without_times_the_key_is_refused():
    graph = dated()
    later = replace(graph.history, added=replace(graph.history.added, times_E=None))
    for history in (None, History(graph.user_items), later):
        with pytest.raises(UsageError, match="the data has no times; leave it out, or ingest with --time COLUMN"):
            counted(replace(graph, history=history), DAYS)


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_recent_counts_follow_a_planted_drift(drift):
    """Over four cuts, a half-life of 15 days finds more of the next 15 days where tastes drift, and less where they stay."""
    shop = Shop(users=1000, items=300, events=150_000, repeats=0.0, drift=drift)
    events = draw_events(shop, 0, shop.users)
    bought = events.kinds_X == 2
    items, times = events.items_X[bought], events.times_X[bought]
    shares = {None: [], 15.0: []}
    for day in (60, 75, 90, 105):
        cut = times.min() + day * DAY
        past, next_items = times < cut, items[(times >= cut) & (times < cut + 15 * DAY)]
        users = np.arange(past.sum(), dtype=np.int32)  # each row is an edge of its own
        graph = BipartiteGraph.from_edges(users, items[past].astype(np.int32), len(users), shop.items)
        graph = replace(graph, history=History(graph.user_items, times[past]))
        for days, found in shares.items():
            top = np.argsort(-counted(graph, days), kind="stable")[:20]
            found.append(np.isin(next_items, top).mean())
    gain = np.mean(shares[15.0]) - np.mean(shares[None])
    assert gain > 0.005 if drift else gain < 0.0


def test_the_column_of_an_export_counts_recent_purchases(tmp_path):
    write_shop(Shop(users=60, items=40, events=4000, categories=4), tmp_path / "shop")
    rows = {"train": str(tmp_path / "shop/events"), "user": "user", "item": "item", "time": "time"}
    data = Data(**rows, behaviour="event", target="buy")
    dataset = ingest(data, tmp_path / "data", data_root=None, name="shop")
    settings = {
        "model": {"width": 4, "popularity": "theory", "popularity_days": DAYS},
        "train": {"epochs": 1, "threads": 1},
        "mixture": {"with": []},
        "evaluate": {"baselines": []},
    }
    run = train(Job.parse(settings, [], "test"), dataset, tmp_path / "run")
    assert run.refitted
    table = pq.read_table(tmp_path / "run/embeddings/items.parquet")
    graph = with_valid(dataset)
    ages = (dataset.valid.times_E.max() - np.concatenate([dataset.times_E, dataset.valid.times_E])) / DAY
    items = np.concatenate([dataset.graph.user_items.indices, dataset.valid.items_E])
    counts = np.bincount(items, 0.5 ** (ages / DAYS), graph.num_items)
    typical = np.exp(np.log(counts[counts > 0]).mean())
    wanted = np.log(np.where(counts > 0, counts, typical) / counts.sum())
    np.testing.assert_allclose(table["popularity"].to_numpy(), wanted, rtol=1e-5)
    with pytest.raises(UsageError, match=r"model\.popularity_days counts by age"):
        timeless = Data(**{**rows, "time": None}, where="event = 'buy'")
        train(Job.parse(settings, [], "test"), ingest(timeless, tmp_path / "t", data_root=None, name="t"), tmp_path / "no")
    assert not (tmp_path / "no").exists()
