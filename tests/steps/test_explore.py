"""Exploration in training: gradients of every cell against autograd, the schedule, what is reported, and resuming."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from built import step_of
from slot_reader import read_slots

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.reports.progress import Quiet
from gcnrec.runs.events import read_lines
from gcnrec.runs.folder import final_table, load_checkpoint
from gcnrec.runs.slot_files import order_digest
from gcnrec.steps.explore import fresh_batches, mean_gradients
from gcnrec.testing import checkerboard, dense_hop, write_dataset
from gcnrec.training.build import explorer_of
from gcnrec.training.plan import plan_of
from gcnrec.training.train import train

WORLD = checkerboard()
GRAPH = WORLD.graph
U, N = GRAPH.num_users, GRAPH.num_nodes


def job_of(**sections):
    """A sparse job on the checkerboard: 16 columns, a quarter of 8 values per row."""
    base = {
        "model": {"width": 16, "start": "normal"},
        "table": {"budget": 0.25, "base_width": 8},
        "sparsity": {"policy": "dynamic", "interval": 0.5, "ratio": 0.5, "least_slots": 1},
        "train": {"batch_size": 50, "epochs": 4},
        "evaluate": {"baselines": [], "patience": 0},
    }
    for name, keys in sections.items():
        base[name] = {**base.get(name, {}), **keys}
    return Job.parse(base, [], "test")


def built(job):
    return step_of(job, GRAPH)


@pytest.mark.parametrize(
    "model", [{"name": "mf"}, {"layers": 0}, {"layers": 1}, {"layers": 2}, {"layers": 1, "propagation": "none"}]
)
def test_gradients_of_every_cell_equal_autograd(model, tmp_path):
    step = built(job_of(model=model, loss={"l2": 1e-3}, optimizer={"rule": "adam"}))
    batches = fresh_batches(step, 0, 3)
    found = mean_gradients(step, batches, tmp_path)
    layers = 0 if model.get("name") == "mf" or model.get("propagation") == "none" else model["layers"]
    rows_ND = step.table.columns(0, 16).double().requires_grad_()
    hops = [rows_ND]
    for _ in range(layers):
        hops.append(dense_hop(GRAPH) @ hops[-1])
    final, total = sum(hops) / len(hops), torch.zeros((), dtype=torch.float64)
    for batch in batches:
        users = torch.from_numpy(batch.triples.users_B.astype(np.int64))
        items = torch.from_numpy(batch.triples.positives_B.astype(np.int64)) + U
        logits = F.normalize(final[users], dim=1) @ F.normalize(final[items], dim=1).T / 0.12
        own = (items[:, None] == items) & ~torch.eye(len(items), dtype=torch.bool)
        loss = F.cross_entropy(logits.masked_fill(own, -torch.inf), torch.arange(len(items)))
        total = total + loss + 1e-3 * (rows_ND[users].square().sum() + rows_ND[items].square().sum()) / (2 * len(users))
    exact = torch.autograd.grad(total / 3, rows_ND)[0].numpy()
    tiles = np.concatenate([found.tile(0, 10), found.tile(10, 11), found.tile(11, N)])
    assert np.abs(tiles - exact).max() < 1e-5 * max(1.0, float(np.abs(exact).max()))


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_explorations_draw_negatives_too(kind, tmp_path):
    step = built(job_of(sampler={"negatives": kind, "num_negatives": 3}))
    first, second = fresh_batches(step, 0, 2)
    assert first.triples.negatives_BN.shape == (len(first.users_B), 3)
    assert not np.array_equal(first.triples.negatives_BN[:20], second.triples.negatives_BN[:20])
    assert np.abs(mean_gradients(step, [first, second], tmp_path).tile(0, N)).max() > 0


def test_fresh_batches_are_not_those_of_training():
    step = built(job_of())
    trained = [batch.triples.users_B.tolist() for batch in step.sampler.epoch(0)]
    fresh = [batch.triples.users_B.tolist() for number in (0, 1) for batch in fresh_batches(step, number, 2)]
    assert all(batch not in trained for batch in fresh)
    assert all(one != other for at, one in enumerate(fresh) for other in fresh[at + 1 :])


def test_the_schedule_stops_and_dense_tables_have_none(tmp_path):
    step = built(job_of(sparsity={"stop": 0.5}))
    per_epoch = step.sampler.steps_per_epoch
    explorer = explorer_of(plan_of(job_of(sparsity={"stop": 0.5}), N), step, 4, tmp_path)
    due = [number for number in range(1, 4 * per_epoch + 1) if explorer.is_due(number)]
    every = round(0.5 * per_epoch)
    assert due == [number for number in range(every, 4 * per_epoch, every) if number < 2 * per_epoch]
    dense = Job.parse({"model": {"width": 8}}, [], "test")
    assert explorer_of(plan_of(dense, N), built(dense), 1, tmp_path) is None


@pytest.mark.parametrize("policy", ["static", "set", "rigl", "dsl", "dynamic"])
@pytest.mark.parametrize("rule", ["sgd", "adagrad_row", "adam", "adam_row", "adam_dense"])
def test_a_run_keeps_its_budget_and_tells_what_changed(policy, rule, tmp_path):
    dataset = write_dataset(WORLD, tmp_path / "data")
    job = job_of(sparsity={"policy": policy}, optimizer={"rule": rule}, train={"epochs": 2})
    run = train(job, dataset, tmp_path / "run")
    memory = json.loads((tmp_path / "run" / "memory.json").read_text())
    budget = plan_of(job, N).budget
    assert memory["budget_values"] == budget == N * 8 // 4
    assert memory["values"] <= memory["values_max_seen"] <= budget
    events = [event for event in read_lines(run.folder) if event["event"] == "explore"]
    assert bool(events) == (policy != "static")
    shares = [event["ever_active"] for event in events]
    assert shares == sorted(shares) and all(0 < share <= 1 for share in shares)
    for event in events:
        assert event["values"] <= budget and event["regrown"] <= event["grown"]
        assert len(event["slots_per_row_by_decile"]) == 10
    tensors, _ = load_checkpoint(run.folder / "checkpoints" / "last.safetensors")
    assert "table.weights" not in tensors and len(tensors["table.values"]) <= budget
    order = order_digest(dataset.user_ids, dataset.item_ids)
    slots = read_slots(run.folder / "table.safetensors", num_rows=N, width=16, budget=budget, order=order)
    assert torch.equal(slots.columns(0, 16), final_table(run))


def test_resuming_a_sparse_run_equals_not_stopping(tmp_path, monkeypatch):
    dataset = write_dataset(WORLD, tmp_path / "data")
    job = job_of(train={"refit": "train+valid"})
    whole = train(job, dataset, tmp_path / "whole")

    class Stop(KeyboardInterrupt):
        pass

    class Impatient(Quiet):
        def __init__(self, epochs):
            self.left = epochs

        def epoch(self, _):
            self.left -= 1
            if self.left == 0:
                raise Stop

    for epochs in (1, 2):
        with pytest.raises(Stop):
            train(job, dataset, tmp_path / "cut", resume=True, observer=Impatient(epochs))
    cut = train(job, dataset, tmp_path / "cut", resume=True)
    saved = [load_checkpoint(run.folder / "checkpoints" / "last.safetensors") for run in (whole, cut)]
    assert saved[0][0].keys() == saved[1][0].keys()
    assert all(torch.equal(saved[0][0][name], saved[1][0][name]) for name in saved[0][0])
    changes = []
    for run in (whole, cut):
        events = [event for event in read_lines(run.folder) if event["event"] == "explore"]
        changes.append([(event["stage"], event["step"], event["pruned"], event["ever_active"]) for event in events])
    assert changes[0] == changes[1]


def test_a_checkpoint_of_another_budget_is_refused(tmp_path):
    dataset = write_dataset(WORLD, tmp_path / "data")
    first = train(job_of(), dataset, tmp_path / "first")
    larger = job_of(train={"init_from": str(first.folder), "epochs": 1}, table={"budget": 0.5})
    assert train(larger, dataset, tmp_path / "second").folder.is_dir()  # rows of an earlier run may be sparser
    wrong = job_of(train={"init_from": str(first.folder)}, model={"width": 32})
    with pytest.raises(UsageError, match=r"16 wide, this job 32; set model\.width = 16"):
        train(wrong, dataset, tmp_path / "third")


@pytest.mark.parametrize(("budget", "policy"), [(0.5, "none"), (1.0, "dynamic")])
def test_budget_and_policy_must_agree(budget, policy):
    with pytest.raises(UsageError, match=r"table\.budget"):
        job_of(table={"budget": budget}, sparsity={"policy": policy})
