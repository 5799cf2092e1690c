"""Runs whose features are stored in fewer bytes, in RAM or on disk; models of features alone leave the table as it started."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from built import start_table
from safetensors.torch import load_file

from gcnrec.config import Job
from gcnrec.errors import DataError, DeviceError
from gcnrec.reports.progress import Quiet
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.unread import UnreadTable
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training import build
from gcnrec.training import train as train_module
from gcnrec.training.check import check
from gcnrec.training.train import train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    draw = np.random.default_rng(0)
    data = write_dataset(checkerboard(), tmp_path_factory.mktemp("data") / "d")
    users, items = (draw.normal(size=(24, width)).astype(np.float32) for width in (3, 5))
    return replace(data, user_features=users, item_features=items)


def job_of(model=None, **sections):
    return Job.model_validate(
        {
            "model": {"name": "graphsage", "width": 8, "start": "normal", **(model or {})},
            "train": {"epochs": 2, "batch_size": 64, "refit": "train+valid"},
            "evaluate": {"baselines": [], "bootstrap": 0},
            **sections,
        }
    )


def tensors_of(run):
    return load_file(run.folder / "checkpoints" / "last.safetensors")


def test_a_refit_has_the_codes_of_the_fit(dataset, tmp_path):
    """The last item has interactions in validation alone: a refit trains on it, and it decides no end."""
    world = checkerboard()
    train_edges = [edge for edge in world.train if edge[1] != 23]
    data = write_dataset(replace(world, train=train_edges, valid=[*world.valid, (1, 23)]), tmp_path / "d")
    items = dataset.item_features.copy()
    items[23] = 100.0
    run = train(job_of({"feature_dtype": "int8"}), replace(data, item_features=items), tmp_path / "run")
    assert run.merged_graph.item_users.degrees[23] > 0 == data.graph.item_users.degrees[23]
    ends = load_file(run.folder / "features.safetensors")
    assert ends.keys() == {"items.low", "items.step", "items.high"}
    assert (ends["items.low"] - torch.from_numpy(items[:23].min(0))).abs().max() <= ends["items.step"].max() / 2
    assert ends["items.high"].tolist() == items[:23].max(0).tolist()


def test_features_on_disk_give_the_same_bits(dataset, tmp_path):
    runs = [
        train(job_of({"feature_dtype": "int8"}, table={"placement": kind}), dataset, tmp_path / kind) for kind in ("host", "disk")
    ]
    first, second = map(tensors_of, runs)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    other = tensors_of(train(job_of(), dataset, tmp_path / "float32"))
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_model_of_features_alone_leaves_the_table_alone(dataset, tmp_path):
    job = job_of({"inputs": "features"}, loss={"l2": 100.0})
    found = tensors_of(train(job, dataset, tmp_path / "run"))
    start_ND = start_table(job, dataset.graph).columns(0, 8)
    assert torch.equal(found["table.weights"], start_ND) and not found["table.last"].any()
    assert found["adam.0.step"] > 0
    rows = tensors_of(train(job_of(), dataset, tmp_path / "both"))["table.weights"]
    assert not torch.equal(rows, start_ND)


def test_a_check_counts_the_bytes_of_features(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {dtype: check(job_of({"feature_dtype": dtype}), dataset) for dtype in ("float32", "int8")}
    assert found["float32"]["feature_bytes"] == 0  # read where the dataset lies
    assert found["int8"]["feature_bytes"] == 24 * 4 + 24 * 8
    assert found["int8"]["ram_bytes"] - found["float32"]["ram_bytes"] == 24 * 12
    monkeypatch.setattr(build, "read_limits", lambda: SimpleNamespace(available=10))
    with pytest.raises(DeviceError, match=r"features 288, 10 are free .* model.feature_dtype = 'int8', or set table.placement"):
        check(job_of({"feature_dtype": "int8"}), dataset)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"column 0 of the user features has 1e\+06"):
        check(job_of({"feature_dtype": "float16"}), replace(dataset, user_features=dataset.user_features + np.float32(1e6)))


def epochs_of(run):
    events = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "epoch"]


@pytest.mark.parametrize("inputs", ["both", "features"])
def test_behind_a_device_a_run_is_the_same(inputs, dataset, tmp_path, monkeypatch, fake_device):
    """With a refit, validations and checkpoints in between."""
    job = job_of({"inputs": inputs, "feature_dtype": "bfloat16"})
    plain = train(job, dataset, tmp_path / "plain")

    def behind(placement, graph, table, observer, features, reads_rows):
        assert reads_rows == (inputs == "both") and features.widths == (3, 5)
        hot, device = Prefixes(graph.num_users, 3, 4), fake_device.FakeDevice(1)
        return PipelinedTable(table, device, hot) if reads_rows else UnreadTable(table, device, hot)

    monkeypatch.setattr(train_module, "placed", behind)
    other = train(job, dataset, tmp_path / "behind")
    first, second = tensors_of(plain), tensors_of(other)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    for side in ("users", "items"):
        exports = [(run.folder / "embeddings" / f"{side}.parquet").read_bytes() for run in (plain, other)]
        assert exports[0] == exports[1]
    for one, two in zip(epochs_of(plain), epochs_of(other), strict=True):
        assert (one["loss"], one.get("valid")) == (two["loss"], two.get("valid"))
        assert 0 < two["cache_hits"] < 1 and two["bytes_read"] > 0 and "bytes_read" not in one


def test_a_check_warns_of_keys_that_change_nothing_as_training_does(dataset, tmp_path):
    class Warned(Quiet):
        def __init__(self):
            self.texts = []

        def warn(self, text):
            self.texts.append(text)

    job, plain = job_of({"feature_dtype": "int8"}), replace(dataset, user_features=None, item_features=None)
    checked, trained, quiet = Warned(), Warned(), Warned()
    check(job, plain, checked)
    train(job, plain, tmp_path / "run", observer=trained)
    check(job, dataset, quiet)
    assert checked.texts == trained.texts and quiet.texts == []
    assert checked.texts == [
        "model.feature_dtype = 'int8' changes nothing in this job; "
        "it matters where the dataset has features; ingest with --item-features or --user-features"
    ]
