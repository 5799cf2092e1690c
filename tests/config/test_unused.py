"""Settings without effect are named; whatever a job needs is not."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from gcnrec.config import Data, Job
from gcnrec.config.unused import unused_data_settings, unused_settings
from gcnrec.models import objective
from gcnrec.reports.progress import Quiet
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({}, []),
        ({"model": {"name": "mf", "layers": 3}}, ["model.layers = 3"]),
        ({"model": {"propagation": "none", "layers": 3}}, ["model.layers = 3"]),
        ({"model": {"layers": 3}, "sampler": {"fanouts": [2, 2, 2]}}, ["sampler.fanouts = (2, 2, 2)"]),
        ({"model": {"layers": 2, "propagation": "sampled"}, "sampler": {"fanouts": [2, 2]}}, []),
        ({"sampler": {"num_negatives": 4, "exclude_seen": True}}, ["sampler.num_negatives = 4", "sampler.exclude_seen = True"]),
        ({"sampler": {"num_negatives": 4, "exclude_seen": True, "negatives": "uniform"}}, []),
        ({"sampler": {"negatives": "uniform", "popularity_power": 0.5}}, ["sampler.popularity_power = 0.5"]),
        ({"loss": {"name": "bpr", "temperature": 0.2, "logq": 0.5}}, ["loss.temperature = 0.2", "loss.logq = 0.5"]),
        ({"loss": {"name": "directau", "temperature": 0.2}, "mixture": {"with": "gfcf"}}, []),
        ({"loss": {"name": "bpr", "temperature": 0.2}, "mixture": {"with": "gfcf"}}, ["loss.temperature = 0.2"]),
        ({"model": {"popularity_days": 30.0}, "evaluate": {"baselines": []}}, []),
        ({"model": {"popularity_days": 30.0, "popularity": "inner"}, "evaluate": {"baselines": ["popularity"]}}, []),
        (
            {"model": {"popularity_days": 30.0, "popularity": "inner"}, "evaluate": {"baselines": []}},
            ["model.popularity_days = 30.0"],
        ),
        (
            {"model": {"popularity_days": 30.0}, "sampler": {"negatives": "uniform"}, "evaluate": {"baselines": ["ease"]}},
            ["model.popularity_days = 30.0"],
        ),
        ({"model": {"exponents": "auto"}}, ["model.exponents = 'auto'"]),
        ({"model": {"exponents": "auto"}, "mixture": {"with": "gfcf"}}, ["model.exponents = 'auto'"]),
        ({"model": {"exponents": "auto"}, "mixture": {"with": ["gfcf", "linkprop"]}}, []),
        ({"model": {"exponents": "auto"}, "mixture": {"with": "auto"}}, []),
        ({"loss": {"name": "directau", "score": "inner", "uniformity": 2.0}}, ["loss.score = 'inner'"]),
        ({"loss": {"precision": "bfloat16"}, "sampler": {"negatives": "uniform"}}, ["loss.precision = 'bfloat16'"]),
        ({"sparsity": {"stop": 0.5}}, ["sparsity.stop = 0.5"]),
        ({"table": {"budget": 0.5}, "sparsity": {"stop": 0.5, "ratio": 0.2, "user_share": 0.1}}, []),
        (
            {"table": {"budget": 0.5}, "sparsity": {"policy": "gradual", "first": "random", "ratio": 0.2}},
            ["sparsity.first = 'random'", "sparsity.ratio = 0.2"],
        ),
        ({"model": {"name": "pinsage", "id_dropout": 0.5}, "sampler": {"walks": 9}}, []),
        ({"model": {"name": "graphsage"}, "sampler": {"walks": 9}}, ["sampler.walks = 9"]),
        ({"model": {"name": "ease"}, "loss": {"uniformity": 2.0}}, []),
        ({"table": {"placement": "device", "cache_bytes": 9}}, ["table.placement = 'device'", "table.cache_bytes = 9"]),
        ({"table": {"placement": "disk"}, "train": {"transfer_blocks": 4}}, ["train.transfer_blocks = 4"]),
        (
            {"optimizer": {"rule": "sgd", "beta1": 0.5, "beta2": 0.5, "epsilon": 0.1, "final_rate": 0.5, "layer_rate": 0.5}},
            [
                f"optimizer.{key}"
                for key in ("beta1 = 0.5", "beta2 = 0.5", "epsilon = 0.1", "final_rate = 0.5", "layer_rate = 0.5")
            ],
        ),
        ({"optimizer": {"rule": "adagrad_row", "beta2": 0.5, "epsilon": 0.1}}, ["optimizer.beta2 = 0.5"]),
        ({"optimizer": {"schedule": "cosine", "final_rate": 0.5, "beta1": 0.5}}, []),
        ({"model": {"name": "ngcf"}, "optimizer": {"rule": "sgd", "beta1": 0.5, "epsilon": 0.1, "layer_rate": 0.5}}, []),
    ],
)
def test_named_are_those_that_change_nothing(sections, found):
    sentences = unused_settings(Job.parse(sections, [], "test"), on_gpu=False, has_features=True)
    assert [sentence.split(" changes nothing")[0] for sentence in sentences] == found


def test_settings_of_features_matter_where_a_model_reads_features_that_exist():
    def named(model, has_features):
        job = Job.parse({"model": {"feature_dtype": "int8", "feature_scale": 0.5, **model}}, [], "test")
        return unused_settings(job, on_gpu=False, has_features=has_features)

    assert named({"name": "graphsage"}, True) == []
    for model, has_features, where in (
        ({"name": "graphsage"}, False, "the dataset has features; ingest with --item-features or --user-features"),
        ({"name": "graphsage", "inputs": "rows"}, True, "model.name = 'graphsage' or 'pinsage' reads features"),
        ({"name": "graphsage", "inputs": "rows"}, False, "model.name = 'graphsage' or 'pinsage' reads features"),
    ):
        assert named(model, has_features) == [
            f"model.{setting} changes nothing in this job; it matters where {where}"
            for setting in ("feature_dtype = 'int8'", "feature_scale = 0.5")
        ]


def test_on_a_gpu_the_place_of_the_table_matters():
    def named(table):
        sections = {"table": table, "train": {"transfer_blocks": 4}}
        return [
            sentence.split(" changes nothing")[0]
            for sentence in unused_settings(Job.parse(sections, [], "test"), on_gpu=True, has_features=True)
        ]

    assert named({"cache_bytes": 9}) == named({"placement": "disk", "cache_bytes": 9}) == named({"placement": "device"}) == []
    assert named({"placement": "device", "cache_bytes": 9}) == ["table.cache_bytes = 9"]


def test_a_precision_that_the_processor_lacks_is_warned_of(tmp_path, monkeypatch):
    class Warned(Quiet):
        def warn(self, text):
            warned.append(text)

    data, warned = write_dataset(checkerboard(12), tmp_path / "data"), []
    sections = {"model": {"width": 4}, "train": {"epochs": 1, "threads": 1}, "loss": {"precision": "bfloat16"}}
    job = Job.parse(sections, [], "test")
    monkeypatch.setattr(objective, "has_bfloat16", lambda: False)
    train(job, data, tmp_path / "run", observer=Warned())
    assert len(warned) == 1 and warned[0].startswith("loss.precision = 'bfloat16' on this CPU")
    assert warned[0].endswith("set loss.precision = 'float32'")
    assert objective.slow_precision(Job().loss, job.sampler, on_gpu=False) is None
    assert objective.slow_precision(job.loss, job.sampler, on_gpu=True) is None
    monkeypatch.setattr(objective, "has_bfloat16", lambda: True)
    assert objective.slow_precision(job.loss, job.sampler, on_gpu=False) is None


def test_a_processor_without_its_instructions_has_no_bfloat16():
    """AMX, AVX-512 or Arm's extension; AVX2 alone has none."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if platform.machine() != "x86_64" or "avx512f" in words or "avx2" not in words:
        pytest.skip("says something of x86-64 with AVX2 alone")
    assert not objective.has_bfloat16()


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "mf", "layers": 3}},
        {"sampler": {"num_negatives": 4, "exclude_seen": True, "popularity_power": 0.5, "fanouts": [2]}},
        {"model": {"id_dropout": 0.9, "feature_scale": 0.7}, "sampler": {"walks": 9, "walk_length": 3, "restart": 0.2}},
        {"loss": {"name": "bpr", "temperature": 0.2, "logq": 0.5, "positive_temperature": 0.3, "precision": "bfloat16"}},
        {"loss": {"name": "directau", "score": "inner", "temperature": 0.3, "logq": 0.4}},
        {"table": {"placement": "device", "cache_bytes": 4096}, "train": {"transfer_blocks": 4}},
        {"optimizer": {"rule": "sgd", "beta1": 0.5, "beta2": 0.5, "epsilon": 0.1, "final_rate": 0.5, "layer_rate": 0.5}},
        {"loss": {"uniformity": 3.0, "positive_temperature": 0.3}, "sparsity": {"stop": 0.5, "batches": 3, "least_slots": 2}},
        {
            "table": {"budget": 0.5},
            "sparsity": {
                "policy": "gradual",
                "stop": 0.2,
                "first": "random",
                "ratio": 0.2,
                "degree_power": 0.1,
                "user_share": 0.2,
            },
        },
        {
            "table": {"budget": 0.5},
            "sparsity": {"policy": "static", "stop": 0.2, "ratio": 0.2, "interval": 0.5, "least_slots": 2},
        },
    ],
)
def test_they_change_nothing(change, tmp_path):
    """The embeddings are those of a job without them, bit for bit, and each is told."""

    class Told(Quiet):
        def warn(self, text):
            told.append(text)

    def embeddings(name, sections):
        common = {"epochs": 2, "batch_size": 64, "threads": 1}
        evaluate = {"baselines": [], "metric": "recall@3"}
        made = {**sections, "train": {**sections.get("train", {}), **common}, "evaluate": evaluate}
        run = train(Job.parse(made, [], "test"), data, tmp_path / name, observer=Told())
        return [(run.folder / "embeddings" / f"{side}.parquet").read_bytes() for side in ("users", "items")]

    data, told = write_dataset(checkerboard(16), tmp_path / "data"), []
    needed = {"name", "budget", "policy", "rule"}
    named = [f"{section}.{key}" for section, keys in change.items() for key in keys if key not in needed]
    bare = {section: {key: value for key, value in keys.items() if key in needed} for section, keys in change.items()}
    for sections in (change, bare):
        sections.setdefault("model", {})["width"] = 8
    changed = embeddings("changed", change)
    assert sorted(text.split(" = ")[0] for text in told) == sorted(named)
    assert changed == embeddings("bare", bare) and len(told) == len(named)


@pytest.mark.parametrize(
    ("split", "given", "found"),
    [
        ("random", {"test_size": 0.3, "valid_size": 0.3}, []),
        ("given", {"test": "t", "test_size": 0.3}, ["test_size = 0.3"]),
        ("given", {"test": "t", "valid": "v", "valid_size": 0.3}, ["valid_size = 0.3"]),
        ("leave_last", {"time": "t", "test_size": 0.0}, ["test_size = 0.0"]),
        ("temporal", {"time": "t", "test_size": 0.3, "time_unit": "ms"}, []),
        ("temporal", {"time": "t", "test_from": 5, "test_size": 0.3}, ["test_size = 0.3"]),
        ("random", {"time_unit": "ms", "text_width": 8}, ["time_unit = 'ms'", "text_width = 8"]),
        ("cold_items", {"text_width": 8, "item_features": "f"}, []),
    ],
)
def test_settings_of_ingestion_without_effect_are_named(split, given, found):
    sentences = unused_data_settings(Data.model_validate(given), split)
    assert [sentence.split(" changes nothing")[0] for sentence in sentences] == found
