"""A whole job on users who also rate items low: what training makes of it, and what lists leave out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.api.lists import recommend
from gcnrec.config import Data, Job
from gcnrec.errors import UsageError
from gcnrec.loaders.parquet import ingest
from gcnrec.ops.draws.dated import pair_times
from gcnrec.ranking.seen import seen_items
from gcnrec.results.bundle import known_items
from gcnrec.results.evaluate import evaluate_run
from gcnrec.results.fold_in import with_new_nodes
from gcnrec.runs.folder import with_valid
from gcnrec.training import train as train_module
from gcnrec.training.build import TrainData, build_step, first_table, planned
from gcnrec.training.check import check
from gcnrec.training.open_keys import NEGATIVE_WEIGHT, notes, settled
from gcnrec.training.plan import plan_of
from gcnrec.training.train import train

USERS, GROUPS, SIZE = 200, 12, 6
K = 10


def tastes(seed=0):
    """Rows (user, item, time, rating), and pairs that each user would rate low and never met.

    A user likes three groups of items and dislikes four. Half of what the user takes is of liked groups, half of any group that
    is not disliked. Four items are rated low, of disliked groups alone. The last three rows of each user are of liked groups.
    """
    rng, rows, unmet = np.random.default_rng(seed), [], []
    for user in range(USERS):
        groups = rng.permutation(GROUPS)
        liked, disliked, other = groups[:3], groups[3:7], groups[7:]
        own = rng.permutation([group * SIZE + n for group in liked for n in range(SIZE)]).tolist()
        low = rng.permutation([group * SIZE + n for group in disliked for n in range(SIZE)]).tolist()
        more = rng.permutation([group * SIZE + n for group in other for n in range(SIZE)]).tolist()
        rows += [(user, item, time, 5.0) for time, item in enumerate([*own[:3], *more[:3]])]
        rows += [(user, item, time, 1.0) for time, item in enumerate(low[:4])]
        rows += [(user, item, 50 + time, 5.0) for time, item in enumerate(own[3:6])]
        rows += [(user, low[4], 47, 1.0), (user, low[5], 60, 1.0), (user, own[6], 45, 5.0)]
        unmet += [(user, item) for item in low[6:]]
    return rows, unmet


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Validation is from 45 on, test from 50 on: of a user's six negative pairs, one is of each of these times."""
    folder = tmp_path_factory.mktemp("tastes")
    users, items, times, ratings = zip(*tastes()[0], strict=True)
    pq.write_table(pa.table({"user": users, "item": items, "t": times, "r": ratings}), folder / "x.parquet")
    keys = {"user": "user", "item": "item", "time": "t", "rating": "r", "min_rating": 4, "negative_below": 3}
    data = Data.model_validate({"train": str(folder / "x.parquet"), **keys, "test_from": 50, "valid_size": 0.1})
    return ingest(data, folder / "data", data_root=None, name="tastes")


def job(**sections):
    given = {
        "train": {"epochs": 8, "batch_size": 256, "threads": 1, "refit": False},
        "evaluate": {"k": [K], "metric": f"recall@{K}", "bootstrap": 0, "baselines": [], "patience": 0},
        "model": {"width": 16},
        "optimizer": {"learning_rate": 0.02},
    }  # fmt: skip
    return Job.parse({key: given.get(key, {}) | sections.get(key, {}) for key in {**given, **sections}}, [], "t")


def disliked_places(run, dataset):
    """Mean place, from 0 to 1, of the items that users would rate low and never met, among all items."""
    scorer, users = run.scorer(), np.arange(dataset.graph.num_users, dtype=np.int32)
    scores = torch.empty(len(users), dataset.graph.num_items)
    scorer.score(scorer.prepare(users), 0, scorer.num_items, scores)
    places = scores.argsort(1, descending=True).argsort(1).numpy() / dataset.graph.num_items
    unmet = tastes()[1]
    users, items = (numbers.numbers(pa.array(side)) for numbers, side in zip(
        (dataset.user_ids, dataset.item_ids), zip(*unmet, strict=True), strict=True
    ))  # fmt: skip
    return float(places[users, items].mean())


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Runs of a job that draws negative pairs, and of one that does not."""
    folder = tmp_path_factory.mktemp("runs")
    return tuple(train(job(loss={"negative_weight": weight}), dataset, folder / str(weight)) for weight in (1, 0))


def test_recall_rises_and_what_users_would_rate_low_falls(dataset, runs):
    """Both lists leave the same items out, so that the difference is what training makes of the negative pairs."""
    drawn, none = runs
    recalls = [evaluate_run(run)[f"recall@{K}"] for run in runs]
    assert recalls[0] > 1.2 * recalls[1]
    assert disliked_places(drawn, dataset) > disliked_places(none, dataset) + 0.02


def pairs(csr):
    return set(zip(csr.row_numbers().tolist(), csr.indices.tolist(), strict=True))


def of(part):
    return set(zip(part.users_E.tolist(), part.items_E.tolist(), strict=True))


def test_lists_leave_out_what_users_rated_low_until_then(dataset, runs, tmp_path):
    low = pairs(dataset.negatives), *map(of, dataset.later_negatives)
    assert [len(part) for part in low] == [4 * USERS, USERS, USERS]
    listed = {}
    for seen in ("all", "train", "none"):
        recommend(runs[0], GROUPS * SIZE, tmp_path / f"{seen}.parquet", seen=seen)
        table = pq.read_table(tmp_path / f"{seen}.parquet")
        numbers = dataset.user_ids.numbers(table["user"]), dataset.item_ids.numbers(table["item"])
        listed[seen] = set(zip(*(each.tolist() for each in numbers), strict=True))
    assert not listed["all"] & set.union(*low)
    assert not listed["train"] & low[0] and low[1] | low[2] <= listed["train"]
    assert set.union(*low) <= listed["none"]
    for split, known in (("valid", low[:1]), ("test", low[:2])):
        left_out = set.union(*map(pairs, seen_items("target", dataset, split).parts))
        train, valid = pairs(dataset.graph.user_items), of(dataset.valid)
        assert left_out == set.union(train, *known, valid if split == "test" else set())
        assert seen_items("none", dataset, split).parts == ()
    assert set.union(*low) <= pairs(known_items(dataset))


def test_new_users_join_a_run_with_negative_pairs(dataset, runs, tmp_path):
    pq.write_table(pa.table({"user": [900, 900], "item": [3, 6]}), tmp_path / "new.parquet")
    wider = with_new_nodes(runs[0], tmp_path / "new.parquet", None, tmp_path).dataset
    assert [each.rows for each in wider.known_negatives(2)] == [USERS + 1] * 3
    assert pairs(wider.known_negatives(0)[0]) == pairs(dataset.negatives)
    assert recommend(runs[0], 5, tmp_path / "lists.parquet", new_users=tmp_path / "new.parquet").users == 1


def margin_after(sections, weight, dataset):
    """Mean score of the negative pairs of train less that of all pairs, after an epoch."""
    given = job(**{**sections, "loss": {**sections.get("loss", {}), "negative_weight": weight}})
    graph, plan = dataset.graph, plan_of(given, dataset.graph.num_nodes)
    step = build_step(given, plan, TrainData(graph, negatives=dataset.negatives), first_table(plan, graph))
    for batch in step.sampler.epoch(0):
        step(batch, 0.02)
    rows_ND = torch.empty(graph.num_nodes, step.encoder.export_width)
    step.encoder.export(step.table.drained(), rows_ND)
    scores = (rows_ND[: graph.num_users] @ rows_ND[graph.num_users :].T).numpy()
    csr = dataset.negatives
    return float(scores[csr.row_numbers(), csr.indices].mean() - scores.mean())


@pytest.mark.parametrize("sections", [
    {"model": {"name": "mf"}, "loss": {"name": "bpr"}},
    {"model": {"propagation": "sampled"}, "sampler": {"fanouts": [3]}},
    {"model": {"propagation": "none"}, "loss": {"name": "bsl"}},
    {"table": {"budget": 0.5}, "sampler": {"negatives": "uniform"}},
])  # fmt: skip
def test_every_trained_model_learns_from_them(dataset, sections):
    assert margin_after(sections, 2.0, dataset) < margin_after(sections, 0.0, dataset)


def test_a_refit_has_negative_pairs_until_test_apart_from_its_positives(dataset, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_module, "build_step", lambda *given: seen.append(given[2]) or build_step(*given))
    made = train(job(train={"epochs": 1, "refit": "train+valid"}), dataset, tmp_path / "run")
    fit, refit = seen
    assert fit.negatives is dataset.negatives
    assert pairs(refit.negatives) == (pairs(dataset.negatives) | of(dataset.later_negatives[0])) - pairs(refit.graph.user_items)
    assert made.job.loss.negative_weight == NEGATIVE_WEIGHT


def test_a_pair_of_a_refit_is_of_its_latest_row(tmp_path):
    """Items 1 to 6 of user 0: times and ratings of each; validation is from 10 on, test from 20 on."""
    known = {
        1: [(1, 5), (12, 1)],  # train holds it, and validation's time has it low
        2: [(1, 5), (12, 1), (14, 5)],  # and positive again
        3: [(1, 5), (12, 5), (14, 1)],
        4: [(12, 5), (14, 1)],  # validation alone has it
        5: [(12, 1), (14, 5)],
        6: [(1, 5), (22, 1)],  # low in test's time
    }
    rows = [(0, item, time, float(rating)) for item, own in known.items() for time, rating in own]
    rows += [(user, item, 1, 5.0) for user in (1, 2) for item in range(1, 8)] + [(0, 7, 13, 5.0), (1, 8, 21, 5.0), (0, 8, 2, 5.0)]
    users, items, times, ratings = zip(*rows, strict=True)
    weights = [10.0 * item + time for item, time in zip(items, times, strict=True)]
    columns = {"user": users, "item": items, "t": times, "r": ratings, "w": weights}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    keys = {"user": "user", "item": "item", "time": "t", "rating": "r", "weight": "w", "min_rating": 4, "negative_below": 3}
    for repeats in ("drop", "keep"):
        split = {"test_from": 20, "valid_size": 0.15, "repeats": repeats}
        data = Data.model_validate({"train": str(tmp_path / "x.parquet"), **keys, **split})
        dataset = ingest(data, tmp_path / repeats, data_root=None, name="d")
        graph, own = with_valid(dataset), dataset.user_ids.numbers(pa.array([0]))[0]
        assert named(dataset, graph.user_items, own) == {2, 5, 6, 7, 8}
        assert named(dataset, train_module._negatives_before_test(dataset, graph), own) == {1, 3, 4}
        weights_E = train_module._with_valid_weights(dataset, graph)
        here = graph.user_items.indptr[own] + np.searchsorted(
            graph.user_items.row(own), np.sort(dataset.item_ids.numbers(pa.array([2, 6])))
        )
        assert sorted(weights_E[here].tolist()) == [21 if repeats == "drop" else 34, 61]
        assert pair_times(graph)[here].tolist() == [1, 1]
        untimed = replace(dataset.later_negatives[0], times_E=None)  # as folders of earlier versions have them
        earlier = replace(dataset, later_negatives=(untimed, dataset.later_negatives[1]))
        assert named(dataset, with_valid(earlier).user_items, own) == {2, 4, 5, 6, 7, 8} | ({3} if repeats == "keep" else set())


def named(dataset, csr, user):
    return set(dataset.item_ids.decode(csr.row(user)).to_pylist())


def test_a_refit_knows_later_low_ratings_also_where_no_pair_of_validation_is_left(dataset):
    user, item = dataset.graph.user_items.row_numbers()[:1], dataset.graph.user_items.indices[:1]
    low, valid = (replace(dataset.valid, users_E=u, items_E=i, times_E=None) for u, i in ((user, item), (user[:0], item[:0])))
    bare = replace(dataset, valid=valid, later_negatives=(low, valid))
    assert pairs(with_valid(bare).user_items) == pairs(dataset.graph.user_items) - of(low)
    assert with_valid(replace(bare, later_negatives=(valid, valid))) is dataset.graph


def test_a_refit_without_later_low_ratings_has_the_history_of_train(dataset):
    plain = without(dataset)
    graph = with_valid(plain)
    assert graph.history.user_items is plain.graph.user_items and graph.history.times_E is plain.graph.history.times_E
    assert pairs(graph.user_items) == pairs(plain.graph.user_items) | of(plain.valid)


def test_the_data_decides_the_weight_where_the_job_leaves_it_open(dataset):
    assert any(
        line.startswith(f"loss.negative_weight={NEGATIVE_WEIGHT}: users rated items low") for line in notes(job(), dataset)
    )
    assert f"loss.negative_weight={NEGATIVE_WEIGHT}" in check(job(), dataset)["by_data"]
    for sections in ({"loss": {"name": "directau"}}, {"model": {"name": "popularity"}}):
        given = job(**sections)
        assert settled(given, dataset).loss.negative_weight is None and notes(given, dataset) == notes(given, without(dataset))
    assert settled(job(), without(dataset)).loss.negative_weight is None
    begun = settled(job(loss={"negative_weight": 3}), dataset)
    assert settled(job(), dataset, begun).loss.negative_weight == 3


def without(dataset):
    return replace(dataset, negatives=None, later_negatives=())


def test_a_weight_is_refused_without_negative_pairs_and_on_a_gpu(dataset):
    with pytest.raises(
        UsageError, match="negative_weight = 2 needs pairs that users rated low, and this dataset has none; ingest"
    ):
        planned(job(loss={"negative_weight": 2}), without(dataset))
    on_gpu = job(train={"device": "cuda"}, model={"propagation": "none"}, optimizer={"rule": "adam"}, loss={"negative_weight": 2})
    with pytest.raises(UsageError, match=r"negative_weight = 2 is not known on a GPU in this version; set train.device = 'cpu'"):
        planned(on_gpu, dataset)
    assert planned(job(loss={"negative_weight": 0}), without(dataset)) is not None
