"""Evaluation of a small world against plain Python loops over its lists."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import DataError, DeviceError, DivergedError, UsageError
from gcnrec.graph import BipartiteGraph, csr_from_edges
from gcnrec.interactions import Interactions, MemoryVocabulary, Vocabulary
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import Seen
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, by_segment, evaluate, metric_columns, popularity_deciles
from gcnrec.ranking.metrics import PER_USER
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.seen import out_of_reach, seen_items
from gcnrec.results.evaluate import evaluate_run, rule_of

USERS, ITEMS = 40, 60
USER_IDS = MemoryVocabulary(pa.array([f"u{number:02}" for number in range(USERS)]))
ITEM_IDS = MemoryVocabulary(pa.array(np.arange(ITEMS, dtype=np.uint16) + 500))


def interactions(pairs) -> Interactions:
    users, items = np.array(sorted(pairs), np.int32).reshape(-1, 2).T
    return Interactions(np.ascontiguousarray(users), np.ascontiguousarray(items), None, None, USER_IDS, ITEM_IDS)


@dataclass(frozen=True)
class World:
    scorer: EmbeddingScorer
    graph: BipartiteGraph
    train: set
    valid: set
    test: set


@pytest.fixture
def world() -> World:
    """Disjoint train, valid and test pairs; scores are sums of small whole numbers, so ties are many. User 0 has no test."""
    rng = np.random.default_rng(11)
    pairs = list(
        {(int(u), int(i)) for u, i in zip(rng.integers(0, USERS, 900), rng.integers(0, ITEMS, 900) ** 2 // 60, strict=True)}
    )
    order = rng.permutation(len(pairs))
    parts = [{pairs[at] for at in order[part::3]} for part in range(3)]
    users, items = np.array(sorted(parts[0]), np.int32).T
    graph = BipartiteGraph.from_edges(np.ascontiguousarray(users), np.ascontiguousarray(items), USERS, ITEMS)
    embeddings = [torch.from_numpy(rng.integers(-2, 3, (size, 3)).astype(np.float32)) for size in (USERS, ITEMS)]
    return World(EmbeddingScorer(*embeddings), graph, parts[0], parts[1], {pair for pair in parts[2] if pair[0] != 0})


def split_of(world: World, pairs: set) -> HeldOutSplit:
    return HeldOutSplit.of(interactions(pairs), world.graph, Seen((world.graph.user_items,)))


def naive_lists(world: World, seen: set, k: int) -> dict[int, list[int]]:
    scores = (world.scorer.users_UD @ world.scorer.items_ID.T).tolist()
    return {
        user: sorted((i for i in range(ITEMS) if (user, i) not in seen), key=lambda i: (-scores[user][i], i))[:k]
        for user in range(USERS)
    }


def test_metrics_are_means_over_users_with_held_out_items(world):
    degrees_I = world.graph.item_users.degrees
    result = evaluate(world.scorer, split_of(world, world.test), Measures((10, 3)))
    users = sorted({user for user, _ in world.test})
    assert result.per_user.column("user").to_pylist() == [f"u{user:02}" for user in users]
    for k in (3, 10):
        lists = naive_lists(world, world.train, k)
        hits = {user: [(user, item) in world.test for item in lists[user]] for user in users}
        held = {user: sum(pair[0] == user for pair in world.test) for user in users}
        expected = {
            "recall": [sum(hits[u]) / held[u] for u in users],
            "recall_capped": [sum(hits[u]) / min(k, held[u]) for u in users],
            "precision": [sum(hits[u]) / k for u in users],
            "hit_rate": [float(any(hits[u])) for u in users],
            "mrr": [1 / (hits[u].index(True) + 1) if any(hits[u]) else 0 for u in users],
            "map": [sum(sum(hits[u][: r + 1]) / (r + 1) for r in range(k) if hits[u][r]) / min(k, held[u]) for u in users],
            "ndcg": [
                sum(hit / np.log2(r + 2) for r, hit in enumerate(hits[u]))
                / sum(1 / np.log2(r + 2) for r in range(min(k, held[u])))
                for u in users
            ],
            "novelty": [np.mean([-np.log2(max(degrees_I[item], 1) / USERS) for item in lists[u]]) for u in users],
        }
        assert set(expected) == {*PER_USER, "novelty"}
        for name, values in expected.items():
            np.testing.assert_allclose(result.per_user.column(f"{name}@{k}").to_numpy(), values, atol=1e-12, err_msg=name)
            assert result.metrics[f"{name}@{k}"] == pytest.approx(np.mean(values), abs=1e-12)
        exposure = np.bincount(np.concatenate([lists[u] for u in users]), minlength=ITEMS)
        assert result.metrics[f"coverage@{k}"] == (exposure > 0).mean()
        spread = np.abs(exposure[:, None] - exposure[None, :]).sum() / (2 * ITEMS * exposure.sum())
        assert result.metrics[f"gini@{k}"] == pytest.approx(spread, abs=1e-12)
        degrees = np.bincount([item for _, item in world.train], minlength=ITEMS)
        head = sorted(range(ITEMS), key=lambda item: (-degrees[item], item))[: -(-ITEMS // 5)]
        assert result.metrics[f"long_tail@{k}"] == pytest.approx(1 - exposure[head].sum() / exposure.sum())
    assert result.per_user.column("num_held_out").to_pylist() == [held[user] for user in users]
    assert result.per_user.column("degree").to_pylist() == [sum(pair[0] == user for pair in world.train) for user in users]
    assert len(result.metrics) == 2 * 11


def test_a_list_longer_than_the_catalogue(world):
    result = evaluate(world.scorer, split_of(world, world.test), Measures((1000,)))
    assert result.metrics["recall@1000"] == result.metrics["hit_rate@1000"] == 1.0
    held = result.per_user.column("num_held_out").to_numpy()
    assert result.metrics["precision@1000"] == pytest.approx((held / 1000).mean())
    most = evaluate(world.scorer, split_of(world, world.test), Measures((999_999_999, ITEMS), tilt=0.5)).metrics
    for name in ("recall", "recall_capped", "hit_rate", "mrr", "map", "recall_tilted", "ndcg_tilted", "coverage", "novelty"):
        assert most[f"{name}@999999999"] == most[f"{name}@{ITEMS}"]
    assert most["ndcg@999999999"] == pytest.approx(most[f"ndcg@{ITEMS}"], rel=1e-12)


def test_deciles_add_up_to_all_hits(world):
    result = evaluate(world.scorer, split_of(world, world.test), Measures((5,)))
    lists = naive_lists(world, world.train, 5)
    hits = sum((user, item) in world.test for user in {user for user, _ in world.test} for item in lists[user])
    assert sum(row["hits@5"] for row in result.deciles) == hits
    assert sum(row["held_out"] for row in result.deciles) == len(world.test)
    pooled = sum(row["recall@5"] * row["held_out"] for row in result.deciles if row["held_out"])
    assert pooled == pytest.approx(hits)
    assert [row["items"] for row in result.deciles] == [ITEMS // 10] * 10
    bounds = [(row["max_degree"], row["min_degree"]) for row in result.deciles]
    assert all(above[1] >= below[0] for above, below in pairwise(bounds))


def test_deciles_by_hand_and_with_few_items():
    rows = popularity_deciles(np.array([1, 9, 5]), np.array([2, 4, 0]), {1: np.array([1, 3, 0])})
    assert [row["items"] for row in rows] == [1, 1, 1] + [0] * 7
    assert [(row["max_degree"], row["held_out"], row["recall@1"]) for row in rows[:4]] == [
        (9, 4, 3 / 4), (5, 0, None), (1, 2, 1 / 2), (None, 0, None),
    ]  # fmt: skip


def test_a_held_out_pair_that_is_also_seen_is_a_miss_unless_nothing_is_left_out(world):
    repeated = min(world.train)
    held = {*world.test, repeated}
    left_out = evaluate(world.scorer, split_of(world, held), Measures((ITEMS,)))
    own = sum(user == repeated[0] for user, _ in held)
    users = len({user for user, _ in held})
    assert left_out.metrics[f"recall@{ITEMS}"] == pytest.approx(1.0 - 1.0 / own / users)
    ranked = evaluate(world.scorer, HeldOutSplit.of(interactions(held), world.graph, Seen(())), Measures((ITEMS,)))
    assert ranked.metrics[f"recall@{ITEMS}"] == 1.0


def test_pairs_that_no_list_can_hold_are_counted(world):
    seen = Seen((world.graph.user_items, csr_from_edges(*np.array(sorted(world.valid), np.int32).T, USERS, ITEMS)))
    repeated = {*sorted(world.train)[:3], *sorted(world.valid)[:4]}
    assert out_of_reach(interactions({*world.test, *repeated}), seen) == len(repeated) == 7
    assert out_of_reach(interactions(world.test), seen) == out_of_reach(interactions(repeated), Seen(())) == 0


class Many(Vocabulary):
    """As far as sizes go."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @property
    def ids(self) -> pa.Array:
        raise AssertionError("the ids are not needed")


def test_a_limit_that_is_too_small_is_named(world, tmp_path):
    with pytest.raises(
        DeviceError, match=r"evaluating .* needs [\d,]+ bytes .* memory_limit = 64MB .*; raise --memory-limit"
    ) as told:
        run = fake_run(world, tmp_path)
        run.dataset = replace(run.dataset, user_ids=Many(10**7), item_ids=Many(10**6))
        evaluate_run(run, memory_limit="64MB")
    assert told.value.exit_code == 4 and not list(tmp_path.iterdir())


def test_bootstrap_intervals_hold_the_means(world):
    split = split_of(world, world.test)
    result = evaluate(world.scorer, split, Measures((10,), resamples=200, seed=1))
    assert set(result.intervals) == set(metric_columns(result.per_user))
    assert all(low <= result.metrics[name] <= high for name, (low, high) in result.intervals.items())
    assert evaluate(world.scorer, split, Measures((10,), resamples=200, seed=1)).intervals == result.intervals
    assert evaluate(world.scorer, split, Measures((10,))).intervals == {}


def test_nothing_to_measure_wrong_sizes_and_nan_are_refused(world):
    split = split_of(world, world.test)
    with pytest.raises(DataError, match="no user has held-out items"):
        evaluate(world.scorer, split_of(world, set()), Measures())
    with pytest.raises(DataError, match="must know 40 users and 60 items, this one knows 39 and 60"):
        evaluate(EmbeddingScorer(world.scorer.users_UD[:39], world.scorer.items_ID), split, Measures())
    broken = replace(world.scorer, users_UD=world.scorer.users_UD * float("nan"))
    with pytest.raises(DivergedError, match="got NaN"):
        evaluate(broken, split, Measures())


def test_segments_split_the_users(world):
    per_user = evaluate(world.scorer, split_of(world, world.test), Measures((5,))).per_user
    names = np.array([None if row % 3 == 0 else "ab"[row % 2] for row in range(len(per_user))], object)
    found = by_segment(per_user, names)
    assert set(found) == {"a", "b", "(none)"}
    assert sum(part["users"] for part in found.values()) == len(per_user)
    recall = per_user.column("recall@5").to_numpy()
    assert found["b"]["recall@5"] == pytest.approx(np.mean([recall[row] for row, name in enumerate(names) if name == "b"]))


def test_a_file_of_segments_that_expands_is_refused_by_name(world, tmp_path):
    coded = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4000, np.int32)), pa.array(["x" * 100_000]))
    path = tmp_path / "segments.parquet"
    pq.write_table(pa.table({"user": np.arange(4000), "segment": coded}), path, store_schema=False)
    with pytest.raises(DeviceError, match=r"segments.parquet takes 2,400,\d+,\d+ bytes, 6 times its table, .* set --memory-"):
        evaluate_run(fake_run(world, tmp_path), segments=path, memory_limit="64MB")


def fake_run(world: World, folder: Path, refitted: bool = False):
    info = {"name": "toy", "digest": "d1", "data": {"user": "customer", "item": "product"}}
    dataset = Dataset(
        folder, info, world.graph, USER_IDS, ITEM_IDS, interactions(world.valid), interactions(world.test), None, None
    )
    sections = {"model": {"name": "popularity"}, "evaluate": {"k": [5, 10], "bootstrap": 20}, "train": {"threads": 1}}
    job = Job.parse(sections, [], "job")
    return SimpleNamespace(
        folder=folder, dataset=dataset, refitted=refitted, job=job, scorer=lambda *_, **__: world.scorer,
        train_graph=world.graph, export_rule=None, mixture=None,
    )  # fmt: skip


def test_train_and_valid_are_left_out_of_the_ranking_of_test(world, tmp_path):
    run = fake_run(world, tmp_path)
    for split, pairs in (("valid", world.train), ("test", world.train | world.valid)):
        seen = seen_items(rule_of(run), run.dataset, split)
        for user in range(USERS):
            hidden = {item for part in seen.parts for item in part.row(user).tolist()}
            assert hidden == {item for each, item in pairs if each == user}


def test_a_run_folder_gets_its_files(world, tmp_path):
    run = fake_run(world, tmp_path)
    written = evaluate_run(run)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(written))
    assert written["split"] == "test"
    again = evaluate(
        run.scorer(), HeldOutSplit.of(run.dataset.test, world.graph, seen_items("all", run.dataset, "test")), Measures()
    )
    assert written["recall@10"] == again.metrics["recall@10"]
    per_user = pq.read_table(tmp_path / "per_user.parquet")
    assert per_user.schema.metadata[b"digest"] == b"d1"
    assert np.mean(per_user.column("ndcg@5").to_numpy()) == pytest.approx(written["ndcg@5"])
    evaluate_run(run, "valid", (3,))
    assert json.loads((tmp_path / "metrics.valid.json").read_text())["split"] == "valid"
    assert "recall@3" in pq.read_table(tmp_path / "per_user.valid.parquet").column_names
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json", "metrics.json", "metrics.valid.json", "per_user.parquet", "per_user.valid.parquet",
    ]  # fmt: skip


def test_valid_is_refused_on_a_refitted_run(world, tmp_path):
    with pytest.raises(UsageError, match=r"trained on train\+valid"):
        evaluate_run(fake_run(world, tmp_path, refitted=True), "valid")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_segments_from_a_file(world, tmp_path, kind):
    path, run = tmp_path / f"segments.{kind}", fake_run(world, tmp_path)
    rows = [(f"u{number:02}", "even" if number % 2 == 0 else "odd") for number in range(USERS)] + [("stranger", "odd")]
    if kind == "csv":
        path.write_text("customer,tier\n" + "".join(f"{user},{name}\n" for user, name in rows))
    else:
        pq.write_table(pa.table({"customer": [user for user, _ in rows], "tier": [name for _, name in rows]}), path)
    written = evaluate_run(run, segments=path)
    assert written["segments_unknown_users"] == 1
    assert set(written["segments"]) == {"even", "odd"}
    weighted = sum(part["users"] * part["recall@10"] for part in written["segments"].values())
    assert weighted / written["users"] == pytest.approx(written["recall@10"])


def test_names_of_segments_in_a_csv_are_text(world, tmp_path):
    path = tmp_path / "segments.csv"
    names = ["07", "7", ""]
    path.write_text("customer,tier\n" + "".join(f"u{number:02},{names[number % 3]}\n" for number in range(USERS)))
    assert set(evaluate_run(fake_run(world, tmp_path), segments=path)["segments"]) == {"07", "7", "(none)"}


def test_nan_is_no_name_of_a_segment(world, tmp_path):
    tiers = [1.0 if number % 2 else float("nan") for number in range(USERS)]
    pq.write_table(
        pa.table({"customer": [f"u{number:02}" for number in range(USERS)], "tier": tiers}), tmp_path / "tiers.parquet"
    )
    assert set(evaluate_run(fake_run(world, tmp_path), segments=tmp_path / "tiers.parquet")["segments"]) == {"1.0", "(none)"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("customer,tier\nnobody,a\n", "none of its 1 ids is one"),
        ("customer,tier\nu00,a\nu00,b\n", "some have several rows"),
        ("custmer,tier\nu00,a\n", "must have a column 'user' or 'customer', it has 'custmer', 'tier'"),
        ("customer,a,b\nu00,a,b\n", "must have a column 'segment'"),
        ("customer,tier\n", "holds no rows"),
        ("", "must be Parquet, or CSV"),
        (None, "no such file"),
    ],
)
def test_bad_segment_files_get_a_sentence(world, tmp_path, text, problem):
    path = tmp_path / "segments.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=problem):
        evaluate_run(fake_run(world, tmp_path), segments=path)
    assert not (tmp_path / "metrics.json").exists()
