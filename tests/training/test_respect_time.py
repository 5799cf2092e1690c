"""Runs whose pairs see their own past alone: they resume to equal bits, need times, and count what the order of time takes."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heard import Cut

from gcnrec.config import Data, Job
from gcnrec.errors import UsageError
from gcnrec.loaders.parquet import ingest
from gcnrec.ops.draws.dated import pair_times
from gcnrec.runs.folder import with_valid
from gcnrec.runs.paths import JOB
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.build import planned
from gcnrec.training.check import check
from gcnrec.training.train import train

SECTIONS = {
    "model": {"propagation": "sampled", "layers": 2, "width": 8},
    "sampler": {"respect_time": True, "fanouts": [3, 2]},
    "table": {"budget": 0.5},
    "optimizer": {"learning_rate": 0.02},
    "train": {"epochs": 2, "batch_size": 64, "threads": 1, "refit": "train+valid"},
    "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0, "every": 2},
    "mixture": {"with": []},
}


def job(**sections):
    return Job.parse({**SECTIONS, **sections}, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Purchases and views with times, cut in time."""
    folder, draw = tmp_path_factory.mktemp("timed"), np.random.default_rng(0)
    columns = {
        "u": draw.integers(0, 20, 700),
        "i": draw.integers(0, 15, 700),
        "t": draw.integers(0, 90, 700),
        "kind": draw.choice(["view", "buy"], 700),
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    keys = {"user": "u", "item": "i", "time": "t", "split": "temporal", "test_from": 80, "valid_size": 0.2}
    data = Data.model_validate({"train": str(folder / "rows.parquet"), **keys, "behaviour": "kind", "target": "buy"})
    return ingest(data, folder / "data", data_root=None, name="timed")


def embeddings(run):
    return [(run.folder / "embeddings" / f"{side}.parquet").read_bytes() for side in ("users", "items")]


def test_a_run_resumes_to_equal_bits(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("gcnrec.steps.epochs"), "REPORT_SECONDS", 0.0)
    whole = train(job(), dataset, tmp_path / "whole")
    for epochs in (1, 3):  # in the fit, and in the refit
        with pytest.raises(KeyboardInterrupt):
            train(job(), dataset, tmp_path / f"cut-{epochs}", observer=Cut(epochs))
        assert embeddings(train(job(), dataset, tmp_path / f"cut-{epochs}", resume=True)) == embeddings(whole), epochs
    blind = train(job(sampler={"fanouts": [3, 2]}), dataset, tmp_path / "blind")
    assert embeddings(blind) != embeddings(whole)
    assert "respect_time" in (whole.folder / JOB).read_text() and "respect_time" not in (blind.folder / JOB).read_text()


def test_the_order_of_time_is_counted(dataset):
    counted = [check(job(sampler=sampler), dataset)["graph_bytes"] for sampler in ({}, {"respect_time": True})]
    assert counted[1] - counted[0] == 16 * dataset.graph.union.num_edges + 4 * dataset.graph.num_edges


def test_a_refit_has_the_times_of_both(dataset):
    graph, known = with_valid(dataset), {}
    parts = [(dataset.graph.user_items.row_numbers(), dataset.graph.user_items.indices, dataset.times_E)]
    parts.append((dataset.valid.users_E, dataset.valid.items_E, dataset.valid.times_E))
    for part in parts:
        for user, item, time in zip(*map(np.ndarray.tolist, map(np.asarray, part)), strict=True):
            known[user, item] = min(time, known.get((user, item), time))
    edges = zip(graph.user_items.row_numbers().tolist(), graph.user_items.indices.tolist(), strict=True)
    assert pair_times(graph).tolist() == [known[edge] for edge in edges]
    assert len(known) > dataset.graph.num_edges


def test_data_without_times_is_refused(dataset, tmp_path):
    remedy = "ingest with --time, or leave sampler.respect_time out"
    plain = write_dataset(checkerboard(), tmp_path / "plain")
    with pytest.raises(UsageError, match=f"needs times of interactions, this dataset has none; {remedy}"):
        train(job(), plain, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    views = replace(dataset.others[0], times_E=None)
    with pytest.raises(UsageError, match="behaviour 'view' has none"):
        planned(job(), replace(dataset, graph=replace(dataset.graph, others=(views,))))
    undated = replace(dataset, valid=replace(dataset.valid, times_E=None))
    with pytest.raises(UsageError, match="validation pairs have none"):
        planned(job(), undated)
    assert planned(job(train={"refit": False}), undated) is not None


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"model": {"propagation": "full"}}, "got 'lightgcn' with 'full'; set model.propagation = 'sampled'"),
        ({"model": {"name": "ease"}}, "got 'ease' with "),
        ({"model": {"name": "pinsage", "propagation": "sampled"}}, "got 'pinsage' with 'sampled'"),
        ({"sampler": {"respect_time": True, "neighbours": "weighted"}}, "and sampler.neighbours = 'weighted' by weight"),
        ({"model": {"propagation": "sampled", "weighted_graph": True}}, "and model.weighted_graph by weight; leave one of"),
        (
            {
                "model": {"name": "graphsage", "propagation": "sampled"},
                "sampler": {"respect_time": True, "exclude_positives": True},
            },
            "leave sampler.exclude_positives out",
        ),
        ({"train": {"device": "cuda"}}, "such jobs train on the CPU alone; set train.device = 'cpu'"),
    ],
)
def test_jobs_that_cannot_are_refused(sections, sentence):
    with pytest.raises(UsageError, match=sentence):
        Job.parse({"model": {"propagation": "sampled"}, "sampler": {"respect_time": True}, **sections}, [], "test")


def test_a_gpu_is_not_chosen():
    assert not job().trains_on_gpu and job(sampler={}).trains_on_gpu
