"""Steps that workers share by columns, in threads: losses, tables and state have the bits of one process."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from built import start_table, step_of
from fake_world import run_workers
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.config import Job
from gcnrec.errors import DivergedError
from gcnrec.graph import Behaviour
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.columns import Agreed, gathered
from gcnrec.steps.follower import Follower
from gcnrec.tables.dealt.columns import shares
from gcnrec.testing import checkerboard
from gcnrec.training.build import TrainData, shared_step
from gcnrec.training.plan import plan_of

GRAPH = checkerboard(48).graph
RATE = 0.02
WIDTH = 40
"""Two whole lines of columns and a half."""
CASES = {
    "adam_dense, 1 layer": {"model": {"layers": 1}, "optimizer": {"rule": "adam_dense"}},
    "adam_dense, 3 layers": {"model": {"layers": 3}, "optimizer": {"rule": "adam_dense"}},
    "adam, 1 layer": {"model": {"layers": 1}, "optimizer": {"rule": "adam"}, "loss": {"l2": 0.0}},
    "adam, 3 layers": {"model": {"layers": 3}, "optimizer": {"rule": "adam"}, "loss": {"name": "directau"}},
    "sgd, 1 layer": {"model": {"layers": 1}, "optimizer": {"rule": "sgd"}, "loss": {"name": "bpr"}},
    "sgd, 3 layers": {"model": {"layers": 3}, "optimizer": {"rule": "sgd"}, "loss": {"name": "bsl"}},
    "adam, no layer": {"model": {"layers": 0}, "optimizer": {"rule": "adam"}},
    "cascade": {"model": {"layers": 2, "behaviours": "cascade"}, "optimizer": {"rule": "adam"}},
    "weighted graph": {"model": {"layers": 2, "weighted_graph": True}, "optimizer": {"rule": "adam"}},
}


def case_of(name):
    """A job of batches that leave many nodes out, and its data."""
    sections = CASES[name]
    defaults = {"model": {"width": WIDTH, "start": "normal"}, "train": {"batch_size": 50, "device": "cpu"}}
    job = Job.parse({key: {**defaults.get(key, {}), **sections.get(key, {})} for key in {*defaults, *sections}}, [], "test")
    others = (Behaviour("view", checkerboard(48).graph),) if job.model.behaviours else ()
    weights_E = np.linspace(0.1, 4.0, GRAPH.num_edges, dtype=np.float32) if job.model.weighted_graph else None
    return job, TrainData(replace(GRAPH, others=others), weights_E)


def by_workers(world, job, data, work):
    """What `work(step)` returns on the leader; the others follow."""
    numba.set_num_threads(1)
    host = None if world.rank else start_table(job, data.graph)
    step = shared_step(job, plan_of(job, GRAPH.num_nodes), data, world, host)
    if world.rank:
        local = step.table.local  # empty, until columns are dealt out
        assert (local.num_rows, Follower(step).follow()) == (0, {"do": "end"})
        return step.table.local
    found = work(step)
    world.close()
    return found


def three_steps(step, again=None):
    """Losses of an epoch's second to fourth step, and what the table holds then; `again` is put in place after the third."""
    losses = []
    for uploaded in step.batches(0, Waits(), 1):
        losses += step.train(uploaded, RATE)
        if len(losses) == 2 and again is not None:
            step.table.drained().restore(again)
        if len(losses) == 3:
            break
    return losses, {name: tensor.clone() for name, tensor in step.table.drained().tensors().items()}


def assert_alike(found, expected):
    assert found[0] == expected[0] and [loss.step for loss in found[0]] == [2, 3, 4]
    assert [name for name in expected[1] if not torch.equal(found[1][name], expected[1][name])] == []


@pytest.mark.parametrize("name", CASES)
def test_workers_take_the_steps_of_one_process(name):
    job, data = case_of(name)
    numba.set_num_threads(1)
    start = start_table(job, data.graph)
    expected = three_steps(step_of(job, data.graph, data.weights_E, start_table(job, data.graph)))
    for size in (1, 2, 3):
        found, *locals_ = run_workers(size, lambda world: by_workers(world, job, data, three_steps))
        assert_alike(found, expected)
        for columns, local in zip(shares(WIDTH, size)[1:], locals_, strict=True):
            assert torch.equal(local.columns(0, local.width), expected[1]["weights"][:, columns])
    moved = (expected[1]["weights"] != start.columns(0, WIDTH)).any(0)
    assert bool(moved.all())  # or columns that stay as they are would prove nothing


def test_a_table_that_the_leader_writes_whole_is_dealt_out_again():
    job, data = case_of("adam, 1 layer")
    other = {name: tensor + 1 for name, tensor in start_table(job, data.graph).tensors().items()}
    expected = three_steps(step_of(job, data.graph), other)
    found, *_ = run_workers(3, lambda world: by_workers(world, job, data, lambda step: three_steps(step, other)))
    assert_alike(found, expected)


def test_exports_are_those_of_one_process():
    job, data = case_of("adam, 3 layers")
    alone = step_of(job, data.graph)
    three_steps(alone)

    def exported(step):
        three_steps(step)
        out_ND = torch.empty(GRAPH.num_nodes, step.encoder.export_width)
        step.encoder.export(step.table.drained(), out_ND)
        return out_ND

    expected = torch.empty(GRAPH.num_nodes, WIDTH)
    alone.encoder.export(alone.table, expected)
    found, *_ = run_workers(2, lambda world: by_workers(world, job, data, exported))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_loss_that_is_not_finite_updates_nothing_on_any_worker(layers):
    job, data = case_of(f"adam, {layers} layer{'s' * (layers > 1)}")
    before = start_table(job, data.graph).tensors()
    before["weights"][:, 36] = torch.inf

    def work(step):
        step.table.drained().restore(before)
        with pytest.raises(DivergedError, match="the loss is not finite at step 2 "):
            three_steps(step)
        return step.table.drained().tensors()

    found, *locals_ = run_workers(3, lambda world: by_workers(world, job, data, work))
    assert all(torch.equal(found[name], before[name]) for name in found)
    for columns, local in zip(shares(WIDTH, 3)[1:], locals_, strict=True):
        assert torch.equal(local.columns(0, local.width), before["weights"][:, columns])


def test_a_gradient_that_is_not_finite_on_one_worker_stops_all():
    def judged(world, bad):
        own = torch.tensor([1.0, torch.inf if world.rank == bad else 2.0])
        try:
            return Agreed(world).judge(7, torch.tensor(0.5), {"gradient of the table's rows": [own], "gradient of layers": []})
        except DivergedError as problem:
            return str(problem)

    assert run_workers(3, lambda world: judged(world, None)) == [[(7, 0.5)]] * 3
    for found in run_workers(3, lambda world: judged(world, 2)):
        assert found.startswith(
            "the gradient of the table's rows is not finite at step 7 (loss 0.5), and this step updated nothing"
        )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 4), st.integers(1, 3))
def test_gathered_columns_are_the_whole_rows(widths, rows, tiles):
    whole = torch.arange(tiles * rows * sum(widths), dtype=torch.float32).view(tiles, rows, sum(widths))
    pieces = torch.split(whole, widths, 2)
    for found in run_workers(len(widths), lambda world: gathered(world, widths, tuple(pieces[world.rank]))):
        assert len(found) == tiles
        assert all(torch.equal(one, other) and one.is_contiguous() for one, other in zip(found, whole, strict=True))
