"""Shares of repeats and of pending pairs that lists find, by hand on a small shop; the baseline that finds most repeats."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gcnrec.config import Data, Job
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.worlds.shop import Shop, write_shop
from gcnrec.reports.run_report import write_report
from gcnrec.reports.text import metric_lines
from gcnrec.results.evaluate import evaluate_run, measure_baselines
from gcnrec.training.baselines import Rivals, baseline_names
from gcnrec.training.train import train

K = 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    write_shop(Shop(users=150, items=60, events=12_000, categories=6, repeats=0.6), folder / "shop")
    rows = {"train": str(folder / "shop/events"), "user": "user", "item": "item", "time": "time"}
    data = Data(**rows, behaviour="event", target="buy", repeats="keep", duplicates="sum")
    return ingest(data, folder / "data", data_root=None, name="shop")


def job(name, refit=None, **evaluate):
    given = {"k": [K], "bootstrap": 0, "baselines": [], **evaluate}
    train_settings = {"threads": 1} if refit is None else {"threads": 1, "refit": refit}
    return Job.parse({"model": {"name": name}, "evaluate": given, "train": train_settings}, [], "test")


def pairs_of(graph):
    return set(zip(graph.user_items.row_numbers().tolist(), graph.user_items.indices.tolist(), strict=True))


def by_hand(run, rule, split):
    """Kind -> its pairs, and the mean recall of its users, from all scores of the run."""
    dataset = run.dataset
    held = dataset.test if split == "test" else dataset.valid
    held = set(zip(held.users_E.tolist(), held.items_E.tolist(), strict=True))
    taken, met = pairs_of(dataset.graph), set()
    if split == "test":
        taken |= set(zip(dataset.valid.users_E.tolist(), dataset.valid.items_E.tolist(), strict=True))
    for other in dataset.others:
        met |= pairs_of((other.until_test if split == "test" else other).graph)
    kinds = {"repeats": held & taken if rule == "none" else set(), "pending": (held & met) - taken}
    scorer, users = run.scorer(), np.arange(dataset.graph.num_users, dtype=np.int32)
    scores = torch.empty(len(users), scorer.num_items)
    scorer.score(scorer.prepare(users), 0, scorer.num_items, scores)
    lists = []
    for user, row in enumerate(scores.numpy()):
        order = np.argsort(-row, kind="stable").tolist()
        lists.append({item for item in [i for i in order if rule == "none" or (user, i) not in taken][:K]})
    found = {}
    for kind, pairs in kinds.items():
        of_user = {user: {item for one, item in pairs if one == user} for user, _ in pairs}
        recalls = [len(items & lists[user]) / len(items) for user, items in of_user.items()]
        found[kind] = (len(pairs), len(recalls), len(pairs) / len(held), np.mean(recalls) if recalls else None)
    return {kind: values for kind, values in found.items() if values[0]}


@pytest.mark.parametrize(("name", "rule"), [("repeat", "none"), ("pending", "none"), ("pending", "target")])
def test_shares_are_those_by_hand(dataset, tmp_path, name, rule):
    run = train(job(name, seen=rule), dataset, tmp_path / "run")
    metrics = evaluate_run(run)
    wanted = by_hand(run, rule, "test")
    assert list(wanted) == (["repeats", "pending"] if rule == "none" else ["pending"])
    assert {*metrics["cold_start"]} & {"repeats", "pending"} == {*wanted}
    for kind, (pairs, users, share, recall) in wanted.items():
        found = metrics["cold_start"][kind]
        assert (found["pairs"], found["users"]) == (pairs, users) and found["share"] == pytest.approx(share)
        assert found[f"recall@{K}"] == pytest.approx(recall)
        assert f"{kind}: {users:,} users, {pairs:,} pairs, {share:.1%} of all" in metric_lines(metrics)


def test_validation_knows_less_than_test(dataset, tmp_path):
    run = train(job("repeat", refit=False), dataset, tmp_path / "run")
    wanted = by_hand(run, "none", "valid")
    found = evaluate_run(run, split="valid")["cold_start"]
    for kind, (pairs, _, _, recall) in wanted.items():
        assert found[kind]["pairs"] == pairs and found[kind][f"recall@{K}"] == pytest.approx(recall)


def test_repeat_finds_most_repeats_and_the_report_shows_them(dataset, tmp_path):
    run = train(job("popularity", baselines=["repeat", "pending"]), dataset, tmp_path / "run")
    evaluate_run(run)
    measure_baselines(run)
    events = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    recalls = {each["name"]: each["cold_start"]["repeats"][f"recall@{K}"] for each in events if each["event"] == "baseline"}
    own = json.loads((run.folder / "metrics.json").read_text())["cold_start"]["repeats"]
    assert recalls["repeat"] > 0.9 > 2 * max(recalls["pending"], own[f"recall@{K}"])
    page = write_report(run).read_text()
    assert f"pair that the user took before, among all items ({own['share']:.1%} of all pairs)" in page
    assert "pair met by another behaviour and not taken before, among all items" in page


def test_repeat_is_a_baseline_of_its_own_where_lists_may_hold_repeats(dataset):
    def names(**evaluate):
        settings = job("lightgcn", **{"baselines": "auto", **evaluate})
        return baseline_names(Rivals(settings.model, settings.evaluate, 0), dataset)

    assert names()[0] == "repeat" and "repeat" not in names(seen="target")


def test_auto_mixes_repeat_where_lists_may_hold_repeats(dataset, tmp_path):
    sections = {"model": {"width": 8}, "train": {"epochs": 1, "threads": 1, "refit": False}, "mixture": {"with": "auto"}}
    tried = {}
    for seen in ("none", "target"):
        given = {"k": [K], "bootstrap": 0, "baselines": [], "seen": seen}
        run = train(Job.parse({**sections, "evaluate": given}, [], "test"), dataset, tmp_path / seen)
        tried[seen] = set(run.mixture.chosen["alone"])
    assert tried["none"] - tried["target"] == {"repeat"}
