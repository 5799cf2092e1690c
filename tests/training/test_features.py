"""Runs whose features are stored in fewer bytes, in RAM or on disk; models of features alone leave the table as it started."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from built import start_table
from safetensors.torch import load_file

from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.tables.features.sides import Features, with_codes
from gcnrec.testing import checkerboard, write_dataset
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
    run = train(job_of({"feature_dtype": "int8"}), dataset, tmp_path / "run")
    ends = load_file(run.folder / "features.safetensors")
    features = with_codes(Features(dataset.user_features, dataset.item_features), dataset.graph, "int8", 0)
    for side, code in zip(("users", "items"), features.codes, strict=True):
        assert torch.equal(ends[f"{side}.low"], torch.from_numpy(code.grid.low_F))
        assert torch.equal(ends[f"{side}.high"], torch.from_numpy(code.grid.high_F))


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
    with pytest.raises(DataError, match=r"column 0 of the user features has 1e\+06"):
        check(job_of({"feature_dtype": "float16"}), replace(dataset, user_features=dataset.user_features + np.float32(1e6)))
