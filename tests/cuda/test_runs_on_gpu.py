"""Whole runs on a GPU, where there is one: as on the CPU, and the same bits whatever overlaps, is cached or lies where."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SECTIONS = {
    "dense": {},
    "slots": {"table": {"budget": 0.5}, "sparsity": {"policy": "dynamic", "batches": 2}},
    "slots-bfloat16": {"table": {"budget": 0.5, "dtype": "bfloat16"}, "sparsity": {"policy": "static"}},
}
KINDS = sorted(SECTIONS)


@pytest.fixture
def run(tmp_path):
    """Trains a small job; returns its epochs' events and the bytes of its embeddings. Skipped where jobs cannot be read."""
    for package in ("pydantic", "pyarrow", "cupy"):
        pytest.importorskip(package)
    config, testing = importlib.import_module("gcnrec.config"), importlib.import_module("gcnrec.testing")
    train = importlib.import_module("gcnrec.training.train").train
    dataset, done = testing.write_dataset(testing.halves(), tmp_path / "data"), []

    def trained(kind, device, parts=1, **table):
        given = SECTIONS[kind]
        sections = {
            "model": {"propagation": "sampled", "layers": 2, "width": 16, "start": "normal"},
            "optimizer": {"rule": "adam", "learning_rate": 0.02},
            "train": {"epochs": 3, "batch_size": 30, "threads": 1, "device": device, "parts": parts},
            "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0},
            **given, "table": {**given.get("table", {}), **table},
        }  # fmt: skip
        done.append(kind)
        folder = train(config.Job.parse(sections, [], "test"), dataset, tmp_path / f"run-{len(done)}").folder
        events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        embeddings = [(folder / "embeddings" / f"{side}.parquet").read_bytes() for side in ("users", "items")]
        return [event for event in events if event["event"] == "epoch"], embeddings

    return trained


@pytest.mark.parametrize("kind", ["dense", "slots-bfloat16"])
def test_as_on_the_cpu(kind, run):
    """Supports that change are left out: of two cells with next to equal gradients either may grow."""
    (epochs, _), (others, _) = run(kind, "cpu"), run(kind, "cuda")
    tolerance = 1e-3 if kind == "dense" else 2e-2
    assert [epoch["loss"] for epoch in others] == pytest.approx([epoch["loss"] for epoch in epochs], rel=tolerance)
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert all(epoch["rows_read"] > 0 and epoch["gigabytes_per_second"] > 0 for epoch in others)
    assert "rows_read" not in epochs[0]


@pytest.mark.parametrize("kind", ["dense", "slots-bfloat16"])
def test_parts_of_one_worker_as_on_the_cpu(kind, run):
    (epochs, _), (others, _) = run(kind, "cpu", 2), run(kind, "cuda", 2)
    tolerance = 1e-3 if kind == "dense" else 2e-2
    assert [epoch["loss"] for epoch in others] == pytest.approx([epoch["loss"] for epoch in epochs], rel=tolerance)
    assert epochs[-1]["loss"] < epochs[0]["loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_without_overlap(kind, run, monkeypatch):
    epochs, embeddings = run(kind, "cuda")
    pipelined, rows = (importlib.import_module(name) for name in ("gcnrec.tables.pipelined", "gcnrec.rows"))
    monkeypatch.setattr(pipelined.PipelinedTable, "prefetch", lambda table, rows_R, index_R=None: rows.Ticket(rows_R))
    serial, others = run(kind, "cuda")
    assert [epoch["loss"] for epoch in serial] == [epoch["loss"] for epoch in epochs] and others == embeddings


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_wherever_rows_lie(kind, run):
    epochs, embeddings = run(kind, "cuda")
    for table in ({"cache_bytes": 3500}, {"placement": "device"}, {"placement": "disk"}):
        again, others = run(kind, "cuda", **table)
        assert [epoch["loss"] for epoch in again] == [epoch["loss"] for epoch in epochs] and others == embeddings, table
        if table.get("placement") != "disk":
            assert again[0]["cache_hits"] > 0, table


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_where_pinning_is_refused(kind, run, monkeypatch):
    epochs, embeddings = run(kind, "cuda")
    queues, pinned = importlib.import_module("gcnrec.cuda.queues"), importlib.import_module("gcnrec.cuda.pinned")
    monkeypatch.setattr(queues, "pin_or_stage", lambda memory: pinned.StagedMemory(memory, "refused"))
    again, others = run(kind, "cuda")
    assert [epoch["loss"] for epoch in again] == [epoch["loss"] for epoch in epochs] and others == embeddings
