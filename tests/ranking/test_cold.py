"""Metrics of what training did not see, by hand; what a report shows of them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.config import Data, Job
from gcnrec.graph import csr_from_edges
from gcnrec.interactions import Interactions, MemoryVocabulary
from gcnrec.loaders.on_demand import DataRequest
from gcnrec.loaders.parquet import ingest
from gcnrec.ops.topk import Seen
from gcnrec.pipeline import run_job
from gcnrec.ranking.evaluate import HeldOutSplit, cold_metrics
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.reports.text import metric_lines
from gcnrec.results.evaluate import evaluate_run
from gcnrec.runs.events import read_lines
from gcnrec.system.observer import SILENT
from gcnrec.training.train import train

TRAIN = [(0, 0), (0, 1), (1, 0), (1, 2)]
USERS, ITEMS = 3, 6  # user 2 and items 3, 4, 5 are cold
SCORES_UI = torch.tensor([[9.0, 8, 7, 6, 5, 4], [9, 8, 7, 4, 6, 5], [1, 2, 3, 4, 5, 6]])


def pairs(edges):
    users_E, items_E = (np.array(column, np.int32) for column in zip(*edges, strict=True))
    vocabularies = MemoryVocabulary(pa.array(["a", "b", "c"])), MemoryVocabulary(pa.array(range(ITEMS)))
    return Interactions(users_E, items_E, None, None, *vocabularies)


def measured(edges, ks=(1, 2)):
    seen = csr_from_edges(*(np.array(column, np.int32) for column in zip(*TRAIN, strict=True)), USERS, ITEMS)
    degrees_I = np.bincount([item for _, item in TRAIN], minlength=ITEMS)
    scorer = EmbeddingScorer(SCORES_UI, torch.eye(ITEMS))
    return cold_metrics(scorer, HeldOutSplit(pairs(edges), Seen((seen,)), degrees_I, lambda users: seen.degrees[users]), ks)


def test_groups_by_hand():
    # Lists without what was seen: user 0: 2 3 4 5; user 1: 1 4 5 3; user 2: 5 4 3 2 1 0.
    found = measured([(0, 2), (0, 3), (1, 4), (1, 3), (2, 4), (2, 0)])
    assert list(found) == ["warm", "warm_apart", "cold_items", "cold_items_apart", "cold_users"]
    assert found["warm"] == {"users": 1, "pairs": 1, "recall@1": 1.0, "recall@2": 1.0, "ndcg@1": 1.0, "ndcg@2": 1.0}
    cold = found["cold_items"]
    assert (cold["users"], cold["pairs"]) == (3, 4)
    # At 2 among all: 3 for user 0 (1/1), 4 for user 1 (1/2), 4 for user 2 (1/1); at 1 nobody.
    assert cold["recall@1"] == 0.0 and cold["recall@2"] == pytest.approx((1 + 0.5 + 1) / 3)
    # Among 3, 4, 5 alone: user 0: 3 first; user 1: 4 5 3; user 2: 5 4 3.
    apart = found["cold_items_apart"]
    assert apart["recall@1"] == pytest.approx((1 + 0.5 + 0) / 3) and apart["recall@2"] == pytest.approx((1 + 0.5 + 1) / 3)
    second = 1 / np.log2(3)
    assert apart["ndcg@2"] == pytest.approx((1 + 1 / (1 + second) + second) / 3)
    assert (found["cold_users"]["users"], found["cold_users"]["recall@2"]) == (1, 0.5)


def test_nothing_to_tell_without_cold_nodes():
    assert measured([(0, 2), (1, 1)]) == {}


def test_a_group_without_pairs_is_left_out():
    assert list(measured([(0, 3)])) == ["cold_items", "cold_items_apart"]


def test_lines():
    lines = metric_lines({"split": "test", "recall@2": 0.5, "cold_start": measured([(0, 3)])})
    assert "cold_items: 1 users, 1 pairs" in lines


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two kinds of users and items that do not mix; a fifth of the items is new, and features tell every item's kind."""
    folder = tmp_path_factory.mktemp("kinds")
    edges = [(user, item) for user in range(40) for item in range(40) if (user - item) % 2 == 0]
    pq.write_table(pa.table(list(zip(*edges, strict=True)), names=["user", "item"]), folder / "pairs.parquet")
    kinds = pa.table({"item": range(40), "kind": ["odd" if item % 2 else "even" for item in range(40)]})
    pq.write_table(kinds, folder / "kinds.parquet")
    settings = {
        "train": str(folder / "pairs.parquet"),
        "user": "user",
        "item": "item",
        "item_features": str(folder / "kinds.parquet"),
    }
    data = Data.model_validate({**settings, "split": "cold_items", "test_size": 0.2, "warm_size": 0.1})
    return ingest(data, folder / "data", data_root=None, name="kinds")


@pytest.mark.parametrize("refit", [False, "train+valid"])
def test_a_run_ranks_new_items_and_tells(dataset, tmp_path, refit):
    sections = {
        "model": {"name": "graphsage", "width": 16, "start": "normal", "id_dropout": 0.5, "norm_power": 0.0},
        "sampler": {"fanouts": [20]},
        "optimizer": {"rule": "adam", "learning_rate": 0.02},
        "train": {"epochs": 3, "batch_size": 64, "refit": refit},
        "evaluate": {"k": [4], "metric": "recall@4", "bootstrap": 0, "baselines": ["contentknn", "itemknn"]},
    }
    job_path = tmp_path / "job.toml"
    job_path.write_text("[run]\n")
    folder = tmp_path / "run"
    job = Job.parse(sections, [], "test")
    metrics, report = run_job(job, DataRequest(job.data, job_path, dataset.folder), folder, False, SILENT)
    cold = metrics["cold_start"]
    if not refit:
        # Half of the new items are of the user's kind: guessing among them gets half of what this does.
        new = sum(dataset.graph.item_users.degrees == 0)
        assert cold["cold_items_apart"]["recall@4"] > 0.75 * 4 / (new / 2)
    assert json.loads((folder / "metrics.json").read_text())["cold_start"] == cold
    baselines = {event["name"]: event["cold_start"] for event in read_lines(folder) if event["event"] == "baseline"}
    assert baselines["contentknn"]["cold_items_apart"]["recall@4"] > baselines["itemknn"]["cold_items"]["recall@4"] == 0.0
    page = report.read_text()
    assert "item not seen, among such items" in page and f"{cold['cold_items_apart']['recall@4']:.4f}" in page


def test_content_neighbours_are_a_run_as_well(dataset, tmp_path):
    job = Job.parse({"model": {"name": "contentknn", "neighbours": 40}, "evaluate": {"bootstrap": 0}}, [], "test")
    metrics = evaluate_run(train(job, dataset, tmp_path / "run"))
    assert metrics["cold_start"]["cold_items"]["recall@20"] > 0.3
