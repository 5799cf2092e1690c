"""`repeat`: scores as a plain loop has them, own items first, one file, and lists that cannot hold repeats refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gcnrec import config
from gcnrec.closed_forms import closed_form
from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph, History, LaterRows
from gcnrec.ranking.top_k import top_k_all
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train

DAY = 86_400
USERS, ITEMS = 20, 15


def taken(*, times=True, weights=True, added=True, seed=0):
    """A graph whose history has times and weights, and rows that a refit adds: some of them edges of train, too."""
    rng = np.random.default_rng(seed)
    users, items = (part.astype(np.int32) for part in np.nonzero(rng.random((USERS, ITEMS)) < 0.3))
    own = BipartiteGraph.from_edges(users, items, USERS, ITEMS).user_items
    later_users, later_items = users[::5], np.where(np.arange(len(users[::5])) % 2, items[::5], 0).astype(np.int32)
    later = LaterRows(later_users, later_items, *(
        (rng.integers(90 * DAY, 99 * DAY, len(later_users)) if times else None),
        (rng.integers(1, 4, len(later_users)).astype(np.float32) if weights else None),
    ))  # fmt: skip
    history = History(
        own,
        rng.integers(0, 90 * DAY, own.num_edges) if times else None,
        rng.integers(1, 9, own.num_edges).astype(np.float32) if weights else None,
        later if added else None,
    )
    more = (later_users, later_items) if added else (users[:0], items[:0])
    whole = BipartiteGraph.from_edges(np.concatenate([users, more[0]]), np.concatenate([items, more[1]]), USERS, ITEMS)
    return replace(whole, history=history)


def rows_of(history):
    """(user, item, time, weight) of each interaction, 0 and 1 where they are not known."""
    parts = [(history.user_items.row_numbers(), history.user_items.indices, history.times_E, history.weights_E)]
    if history.added is not None:
        parts.append((history.added.users_E, history.added.items_E, history.added.times_E, history.added.weights_E))
    for users, items, times, weights in parts:
        times, weights = (np.full(len(users), value) if part is None else part for part, value in ((times, 0), (weights, 1)))
        yield from zip(users.tolist(), items.tolist(), times.tolist(), weights.tolist(), strict=True)


def scores(graph, **settings):
    scorer = closed_form.fit("repeat", graph, config.Model(name="repeat", **settings), 0)
    return scorer.prepare(np.arange(USERS, dtype=np.int32)).numpy()


@pytest.mark.parametrize("days", [3.0, 60.0])
@pytest.mark.parametrize(
    "known", [{}, {"times": False}, {"weights": False}, {"added": False}, {"times": False, "weights": False}]
)
def test_scores_are_decayed_sums(days, known):
    graph = taken(**known)
    rows = list(rows_of(graph.history))
    newest, wanted = max(time for _, _, time, _ in rows), np.zeros((USERS, ITEMS))
    for user, item, time, weight in rows:
        wanted[user, item] += weight * 0.5 ** ((newest - time) / DAY / days)
    found = scores(graph, repeat_days=days)
    np.testing.assert_allclose(np.where(wanted, found, 0), wanted, rtol=1e-6)
    assert (found[wanted == 0] < found[wanted > 0].min()).all()


def test_lists_go_on_with_popular_items():
    graph = taken(seed=3)
    scorer = closed_form.fit("repeat", graph, config.Model(), 0)
    lists = top_k_all(scorer, np.arange(USERS, dtype=np.int32), ITEMS, None).items_BK
    for user in range(USERS):
        count = graph.user_items.degrees[user]
        assert set(lists[user, :count].tolist()) == set(graph.user_items.row(user).tolist())
        degrees = graph.item_users.degrees[lists[user, count:]]
        assert (np.diff(degrees) <= 0).all()


def test_items_of_long_ago_still_come_before_items_never_taken():
    graph = BipartiteGraph.from_edges(np.array([0, 1], np.int32), np.array([1, 0], np.int32), 2, 2)
    graph = replace(graph, history=History(graph.user_items, np.array([0, 10**10]), np.array([0, 1], np.float32)))
    found = closed_form.fit("repeat", graph, config.Model(repeat_days=1e-9), 0).prepare(np.arange(2, dtype=np.int32))
    assert found[0, 1] > found[0, 0] > 0 and found[1, 0] > found[1, 1] > 0


def test_what_was_saved_scores_alike_and_a_mixture_hears_of_own_items_alone(tmp_path):
    graph = taken(seed=4)
    scorer, path = closed_form.fit("repeat", graph, config.Model(), 0), tmp_path / "model.safetensors"
    closed_form.save(scorer, path)
    users = np.arange(USERS + 2, dtype=np.int32)  # the last two are new
    assert np.array_equal(closed_form.load("repeat", graph, path).prepare(users), scorer.prepare(users))
    alone = closed_form.load_partner("repeat", graph, path).prepare(users).numpy()
    assert (np.flatnonzero(alone[3]) == graph.user_items.row(3)).all() and not alone[USERS:].any()


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"name": "repeat"}},
        {"evaluate": {"baselines": ["popularity", "repeat"]}},
        {"mixture": {"with": ["repeat"], "weights": [1.0, 1.0]}},
    ],
)
def test_lists_that_cannot_hold_repeats_are_refused_before_there_is_a_folder(sections, tmp_path):
    dataset = write_dataset(checkerboard(8), tmp_path / "data")
    with pytest.raises(
        UsageError, match=r"repeat lists what users have taken before, and evaluate\.seen = 'all' .* --repeats keep"
    ):
        train(Job.parse(sections, [], "test"), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()
