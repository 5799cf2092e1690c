"""`gcnrec recommend --for-items`: the users most likely to take an item, against NumPy over all users and items."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import DataError, DivergedError, UsageError
from gcnrec.graph import csr_from_edges
from gcnrec.ops.topk import Hidden
from gcnrec.ranking.audience import Crowd, audiences
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.results.given.request import left_out
from gcnrec.results.outputs import Output
from gcnrec.results.shop import audience as module
from gcnrec.results.shop.audience import AudienceFiles, AudienceOptions, audience
from gcnrec.testing import checkerboard, empty_rows, write_dataset
from gcnrec.training.train import train
from tests.helpers.heard import Heard

K = 4
TRAINED = {"model": {"name": "mf", "width": 4}, "train": {"epochs": 2, "refit": False}}
MIXED = {**TRAINED, "mixture": {"with": ["itemknn"], "weights": [0.5, 1.0]}}
JOBS = {"mf": TRAINED, "mixture": MIXED, "itemknn": {"model": {"name": "itemknn"}}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("audience") / "data")


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    made = {}
    for name, job in JOBS.items():
        more = {"evaluate": {"k": [3], "metric": "recall@3", "bootstrap": 0, "baselines": []}}
        made[name] = train(Job.parse({**job, **more}, [], "t"), data, tmp_path_factory.mktemp("audience") / name)
    return made


@pytest.fixture
def items(data, tmp_path):
    """Items in another order than their numbers, one of them twice and one unknown."""
    ids = data.item_ids.ids.to_pylist()
    path = tmp_path / "items.csv"
    path.write_text("\n".join(["item", *map(str, [ids[5], ids[0], 77, ids[5], *ids[:0:-1]])]) + "\n")
    return path


def all_scores(run):
    """Scores of the run by the model alone, float64 (U, I)."""
    scorer = run.scorer()
    users = np.arange(scorer.num_users, dtype=np.int32)
    out = torch.empty(scorer.num_users, scorer.num_items)
    scorer.score(scorer.prepare(users), 0, scorer.num_items, out)
    return out.numpy().astype(np.float64)


def by_numpy(name, run, known):
    """Expected interactions of all pairs, float64 (U, I), 0 where the user has the item; `known`: what counts as activity."""
    scores = all_scores(run)
    if name == "mf":
        scores = np.exp((scores - scores.max(axis=1, keepdims=True)) / run.job.loss.temperature)
    scores = np.maximum(scores, 0)
    scores /= np.maximum(scores.sum(axis=1, keepdims=True), 1e-300)
    activity = 1 + sum(part.degrees for part in known)
    scores *= activity[:, None]
    for part in known:
        scores[part.row_numbers(), part.indices] = 0
    return scores


def lists_of(path):
    found = {}
    for row in pq.read_table(path).to_pylist():
        found.setdefault(row["item"], []).append((row["user"], row["score"]))
        assert row["rank"] == len(found[row["item"]])
    return found


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("chunks", [(3, 2), (128, 1000)])
@pytest.mark.parametrize("seen", ["train", "all"])
def test_lists_are_the_most_likely_users_of_all(runs, items, tmp_path, monkeypatch, name, chunks, seen):
    run, dataset = runs[name], runs[name].dataset
    monkeypatch.setattr(module, "audience_chunks", lambda *_: chunks)
    made = audience(run, AudienceFiles(items), AudienceOptions(K, seen), tmp_path / "out.parquet")
    expected = by_numpy(name, run, left_out(dataset, seen))
    found, ids = lists_of(tmp_path / "out.parquet"), dataset.item_ids.ids.to_pylist()
    wanted = [item for item in dict.fromkeys([ids[5], ids[0], *ids[:0:-1]]) if expected[:, ids.index(item)].any()]
    assert list(found) == wanted and (made.items, made.unknown_items) == (len(wanted), 1)
    assert made.dropped["for_items"] == {"rows": len(ids) + 3, "unknown_item": 1, "repeated": 2, "excluded": 0}
    users = dataset.user_ids.ids.to_pylist()
    for item, listed in found.items():
        column = expected[:, ids.index(item)]
        best = np.sort(column[column > 0])[::-1][:K]
        np.testing.assert_allclose([score for _, score in listed], best, rtol=2e-5)
        np.testing.assert_allclose([column[users.index(user)] for user, _ in listed], best, rtol=2e-5)


def test_users_and_pairs_are_left_out(runs, data, tmp_path):
    ids, users = data.item_ids.ids.to_pylist(), data.user_ids.ids.to_pylist()
    (tmp_path / "items.csv").write_text(f"item\n{ids[0]}\n{ids[1]}\n")
    (tmp_path / "users.csv").write_text("user\n" + "\n".join(users[8:2:-1]) + "\nnobody\n")
    everyone = lists_of_all(runs["mf"], AudienceFiles(tmp_path / "items.csv", tmp_path / "users.csv"), tmp_path)
    assert set(everyone[ids[0]]) <= set(users[3:9])
    first = everyone[ids[0]][0]
    (tmp_path / "pairs.csv").write_text(f"user,item\n{first},{ids[0]}\n")
    without = lists_of_all(
        runs["mf"], AudienceFiles(tmp_path / "items.csv", tmp_path / "users.csv", tmp_path / "pairs.csv"), tmp_path
    )
    assert without == {ids[0]: everyone[ids[0]][1:], ids[1]: everyone[ids[1]]}
    (tmp_path / "gone.csv").write_text(f"item\n{ids[0]}\n")
    files = AudienceFiles(tmp_path / "items.csv", tmp_path / "users.csv", tmp_path / "gone.csv")
    assert lists_of_all(runs["mf"], files, tmp_path) == {ids[1]: everyone[ids[1]]}


def lists_of_all(run, files, folder):
    audience(run, files, AudienceOptions(1000, "train"), Output(folder / "out.parquet", force=True))
    return {item: [user for user, _ in listed] for item, listed in lists_of(folder / "out.parquet").items()}


def test_who_rated_an_item_low_is_left_out_and_no_more_active(runs, data, tmp_path):
    ids, run = data.item_ids.ids.to_pylist(), runs["mf"]
    (tmp_path / "items.csv").write_text(f"item\n{ids[0]}\n{ids[1]}\n")
    files, options = AudienceFiles(tmp_path / "items.csv"), AudienceOptions(1000)
    audience(run, files, options, tmp_path / "plain.parquet")
    plain = lists_of(tmp_path / "plain.parquet")
    low = data.user_ids.numbers(pa.array([plain[ids[0]][1][0]]))
    negatives = csr_from_edges(low, np.zeros(1, np.int32), len(data.user_ids), len(ids))
    audience(replace(run, dataset=replace(data, negatives=negatives)), files, options, tmp_path / "low.parquet")
    plain[ids[0]].pop(1)
    assert lists_of(tmp_path / "low.parquet") == plain


def test_new_users_are_an_audience(runs, data, tmp_path):
    ids = data.item_ids.ids.to_pylist()
    (tmp_path / "items.csv").write_text(f"item\n{ids[0]}\n{ids[2]}\n")
    (tmp_path / "new.csv").write_text(f"user,item\nfresh,{ids[0]}\nother,{ids[4]}\n")
    found = lists_of_all(runs["mf"], AudienceFiles(tmp_path / "items.csv", new_users=tmp_path / "new.csv"), tmp_path)
    assert found[ids[0]] == ["other"] and sorted(found[ids[2]]) == ["fresh", "other"]


def test_items_that_nobody_has_get_the_most_active_users(tmp_path):
    """User 0 has three items, user 1 two, user 2 one, user 3 none; item 3 is user 3's in test."""
    data = write_dataset(empty_rows(), tmp_path / "data")
    run = train(Job.parse({**TRAINED, "evaluate": {"baselines": []}}, [], "t"), data, tmp_path / "run")
    (tmp_path / "items.csv").write_text("item\n1003\n1000\n")
    heard = Heard()
    made = audience(run, AudienceFiles(tmp_path / "items.csv"), AudienceOptions(9), tmp_path / "model.parquet", observer=heard)
    assert (made.untrained, made.fallback) == (1, 0)
    assert "1 of 2 items have no interaction" in heard.warnings[-1] and "--fallback popularity" in heard.warnings[-1]
    made = audience(run, AudienceFiles(tmp_path / "items.csv"), AudienceOptions(9, fallback="popularity"), tmp_path / "f.parquet")
    assert (made.untrained, made.fallback, made.items) == (0, 1, 2)
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["item", "user", "rank", "score", "source"]
    rows = [row for row in table.to_pylist() if row["item"] == 1003]
    assert [(row["user"], row["score"], row["source"]) for row in rows] == [
        ("u0", 4.0, "fallback"), ("u1", 4.0, "fallback"), ("u2", 2.0, "fallback")
    ]  # fmt: skip
    assert {row["source"] for row in table.to_pylist() if row["item"] == 1000} == {"model"}


def test_the_command_writes_what_the_function_writes(gcnrec, runs, items, tmp_path):
    code, out, _ = gcnrec("recommend", runs["mf"].folder, "--for-items", items, "--k", K, "--out", "a.csv", "--json")
    assert code == 0 and json.loads(out)["short"] == 0
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == '"item","user","rank","score"'
    code, _, err = gcnrec("recommend", runs["mf"].folder, "--for-items", items, "--out", "b.csv", "--candidates", items)
    assert code == 2 and "--for-items lists users, and --candidates says what lists of items hold; leave one of them out" in err
    assert gcnrec("recommend", runs["mf"].folder, "--for-items", items, "--out", "a.csv")[0] == 2


def test_mistakes_are_sentences(runs, items, tmp_path):
    for given, words in (
        ({"k": 0}, "--k must be at least 1"), ({"k": 1, "seen": "some"}, "--seen must be one of all"),
        ({"k": 1, "fallback": "x"}, "--fallback must be 'popularity'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            AudienceOptions(**given)
    (tmp_path / "none.csv").write_text("item\n77\n")
    with pytest.raises(DataError, match="must name items of checkerboard, none of its 1 ids is one; check its item column"):
        audience(runs["mf"], AudienceFiles(tmp_path / "none.csv"), AudienceOptions(1), tmp_path / "out.parquet")
    with pytest.raises(UsageError, match="is read by this command, and would be lost"):
        audience(runs["mf"], AudienceFiles(items), AudienceOptions(1), Output(items, force=True))
    assert not (tmp_path / "out.parquet").exists()


def test_scores_that_are_no_numbers_are_refused():
    scorer = EmbeddingScorer(torch.tensor([[1.0], [float("nan")]]), torch.ones(3, 1))
    crowd = Crowd(np.arange(2, dtype=np.int32), np.ones(2, np.float32), lambda rows_B: Hidden(()))
    with pytest.raises(DivergedError, match="scores must be numbers, got NaN"):
        audiences(scorer, np.array([1], np.int32), 1, crowd, 2, lambda done, count: None)
