"""Whole runs on worlds with known answers: they solve them, repeat, resume, refit, stop early and stop at a bad loss."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numba
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from built import start_table

from gcnrec.config import Job
from gcnrec.errors import DataError, DeviceError, DivergedError, UsageError
from gcnrec.models import hops
from gcnrec.ranking.top_k import top_k_all
from gcnrec.reports.progress import Quiet
from gcnrec.runs.documents import read_json
from gcnrec.runs.folder import load_checkpoint, open_run, with_valid
from gcnrec.steps.step import Step
from gcnrec.tables import placement
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.testing import checkerboard, halves, write_dataset
from gcnrec.training.plan import plan_of
from gcnrec.training.train import train, use_threads
from gcnrec.workers import launch

train_module = importlib.import_module("gcnrec.training.train")
epochs_module = importlib.import_module("gcnrec.steps.epochs")
SIZE = 24
SMALL = {"width": 4, "layers": 1}


def job(**sections):
    """A few quick epochs on two threads unless told otherwise."""
    defaults = {
        "model": SMALL,
        "optimizer": {"learning_rate": 0.02},
        "train": {"epochs": 4, "batch_size": 64, "threads": 1},
        "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0},
    }
    merged = {name: {**defaults.get(name, {}), **sections.get(name, {})} for name in {*defaults, *sections}}
    return Job.parse(merged, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(SIZE), tmp_path_factory.mktemp("world") / "data")


def embeddings(run):
    return [(run.folder / "embeddings" / f"{side}.parquet").read_bytes() for side in ("users", "items")]


def events(run):
    """What happened, less that a run was resumed."""
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] != "resume"]


def best_items(run):
    users = np.arange(run.dataset.graph.num_users, dtype=np.int32)
    return top_k_all(run.scorer(), users, 1, run.merged_graph.user_items).items_BK[:, 0]


class Interrupting(Quiet):
    """Raises KeyboardInterrupt at the `count`-th step, over all epochs."""

    def __init__(self, count):
        self.left = count

    def step(self, *figures):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


SOLVERS = {
    "lightgcn": {},
    "lightgcn, 3 layers, bsl": {"model": {"layers": 3}, "loss": {"name": "bsl"}},
    "lightgcn without propagation": {"model": {"propagation": "none"}, "optimizer": {"rule": "adam"}},
    "lightgcn, directau, random start": {"model": {"start": "normal", "width": 8}, "loss": {"name": "directau"}},
    "lightgcn, sampled": {
        "model": {"propagation": "sampled", "layers": 2},
        "sampler": {"fanouts": [4, 3]},
        "optimizer": {"rule": "adam"},
        "train": {"epochs": 12},
    },
    "mf": {"model": {"name": "mf", "propagation": "none"}, "optimizer": {"rule": "adam"}},
    "mf, bpr": {
        "model": {"name": "mf", "propagation": "none"},
        "loss": {"name": "bpr", "score": "inner"},
        "sampler": {"negatives": "uniform", "num_negatives": 4, "exclude_seen": True},
        "optimizer": {"rule": "adam_row"},
        "train": {"epochs": 8},
    },
    "ngcf": {"model": {"name": "ngcf", "layers": 2}, "train": {"epochs": 10}},
    "popularity-shaped negatives": {"sampler": {"negatives": "popularity", "num_negatives": 8}, "loss": {"logq": True}},
    "adagrad, random start": {
        "model": {"start": "normal"},
        "optimizer": {"rule": "adagrad_row", "learning_rate": 0.05},
        "train": {"epochs": 30},
    },
}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_checkerboard_is_solved(name, dataset, tmp_path):
    run = train(job(**SOLVERS[name]), dataset, tmp_path / "run")
    assert np.array_equal(best_items(run), np.arange(SIZE))
    assert len(events(run)) == run.job.train.epochs


def test_lists_do_not_cross_between_halves(tmp_path):
    data = write_dataset(halves(9, 6), tmp_path / "data")
    run = train(job(), data, tmp_path / "run")
    assert np.array_equal(best_items(run), np.arange(15))


@pytest.mark.parametrize("model", ["lightgcn", "mf", "ngcf"])
def test_one_seed_gives_one_result_bit_for_bit(model, dataset, tmp_path):
    first, second, other = (
        train(job(model={"name": model}, train={"epochs": 2, "seed": seed}), dataset, tmp_path / name)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert embeddings(first) == embeddings(second) != embeddings(other)
    assert [event["loss"] for event in events(first)] == [event["loss"] for event in events(second)]


@pytest.mark.parametrize("checkpoint_every", [1, 2])
@pytest.mark.parametrize(
    ("model", "rule", "cuts"),
    [
        ("lightgcn", "adam_dense", (6, 24)),
        ("lightgcn", "adam", (12, 19)),
        ("ngcf", "adam", (11, 27)),
        ("mf", "adam_row", (2, 30)),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(model, rule, cuts, checkpoint_every, dataset, tmp_path, monkeypatch):
    """Four epochs of four steps, then a refit of three or four of five: one cut in each, within an epoch."""
    monkeypatch.setattr(epochs_module, "REPORT_SECONDS", 0.0)
    settings = job(
        model={"name": model},
        optimizer={"rule": rule, "schedule": "cosine"},
        train={"refit": "train+valid"},
        run={"checkpoint_every": checkpoint_every},
        evaluate={"every": 3},
    )
    whole = train(settings, dataset, tmp_path / "whole")
    done = [(event["stage"], event["epoch"], event["loss"]) for event in events(whole)]
    for interrupt in cuts:
        out = tmp_path / f"cut {interrupt}"
        with pytest.raises(KeyboardInterrupt):
            train(settings, dataset, out, observer=Interrupting(interrupt))
        run = train(settings, dataset, out, resume=True, observer=Quiet())
        assert embeddings(run) == embeddings(whole), f"interrupted at step {interrupt}"
        assert [(e["stage"], e["epoch"], e["loss"]) for e in events(run)] == done
        best = [load_checkpoint(folder / "checkpoints" / "best.safetensors") for folder in (out, whole.folder)]
        assert all(torch.equal(best[0][0][name], best[1][0][name]) for name in best[1][0])
        assert {**best[0][1], "seconds": 0} == {**best[1][1], "seconds": 0}


def test_resuming_a_finished_run_changes_nothing(dataset, tmp_path):
    settings = job(train={"refit": "train+valid"})
    run = train(settings, dataset, tmp_path / "run")
    before = embeddings(run), events(run)
    again = train(settings, dataset, tmp_path / "run", resume=True)
    assert (embeddings(again), events(again)) == before


def test_resuming_where_nothing_is_starts(dataset, tmp_path):
    assert train(job(train={"epochs": 1}), dataset, tmp_path / "run", resume=True).folder.is_dir()


def test_resuming_with_other_settings_or_data_is_refused(dataset, tmp_path):
    train(job(train={"epochs": 1}), dataset, tmp_path / "run")
    with pytest.raises(UsageError, match=r"other settings .*: train\.epochs = 1, now 2; resume with .*job\.toml"):
        train(job(train={"epochs": 2}), dataset, tmp_path / "run", resume=True)
    other = write_dataset(halves(), tmp_path / "other")
    with pytest.raises(UsageError, match="other data"):
        train(job(train={"epochs": 1}), other, tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="never overwritten"):
        train(job(train={"epochs": 1}), dataset, tmp_path / "run")


def exported(run):
    """Users and items by original id, straight from the files."""
    tables = [pq.read_table(run.folder / "embeddings" / f"{side}.parquet") for side in ("users", "items")]
    return [np.array(table.column("embedding").to_pylist(), np.float64) for table in tables]


def exported_scores(run):
    """Of every user and item, as the files say: the inner product, and where there is one the column of popularity."""
    users, items = exported(run)
    facts = pq.read_schema(run.folder / "embeddings" / "users.parquet").metadata
    table = pq.read_table(run.folder / "embeddings" / "items.parquet")
    factor = json.loads(facts[b"gcnrec"])["popularity_factor"]
    column = table.column("popularity").to_numpy() if "popularity" in table.column_names else 0.0
    return users @ items.T + factor * column


@pytest.mark.parametrize("model", ["lightgcn", "mf", "ngcf"])
def test_scores_of_the_exported_parquet_are_the_scorers(model, dataset, tmp_path):
    run = train(job(model={"name": model, "layers": 2}), dataset, tmp_path / "run")
    scorer = run.scorer()
    scores = torch.empty(SIZE, SIZE)
    scorer.score(scorer.prepare(np.arange(SIZE, dtype=np.int32)), 0, SIZE, scores)
    assert scores.numpy() == pytest.approx(exported_scores(run), rel=1e-5, abs=1e-6)


def test_a_run_in_float16_has_the_rounded_rows_and_ranks_by_them(dataset, tmp_path, monkeypatch):
    """In several blocks of columns, by stretches; the other run in one block."""
    sections = {"model": {"propagation": "sampled", "layers": 2}, "sampler": {"fanouts": [4, 4]}, "train": {"epochs": 1}}
    whole = exported(train(job(**sections), dataset, tmp_path / "whole"))
    monkeypatch.setattr(hops, "block_columns", lambda *_: 4)
    run = train(job(**sections, export={"dtype": "float16"}), dataset, tmp_path / "run")
    assert all(np.array_equal(half, rows.astype(np.float16)) for half, rows in zip(exported(run), whole, strict=True))
    scores = torch.empty(SIZE, SIZE)
    scorer = run.scorer()
    scorer.score(scorer.prepare(np.arange(SIZE, dtype=np.int32)), 0, SIZE, scores)
    assert scores.numpy() == pytest.approx(exported_scores(run), rel=1e-5, abs=1e-6)
    with pytest.raises(UsageError, match="has its embeddings in float16 already"):
        train(job(**sections), dataset, tmp_path / "run", resume=True)


def test_validation_is_that_of_the_exported_rows(dataset, tmp_path):
    """recall@3 of the last epoch by a loop over the exported rows: train left out, one held-out item a user."""
    run = train(job(train={"epochs": 1}), dataset, tmp_path / "run")
    scores = exported_scores(run)
    hits = []
    for user, wanted in checkerboard(SIZE).valid:
        seen = set(dataset.graph.user_items.row(user).tolist())
        ranked = sorted((item for item in range(SIZE) if item not in seen), key=lambda item: -scores[user, item])
        hits.append(wanted in ranked[:3])
    assert events(run)[0]["valid"]["recall@3"] == pytest.approx(np.mean(hits), abs=1e-9)


def test_exported_items_get_the_length_that_the_job_asks_for(dataset, tmp_path):
    """The same training exported three ways: |e|^1, then 1, then |e|^0.5 * degree^0.25; users never change."""
    plain, cosine, mixed = (
        exported(train(job(model=powers), dataset, tmp_path / str(number)))
        for number, powers in enumerate(({"popularity": "inner"}, {"norm_power": 0.0}, {"norm_power": 0.5, "degree_power": 0.25}))
    )
    lengths = np.linalg.norm(plain[1], axis=1, keepdims=True)
    degrees = dataset.graph.item_users.degrees[:, None]
    assert np.array_equal(plain[0], cosine[0]) and np.array_equal(plain[0], mixed[0])
    assert cosine[1] == pytest.approx(plain[1] / lengths, rel=1e-5)
    assert mixed[1] == pytest.approx(plain[1] / lengths**0.5 * degrees**0.25, rel=1e-5)


def scripted(monkeypatch, values):
    """Validation returns `values` in turn."""
    turns = iter(values)
    monkeypatch.setattr(train_module, "validate", lambda *_: {"valid": {"recall@3": next(turns)}})


def test_early_stopping_keeps_the_best_epoch(dataset, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.9])
    run = train(job(train={"epochs": 9}, evaluate={"patience": 2}), dataset, tmp_path / "run")
    assert [event["epoch"] for event in events(run)] == [1, 2, 3, 4]
    _, progress = load_checkpoint(run.folder / "checkpoints" / "best.safetensors")
    assert (progress["best_epoch"], progress["best_value"]) == (2, 0.3)
    scripted(monkeypatch, [0.1, 0.3])
    two_epochs = train(job(train={"epochs": 2}), dataset, tmp_path / "two")
    last, _ = load_checkpoint(two_epochs.folder / "checkpoints" / "last.safetensors")
    best, _ = load_checkpoint(run.folder / "checkpoints" / "best.safetensors")
    assert torch.equal(best["table.weights"], last["table.weights"])
    assert embeddings(run) == embeddings(two_epochs)


def test_validation_every_other_epoch_and_at_the_end(dataset, tmp_path):
    run = train(job(train={"epochs": 5}, evaluate={"every": 2}), dataset, tmp_path / "run")
    assert [event["epoch"] for event in events(run) if "valid" in event] == [2, 4, 5]


def test_refit_trains_on_both_for_the_chosen_epochs(dataset, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.1, 0.3, 0.2, 0.2])
    run = train(job(train={"refit": "train+valid"}), dataset, tmp_path / "run")
    stages = [(event["stage"], event["epoch"]) for event in events(run)]
    assert stages == [("fit", epoch) for epoch in (1, 2, 3, 4)] + [("refit", 1), ("refit", 2)]
    assert run.refitted and run.train_graph.num_edges == with_valid(dataset).num_edges > dataset.graph.num_edges
    # The same two epochs on a dataset whose train already holds both.
    world = checkerboard(SIZE)
    both = write_dataset(type(world)("both", SIZE, SIZE, world.train + world.valid, [], world.test), tmp_path / "both")
    plain = train(job(train={"epochs": 2}), both, tmp_path / "plain")
    assert embeddings(run) == embeddings(plain)


def test_refit_merges_weights_in_the_order_of_the_edges(tmp_path):
    world = checkerboard(6)
    csr = world.graph.user_items
    weights = (10.0 * csr.row_numbers() + csr.indices + 1).astype(np.float32)
    data = write_dataset(world, tmp_path / "data", weights)
    graph = with_valid(data)
    merged = train_module._with_valid_weights(data, graph)
    known = {edge: 10.0 * edge[0] + edge[1] + 1 for edge in world.train} | dict.fromkeys(world.valid, 1.0)
    edges = zip(graph.user_items.row_numbers().tolist(), graph.user_items.indices.tolist(), strict=True)
    assert merged.tolist() == [known[edge] for edge in edges]


@pytest.mark.parametrize(("keys", "repeated"), [
    ({}, [5.0, 7.0]), ({"duplicates": "sum"}, [6.0, 9.0]),
    ({"duplicates": "sum", "weight_log": True}, [np.log(np.e + np.exp(5) - 1), np.log(np.exp(2) + np.exp(7) - 1)]),
])  # fmt: skip
def test_a_refit_weighs_pairs_that_validation_repeats_as_ingestion_would(tmp_path, keys, repeated):
    world = checkerboard(6)
    csr = world.graph.user_items
    data = write_dataset(world, tmp_path / "data", np.arange(1, csr.num_edges + 1).astype(np.float32))
    users, items = np.append(csr.row_numbers()[:2], data.valid.users_E), np.append(csr.indices[:2], data.valid.items_E)
    weights = np.array([5, 7] + [3] * len(data.valid), np.float32)
    valid = replace(data.valid, users_E=users, items_E=items, times_E=None, weights_E=weights)
    data = replace(data, valid=valid, info={**data.info, "data": keys})
    graph = with_valid(data)
    merged = train_module._with_valid_weights(data, graph)
    places = graph.user_items.positions(users, items)
    assert merged[places].tolist() == pytest.approx(repeated + [3] * (len(valid) - 2), rel=1e-6)
    assert merged[graph.user_items.positions(csr.row_numbers()[2:], csr.indices[2:])].tolist() == data.weights_E[2:].tolist()


def test_without_validation_the_last_epoch_is_the_best(tmp_path):
    data = write_dataset(halves(), tmp_path / "data")
    run = train(job(train={"epochs": 3}, evaluate={"patience": 1}), data, tmp_path / "run")
    _, progress = load_checkpoint(run.folder / "checkpoints" / "best.safetensors")
    assert progress["best_epoch"] == 3 and len(events(run)) == 3


@pytest.mark.parametrize("rule", ["sgd", "adam_dense"])
def test_divergence_stops_the_run_with_its_step(rule, dataset, tmp_path):
    settings = job(
        model={"name": "mf"}, loss={"score": "inner"}, optimizer={"rule": rule, "learning_rate": 1e30}, train={"epochs": 2}
    )
    with pytest.raises(DivergedError, match="step 2") as stopped:
        train(settings, dataset, tmp_path / "run")
    assert stopped.value.exit_code == 5
    assert not (tmp_path / "run" / "embeddings").exists() and not list((tmp_path / "run" / "checkpoints").iterdir())


def test_init_from_matches_rows_by_original_id(dataset, tmp_path):
    notes, warnings = [], []

    class Noting(Quiet):
        def note(self, text):
            notes.extend([text] if text.startswith("init_from") else [])

        def warn(self, text):
            warnings.append(text)

    first = train(job(), dataset, tmp_path / "first")
    settings = job(train={"init_from": str(first.folder), "epochs": 1}, optimizer={"learning_rate": 1e-9})
    second = train(settings, dataset, tmp_path / "second", observer=Noting())
    tables = [load_checkpoint(run.folder / "checkpoints" / "best.safetensors")[0]["table.weights"] for run in (first, second)]
    assert tables[1].numpy() == pytest.approx(tables[0].numpy(), abs=1e-6)
    assert "24 users matched, 0 new, 0 lost" in notes[0] and "24 items matched" in notes[1]
    assert warnings == []
    smaller = write_dataset(checkerboard(20), tmp_path / "smaller")
    third = train(settings, smaller, tmp_path / "third", observer=Noting())
    assert "20 users matched, 0 new, 4 lost" in notes[2]
    # Users 18 and 19 of the smaller board validate on items 0 and 1, where the larger board trains.
    assert len(warnings) == 1 and "trained on 2 of the 20 validation pairs" in warnings[0]
    assert [event["text"] for event in events(third) if event["event"] == "warning"] == warnings
    with pytest.raises(UsageError, match=r"set model.width = 4"):
        train(job(model={"width": 8}, train={"init_from": str(first.folder)}), dataset, tmp_path / "fourth")


def test_observer_is_told(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(epochs_module, "REPORT_SECONDS", 0.0)
    told = []

    class Listening(Quiet):
        def step(self, *figures):
            told.append(figures[:4])

        def epoch(self, record):
            told.append((record["stage"], record["epoch"], record["step"]))

    train(job(train={"epochs": 2}), dataset, tmp_path / "run", observer=Listening())
    steps = -(-dataset.graph.num_edges // 64)
    expected = []
    for epoch in (1, 2):
        expected += [(epoch, 2, index, steps) for index in range(1, steps + 1)] + [("fit", epoch, epoch * steps)]
    assert told == expected


def test_memory_of_a_run(dataset, tmp_path):
    run = train(job(train={"epochs": 1}), dataset, tmp_path / "run")
    report = read_json(run.folder / "memory.json")
    assert (report["values"], report["value_bytes"], report["state_bytes"]) == (192, 768, 2 * 768 + 4 * 48)
    assert report["values_max_seen"] <= report["budget_values"] == 192


@pytest.mark.parametrize("name", ["popularity", "gfcf"])
def test_closed_form_models_train_by_the_same_call(name, dataset, tmp_path):
    run = train(job(model={"name": name, "factors": 2}), dataset, tmp_path / "run")
    scores = torch.empty(SIZE, SIZE)
    scorer = run.scorer()
    scorer.score(scorer.prepare(np.arange(SIZE, dtype=np.int32)), 0, SIZE, scores)
    if name == "popularity":
        assert torch.equal(scores, torch.from_numpy(dataset.graph.item_users.degrees).float().expand(SIZE, SIZE))
    else:
        assert np.array_equal(best_items(run), np.arange(SIZE))


def test_threads_come_back_and_have_a_limit():
    before = torch.get_num_threads()
    with use_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match=r"train.threads must be at most"), use_threads(10_000):
        pass


def test_threads_default_to_no_more_than_numba_has(monkeypatch):
    monkeypatch.setattr(launch, "available_cores", lambda: 10_000)
    with use_threads(None):
        assert torch.get_num_threads() == numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(dataset, tmp_path):
    wanted = job(model={"propagation": "none"}, optimizer={"rule": "adam"}, train={"device": "cuda"})
    with pytest.raises(DeviceError, match="needs an NVIDIA GPU"):
        train(wanted, dataset, tmp_path / "run")
    run = train(
        job(model={"propagation": "none"}, optimizer={"rule": "adam"}, train={"device": "auto"}), dataset, tmp_path / "other"
    )
    assert len(events(run)) == run.job.train.epochs


def test_a_device_out_of_memory_is_one_sentence(dataset, tmp_path, monkeypatch):
    def full(self, uploaded, rate):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Step, "train", full)
    with pytest.raises(DeviceError, match=r"begin another run with a lower train\.batch_size or fewer sampler\.fanouts"):
        train(job(), dataset, tmp_path / "run")


@pytest.mark.parametrize(
    ("full", "setting"), [("empty", r"7 rows and their .* lower table\.cache"), ("resident", r"lower train\.batch")]
)
def test_a_device_without_room_for_the_table_is_one_sentence(full, setting, dataset, tmp_path, monkeypatch, fake_device):
    def no_room(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def behind(job, graph, table, tell, *features):
        return PipelinedTable(table, fake_device.FakeDevice(0), Prefixes(graph.num_users, 3, 4))

    monkeypatch.setattr(fake_device.FakeDevice, full, no_room)
    monkeypatch.setattr(train_module, "placed", behind)
    with pytest.raises(DeviceError, match=setting):
        train(job(model={"propagation": "none"}, optimizer={"rule": "adam"}), dataset, tmp_path / "run")


def test_memory_that_cannot_be_pinned_is_told(dataset, tmp_path, monkeypatch, fake_device):
    class Telling(fake_device.FakeDevice):
        def adopt(self, memory, length):
            self.tell("bytes should have been pinned; rows are copied instead")

    def pipeline_of(gpu, blocks, on_file, tell):
        assert (gpu, blocks, on_file) == ("a GPU", 7, False)
        device = Telling(0)
        device.tell = tell
        return device

    class Observer(Quiet):
        def note(self, text):
            notes.append(text)

    notes = []
    monkeypatch.setattr("gcnrec.training.plan.uses_gpu", lambda *_: True)
    monkeypatch.setattr(placement, "gpu", lambda: "a GPU")
    monkeypatch.setattr(placement, "pipeline_of", pipeline_of)
    wanted = job(model={"propagation": "none"}, optimizer={"rule": "adam"}, train={"epochs": 1, "transfer_blocks": 7})
    plan = plan_of(wanted, dataset.graph.num_nodes)
    placement.placed(plan.placement, dataset.graph, start_table(wanted, dataset.graph), Observer())
    assert notes and all(note.endswith("rows are copied instead") for note in notes), "before the first step"
    notes.clear()
    train(wanted, dataset, tmp_path / "run", observer=Observer())
    assert any(note.endswith("rows are copied instead") for note in notes)


@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_behind_a_device_a_run_is_the_same_and_its_traffic_is_told(budget, dataset, tmp_path, monkeypatch, fake_device):
    """With explorations, validations and checkpoints in between, and with some rows cached."""
    sections = {
        "model": {"propagation": "sampled", "layers": 2, "width": 16},
        "optimizer": {"rule": "adam"},
        "train": {"epochs": 4, "refit": "train+valid"},
    }
    if budget < 1:
        sections |= {"table": {"budget": budget}, "sparsity": {"policy": "dynamic", "batches": 2}}
    plain = train(job(**sections), dataset, tmp_path / "plain")

    class Held(fake_device.FakeDevice):
        def close(self):
            held.remove(self)

    def behind_a_device(job, graph, table, tell, *features):
        assert held == [], "the fit's table would be in memory with the refit's"
        held.append(Held(1))
        return PipelinedTable(table, held[0], Prefixes(graph.num_users, 3, 4))

    held = []
    monkeypatch.setattr(train_module, "placed", behind_a_device)
    behind = train(job(**sections), dataset, tmp_path / "behind")
    assert held == []
    pairs = list(zip(events(plain), events(behind), strict=True))
    assert [one["grown"] for one, _ in pairs if "grown" in one] == [other["grown"] for _, other in pairs if "grown" in other]
    for one, other in (pair for pair in pairs if pair[0]["event"] == "epoch"):
        assert (one["loss"], one.get("valid")) == (other["loss"], other.get("valid"))
        assert 0 < other["cache_hits"] < 1 and other["rows_read"] > 0 and other["bytes_read"] > 0 and other["lines_read"] > 0
        assert "rows_read" not in one
    assert np.array_equal(best_items(plain), best_items(behind))


@pytest.mark.parametrize("sections", [{}, {"table": {"budget": 0.5}, "sparsity": {"policy": "dynamic"}}], ids=["dense", "slots"])
def test_tables_on_disk_train_as_in_ram(sections, dataset, tmp_path):
    runs = [
        train(job(**{**sections, "table": {**sections.get("table", {}), "placement": placement}}), dataset, tmp_path / placement)
        for placement in ("host", "disk")
    ]
    losses = [[event["loss"] for event in events(run) if "loss" in event] for run in runs]
    assert losses[0] == losses[1]
    files = [{path.name for path in run.folder.iterdir()} for run in runs]
    assert files[0] == files[1]  # no scratch is left


def test_damaged_data_is_refused_before_there_is_a_folder(tmp_path):
    data = write_dataset(checkerboard(SIZE), tmp_path / "data")
    path = data.folder / "user_items.indices.npy"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"user_items\.indices\.npy.*sha256"):
        train(job(), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_cannot_weight_is_refused_before_there_is_a_folder(tmp_path):
    world = checkerboard(SIZE)
    data = write_dataset(world, tmp_path / "data", np.ones(world.graph.num_edges, np.float32))
    with pytest.raises(UsageError, match="cannot weight its positives"):
        train(job(loss={"name": "bsl"}), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_says_how_to_go_on(dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(job(), dataset, tmp_path / "run", observer=Interrupting(1))
    with pytest.raises(UsageError, match=r"is not finished.*job\.toml --data .*data --out .*run --resume"):
        open_run(tmp_path / "run").scorer()


def test_gradual_ends_with_an_epoch_that_keeps_the_budget(dataset, tmp_path, monkeypatch):
    """Validation likes dense tables best; the early epochs are not what was asked for, however good."""
    falling = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    monkeypatch.setattr(train_module, "validate", lambda *_: {"valid": {"recall@3": next(falling)}})
    wanted = job(model={"width": 8}, table={"budget": 0.25}, sparsity={"policy": "gradual"}, train={"epochs": 6})
    memory = read_json(train(wanted, dataset, tmp_path / "run").folder / "memory.json")
    assert 0 < memory["values"] <= memory["budget_values"]
