"""Users ranked by several machines, in threads: every list is that of one process, to the bit, whoever ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_world import run_workers

from gcnrec.errors import DivergedError
from gcnrec.graph import csr_from_edges
from gcnrec.ops.topk import Seen
from gcnrec.ranking.machines import leader
from gcnrec.ranking.machines.asked import Asked
from gcnrec.ranking.machines.follower import follow_ranking
from gcnrec.ranking.machines.leader import ByMachines, rankers_of
from gcnrec.ranking.popularity import PopularityScorer
from gcnrec.ranking.scorer import EmbeddingScorer, View
from gcnrec.ranking.top_k import Here
from gcnrec.workers.world import Alone

USERS, ITEMS, CHUNK, K = 43, 1100, 4, 6
"""Two tiles of items; ten chunks of users and a rest."""
WORLDS = {
    "2 machines": (0, 1),
    "4 machines": (0, 1, 2, 3),
    "2 machines of 2": (0, 0, 2, 2),
    "2 machines in turn": (0, 1, 0, 1),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """And rounds of a chunk a machine, so that a ranking has several rounds, the last one with fewer chunks than machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(leader, "ROUND_BYTES", 1)
    yield
    torch.set_num_threads(before)


def scorer_of(width, column, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(USERS + ITEMS, width, generator=draw)
    return EmbeddingScorer(rows[:USERS], rows[USERS:], torch.randn(ITEMS, generator=draw) if column else None)


def seen_of(parts, seed=1):
    """Users' items in each of so many parts; some users have none."""
    draw = np.random.default_rng(seed)
    edges = [
        (draw.integers(0, USERS - 3, 90).astype(np.int32), draw.integers(0, ITEMS, 90).astype(np.int32)) for _ in range(parts)
    ]
    return Seen(tuple(csr_from_edges(*each, USERS, ITEMS) for each in edges))


def by_machines(machines, ask):
    """What `ask(ranker)` returns where workers of `machines` rank; the commands that the leader published."""
    published = []

    def work(world):
        if world.rank:
            command = world.awaited()
            while command["do"] != "end":
                command = follow_ranking(world, Asked.of(command)) if command["do"] == "rank" else world.awaited()
            return None
        publish = world.publish
        world.publish = lambda command: (published.append(command["do"]), publish(command))
        found = ask(rankers_of(world, 1)(CHUNK))
        world.close()
        return found

    return run_workers(len(machines), work, machines)[0], published


def assert_alike(found, expected):
    """The same chunks, and equal bits of each."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("users_B", "items_BK", "scores_BK"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name


@pytest.mark.parametrize("machines", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize(
    ("width", "column", "parts", "candidates"),
    [(16, True, 2, None), (7, False, 0, None), (33, True, 1, np.array([900, 3, 3, 1050, 77], np.int32))],
)
def test_lists_are_those_of_one_process(machines, width, column, parts, candidates):
    scorer, seen = scorer_of(width, column), seen_of(parts)
    users = np.random.default_rng(2).permutation(USERS).astype(np.int32)

    def lists(ranker):
        return list(ranker.top_k(scorer, users, K, seen, candidates))

    found, published = by_machines(machines, lists)
    expected = lists(Here(CHUNK))
    assert_alike(found, expected)
    np.testing.assert_array_equal(np.concatenate([each.users_B for each in found]), users)
    assert published.count("users") == -(-11 // len(set(machines))) and published[-2:] == ["ranked", "end"]
    for each in found:
        for user, items_K in zip(each.users_B, each.items_BK, strict=True):
            assert not any(np.isin(items_K, part.row(user)).any() for part in seen.parts)
            assert candidates is None or set(items_K) <= {*candidates, -1}


@pytest.mark.parametrize("machines", WORLDS.values(), ids=WORLDS)
def test_lists_of_views_are_those_of_one_process(machines):
    scorer, seen, users = scorer_of(24, True), seen_of(2), np.arange(USERS, dtype=np.int32)
    scale_I, column_I = torch.rand(ITEMS) + 0.5, torch.randn(ITEMS)
    views = [View(), View(scale_I), View(None, column_I), View(scale_I, column_I)]

    def lists(ranker):
        return list(ranker.top_k_views(scorer, views, users, K, seen))

    found, published = by_machines(machines, lists)
    for one, other in zip(found, lists(Here(CHUNK)), strict=True):
        assert_alike(one, other)
    assert "users" in published and len(found[0]) == 4


def test_lists_equal_a_sort_of_all_scores():
    """Small whole numbers, so that products are exact and ties frequent."""
    scorer = EmbeddingScorer(
        *(torch.from_numpy(np.random.default_rng(3).integers(-2, 3, (n, 5))).float() for n in (USERS, ITEMS))
    )
    seen, users = seen_of(1), np.arange(USERS, dtype=np.int32)
    found, _ = by_machines((0, 1, 2), lambda ranker: list(ranker.top_k(scorer, users, K, seen)))
    scores_UI = scorer.users_UD.double().numpy() @ scorer.items_ID.double().numpy().T
    for user in users:
        scores_UI[user, seen.parts[0].row(user)] = -np.inf
    expected_UK = np.argsort(-scores_UI, axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(np.concatenate([each.items_BK for each in found]), expected_UK)
    sorted_UK = np.take_along_axis(scores_UI, expected_UK, 1).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([each.scores_BK for each in found]), sorted_UK)


@pytest.mark.parametrize("user", [2, 14, USERS - 1])
def test_scores_that_are_no_numbers_end_a_ranking_with_the_sentence_of_one_process(user):
    """Wherever the user is ranked: by the leader, by another machine, in the last chunk."""
    scorer = scorer_of(8, False)
    scorer.users_UD[user, 3] = torch.nan

    def lists(ranker):
        return list(ranker.top_k(scorer, np.arange(USERS, dtype=np.int32), K, None))

    with pytest.raises(DivergedError) as alone:
        lists(Here(CHUNK))
    with pytest.raises(DivergedError) as shared:
        by_machines((0, 1, 2), lists)
    assert str(shared.value) == str(alone.value) and f"user number {user};" in str(alone.value)


def test_a_ranking_that_is_left_is_followed_by_another():
    scorer, users = scorer_of(8, True), np.arange(USERS, dtype=np.int32)

    def lists(ranker):
        next(ranker.top_k(scorer, users, K, seen_of(1)))
        return list(ranker.top_k(scorer, users, K, None))

    found, published = by_machines((0, 1), lists)
    assert_alike(found, list(Here(CHUNK).top_k(scorer, users, K, None)))
    assert published.count("rank") == 2 and published.count("ranked") == 1


def test_the_leader_ranks_alone_where_that_is_as_fast():
    scorer, graph = scorer_of(8, False), seen_of(1)
    popular = PopularityScorer(USERS, torch.arange(ITEMS).float())

    def lists(ranker):
        few = ranker.top_k(scorer, np.arange(CHUNK, dtype=np.int32), K, graph)
        many = ranker.top_k(popular, np.arange(USERS, dtype=np.int32), K, graph)
        return [*few, *many, *(each for (each,) in ranker.top_k_views(scorer, [View()], np.arange(3, dtype=np.int32), K, graph))]

    found, published = by_machines((0, 1), lists)
    assert_alike(found, lists(Here(CHUNK)))
    assert published == ["end"]


def test_who_ranks_is_decided_by_machines():
    assert rankers_of(Alone(), None)(7) == Here(7)
    found = run_workers(3, lambda world: rankers_of(world, 2)(7), (0, 0, 0))
    assert found == [Here(7)] * 3
    first = run_workers(3, lambda world: rankers_of(world, 2)(7), (0, 1, 0))[0]
    assert isinstance(first, ByMachines) and (first.rankers, first.threads, first.users_per_chunk) == ((0, 1), 2, 7)
