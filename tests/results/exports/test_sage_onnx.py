"""An exported encoder, run by the reference evaluator of ONNX, against the embeddings that torch gave the same run."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx.reference import ReferenceEvaluator

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.loaders.parquet import ingest
from gcnrec.results.export import export
from gcnrec.results.fold_in import with_new_nodes
from gcnrec.testing import halves, write_dataset
from gcnrec.training.train import train

SIZE, CLOSE = 14, 2e-6
"""Nodes of a side; the bound on a component of rows of length 1: sums of at most 14 float32 neighbours in another order."""


def vectors(items):
    rows = [[1.0 if item % 2 else -1.0, 0.1 * np.sin(item), 0.1 * np.cos(item)] for item in items]
    ids = pa.array([100 + item for item in items], pa.int64())
    return pa.table({"item": ids, "vector": pa.array(rows, pa.list_(pa.float32(), 3))})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def dataset(folder):
    """Users and items of two kinds that do not mix; items have features."""
    users, items = np.nonzero((np.arange(SIZE)[:, None] - np.arange(SIZE)) % 2 == 0)
    pq.write_table(pa.table({"user": [f"u{user}" for user in users], "item": items + 100}), folder / "pairs.parquet")
    pq.write_table(vectors(range(SIZE)), folder / "features.parquet")
    sections = {
        "train": str(folder / "pairs.parquet"), "user": "user", "item": "item", "split": "random", "test_size": 0.1,
        "valid_size": 0.1, "item_features": str(folder / "features.parquet"),
    }  # fmt: skip
    return ingest(Job.parse({"data": sections}, [], "test").data, folder / "data", data_root=None, name="kinds")


def trained(dataset, folder, sections=None, **model):
    sections = {
        "model": {"name": "graphsage", "layers": 2, "width": 8, "start": "normal", **model},
        "optimizer": {"rule": "adam", "learning_rate": 0.05},
        "train": {"epochs": 2, "batch_size": 32},
        "evaluate": {"baselines": [], "bootstrap": 0},
        **(sections or {}),
    }
    return train(Job.parse(sections, [], "test"), dataset, folder)


@pytest.fixture(scope="module")
def sage(dataset, folder):
    return trained(dataset, folder / "sage", id_dropout=0.5)


def edges(csr):
    """(2, E) int64: rows of a CSR, and what they read."""
    return np.stack([csr.row_numbers().astype(np.int64), csr.indices.astype(np.int64)])


def inputs_of(run, folder, graph):
    """What the encoder takes for all nodes of a run: rows as the export has them, features as the dataset has them."""
    given = {"user_edges": edges(graph.user_items), "item_edges": edges(graph.item_users)}
    for side in ("user", "item"):
        if (folder / f"{side}s.parquet").exists():
            rows = pq.read_table(folder / f"{side}s.parquet").column("row").to_pylist()
            given[f"{side}_rows"] = np.array(rows, np.float32)
    if run.dataset.item_features is not None and run.job.model.reads_features:
        given["item_features"] = np.array(run.dataset.item_features)
    return given


def encoded(folder, given):
    return ReferenceEvaluator(str(folder / "encoder.onnx")).run(None, given)


MODELS = [{}, {"inputs": "features"}]
MORE_MODELS = [pytest.param(model, marks=pytest.mark.slow) for model in ({"inputs": "rows", "layers": 1}, {"layers": 3})]


@pytest.mark.parametrize("model", [*MODELS, *MORE_MODELS])
def test_all_nodes_have_the_embeddings_of_the_run(dataset, tmp_path, model):
    run = trained(dataset, tmp_path / "run", **model)
    facts = export(run, "onnx", tmp_path / "out")
    given = inputs_of(run, tmp_path / "out", run.train_graph)
    if "num_users" in facts["inputs"]:
        given["num_users"] = np.array([SIZE])
    assert sorted(given) == sorted(facts["inputs"]) and facts["outputs"] == ["users", "items"]
    users, items = encoded(tmp_path / "out", given)
    scorer = run.scorer()
    assert np.abs(users - scorer.users_UD.numpy()).max() < CLOSE
    assert np.abs(items - scorer.items_ID.numpy()).max() < CLOSE
    assert facts["unit_length"] and np.linalg.norm(users, axis=1) == pytest.approx(np.ones(len(users)), abs=1e-6)


def test_new_nodes_are_encoded_as_recommend_does(sage, tmp_path):
    """A new user reads items which do not read it; a new item has features alone."""
    export(sage, "onnx", tmp_path / "out")
    pairs = [("new", 100), ("new", 104), ("other", 103)]
    pq.write_table(pa.table({"user": [a for a, _ in pairs], "item": [b for _, b in pairs]}), tmp_path / "users.parquet")
    pq.write_table(vectors([SIZE, SIZE + 1]), tmp_path / "items.parquet")
    wider = with_new_nodes(sage, tmp_path / "users.parquet", tmp_path / "items.parquet")
    given = inputs_of(sage, tmp_path / "out", wider.dataset.graph)
    given["item_features"] = np.array(wider.dataset.item_features)
    for side in ("user", "item"):
        given[f"{side}_rows"] = np.concatenate([given[f"{side}_rows"], np.zeros((2, 8), np.float32)])
    users, items = encoded(tmp_path / "out", given)
    assert np.abs(users - wider.trained.users_UD.numpy()).max() < CLOSE
    assert np.abs(items - wider.trained.items_ID.numpy()).max() < CLOSE


def test_a_graph_without_edges(sage, tmp_path):
    """One item without neighbours; the same as among all others."""
    export(sage, "onnx", tmp_path / "out")
    none = np.zeros((2, 0), np.int64)
    features = np.array(sage.dataset.item_features)[[3]]
    given = {"user_rows": np.zeros((0, 8), np.float32), "item_rows": np.zeros((1, 8), np.float32), "item_features": features}
    users, items = encoded(tmp_path / "out", {**given, "user_edges": none, "item_edges": none})
    assert users.shape == (0, 8)
    pq.write_table(vectors([SIZE]), tmp_path / "items.parquet")
    wider = with_new_nodes(sage, None, tmp_path / "items.parquet")
    given["item_features"] = np.array(wider.dataset.item_features)[[-1]]
    _, items = encoded(tmp_path / "out", {**given, "user_edges": none, "item_edges": none})
    assert np.abs(items - wider.trained.items_ID.numpy()[[-1]]).max() < CLOSE


def test_what_the_folder_says(sage, tmp_path):
    facts = export(sage, "onnx", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "encoder.onnx", "export.json", "items.parquet", "users.parquet",
    ]  # fmt: skip
    model = onnx.load(str(tmp_path / "out" / "encoder.onnx"))
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)] == [("", facts["opset"])]
    written = json.loads((tmp_path / "out" / "export.json").read_text())
    assert written["inputs"] == facts["inputs"] and written["kind"] == "onnx"
    before = (tmp_path / "out" / "encoder.onnx").read_bytes()
    export(sage, "onnx", tmp_path / "out", force=True)
    assert (tmp_path / "out" / "encoder.onnx").read_bytes() == before
    (tmp_path / "out" / "encoder.onnx").write_bytes(before[:4] + b"x" + before[5:])
    with pytest.raises(UsageError, match=r"it holds encoder.onnx, which is no part of an export, or is damaged"):
        export(sage, "parquet", tmp_path / "out", force=True)


def test_other_models_are_refused(tmp_path, run):
    with pytest.raises(UsageError, match=r"the encoder of graphsage, and .* holds lightgcn; choose --format bundle, or train"):
        export(run, "onnx", tmp_path / "out")


@pytest.mark.slow
def test_weighted_neighbours_are_refused(tmp_path):
    world = halves()
    weighted = write_dataset(world, tmp_path / "weighted", np.ones(len(world.graph.user_items.indices), np.float32))
    drawn = {"sampler": {"neighbours": "weighted"}}
    run = trained(weighted, tmp_path / "run", drawn, inputs="rows", propagation="sampled")
    with pytest.raises(UsageError, match=r"neighbours that count alike, .*; train with sampler.neighbours = 'uniform'"):
        export(run, "onnx", tmp_path / "out")


def test_without_the_extra(sage, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        UsageError, match=r"needs the package onnx, which is not installed; pip install '\.\[onnx\]' in a checkout"
    ):
        export(sage, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
