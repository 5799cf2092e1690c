"""Steps that workers share, in threads: tables, layers and losses have the bits of one worker, whatever their number."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from built import step_of
from fake_world import run_workers

from gcnrec.config import Job
from gcnrec.errors import DivergedError
from gcnrec.sampling.minibatches import Waits
from gcnrec.sampling.sampler import Triples, located
from gcnrec.steps.explore import fresh_batches, mean_gradients
from gcnrec.steps.follower import Follower
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.testing import checkerboard, halves, star
from gcnrec.training.build import first_table, parted, shards_of
from gcnrec.training.plan import plan_of
from gcnrec.workers.world import Alone

SLOTS = {"table": {"budget": 0.5}, "sparsity": {"policy": "dynamic"}}
SAMPLED = {"propagation": "sampled", "layers": 2, "width": 8}
CASES = {
    "dense none": {},
    "dense none, every row": {"optimizer": {"rule": "adam_dense"}},
    "dense sampled, drawn negatives": {
        "model": SAMPLED, "sampler": {"negatives": "uniform", "num_negatives": 2, "fanouts": [3, 2]},
    },
    "slots none, bsl": {**SLOTS, "loss": {"name": "bsl"}, "optimizer": {"rule": "adagrad_row"}},
    "slots of bfloat16, sampled": {
        "model": SAMPLED, "sampler": {"fanouts": [3, 2]},
        "table": {"budget": 0.5, "dtype": "bfloat16"}, "sparsity": {"policy": "dynamic"},
    },
    "graphsage": {
        "model": {**SAMPLED, "name": "graphsage", "id_dropout": 0.3},
        "sampler": {"fanouts": [3, 2], "exclude_positives": True},
    },
    "pinsage": {"model": {**SAMPLED, "name": "pinsage"}, "sampler": {"fanouts": [3, 2], "walks": 4}},
}  # fmt: skip


def job_of(parts=4, **sections):
    """A small job on the CPU; the start is random, as a spectral one of tiny graphs has rows of zeros."""
    defaults = {
        "model": {"propagation": "none", "width": 8, "start": "normal"},
        "optimizer": {"rule": "adam", "learning_rate": 0.02},
        "train": {"batch_size": 64},
    }
    merged = {name: {**defaults.get(name, {}), **sections.get(name, {})} for name in {*defaults, *sections}}
    merged["train"]["parts"] = parts
    return Job.parse(merged, [], "test")


def shared(job, graph, world):
    """The step as a worker has it; the leader's table is the job's own."""
    plan = plan_of(job, graph.num_nodes)
    host = first_table(plan, graph) if world.rank == 0 else None
    table = ExchangedTable(world, shards_of(plan), host)
    return parted(step_of(job, graph, table=table), table, world, job.train.parts)


def led(world, job, graph, steps, work):
    """On the leader what `work(step)` returns after so many steps of an epoch; others follow."""
    numba.set_num_threads(1)
    step = shared(job, graph, world)
    if world.rank:
        assert Follower(step).follow() == {"do": "end"}
        return None
    losses = []
    for uploaded in step.batches(0, Waits(), 1):
        losses += step.train(uploaded, 0.02)
        if len(losses) == steps:
            break
    found = work(step)
    world.close()
    return losses, found


def after(step):
    """All tensors of table, layers and their optimizer; then the mean gradient of explorations."""
    tensors = {name: tensor.clone() for name, tensor in step.table.drained().tensors().items() if name != "most"}
    layers = step.encoder.layers
    if layers is not None:
        tensors |= {f"layers.{name}": tensor.clone() for name, tensor in layers.state_dict().items()}
        states = step.layer_optimizer.state_dict()["state"]
        tensors |= {f"adam.{number}.{name}": each.clone() for number, state in states.items() for name, each in state.items()}
    return tensors


@pytest.mark.parametrize("case", CASES)
def test_workers_take_the_steps_of_one(case, tmp_path):
    """Losses, tables, layers, and then gradients of explorations."""
    graph, job = checkerboard().graph, job_of(**CASES[case])

    def work(step):
        tensors = after(step)
        gradients = mean_gradients(step, fresh_batches(step, 0, 2), tmp_path)
        return tensors | {"rows": torch.from_numpy(gradients.rows_R), "gradient": gradients.grad_RD.clone()}

    one, *others = [run_workers(size, lambda world: led(world, job, graph, 3, work))[0] for size in (1, 2, 4)]
    alone = led(Alone(), job, graph, 3, work)
    start = first_table(plan_of(job, graph.num_nodes), graph).tensors()
    for losses, tensors in (alone, *others):
        assert losses == one[0] and [loss.step for loss in losses] == [2, 3, 4]
        assert tensors.keys() == one[1].keys()
        assert [name for name in tensors if not torch.equal(tensors[name], one[1][name])] == []
    key = "weights" if "weights" in start else "values"
    assert not torch.equal(one[1][key], start[key]) and float(one[1]["gradient"].abs().sum()) > 0


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", [replace(star(2), num_users=12, num_items=12), halves(3, 2)], ids=lambda world: world.name)
def test_parts_without_users_or_nodes_train(world, case):
    """Eight parts of tiny graphs: most have no pair, some no node."""
    graph, job = world.graph, job_of(8, **CASES[case], train={"batch_size": 8})
    one, other = (run_workers(size, lambda each: led(each, job, graph, 1, after))[0] for size in (1, 4))
    assert one[0] == other[0]
    assert [name for name in one[1] if not torch.equal(one[1][name], other[1][name])] == []


@pytest.mark.parametrize("reads_rows", [True, False])
def test_rows_of_all_workers_count(reads_rows):
    """Rows a second of a run are those of all parts, also of a model that reads features alone."""
    graph, job = checkerboard().graph, job_of(4)

    def announced(world):
        plan = plan_of(job, graph.num_nodes)
        table = ExchangedTable(world, shards_of(plan), None if world.rank else first_table(plan, graph), reads_rows)
        step = parted(step_of(job, graph, table=table), table, world, 4)
        sampler = step.sampler
        drawn = [sampler.batch(0, index).parts for index in range(sampler.steps_per_epoch)]
        own = [sum(len(part.batch.rows_R) for part in parts) for parts in drawn]
        return own, [uploaded.num_rows for uploaded in step.announced(0, Waits(), 0)]

    for size in (1, 2, 4):
        owns, counted = zip(*run_workers(size, announced), strict=True)
        assert list(counted) == [[sum(rows) for rows in zip(*owns, strict=True)]] * size and counted[0][0] > 0


def test_parts_learn_as_a_whole_batch_does():
    """The same pairs in one batch or in four parts: losses differ by rounding, and tables by what Adam makes of it."""
    graph = checkerboard().graph
    whole, job = step_of(job_of(1), graph), job_of(4)
    step = shared(job, graph, Alone())
    for index in range(3):
        batch = step.sampler.batch(0, index)
        triples = [part.batch.triples for part in batch.parts]
        columns = [
            np.concatenate([getattr(each, name) for each in triples]) for name in ("users_B", "positives_B", "negatives_BN")
        ]
        same = located(batch.step, Triples(*columns, None), graph.num_users)
        (found,) = step.train(step._announced(step._prepared(batch)), 0.02)
        assert found.value == pytest.approx(whole(same, 0.02), rel=1e-5)
    one, other = (table.columns(0, 8) for table in (whole.table, step.table.drained()))
    assert float((one - other).norm() / one.norm()) < 1e-5


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_loss_that_is_not_finite_updates_nothing_on_any_worker(size):
    graph, job = checkerboard().graph, job_of(4)
    said = []

    def work(world):
        numba.set_num_threads(1)
        step = shared(job, graph, world)
        if world.rank:
            Follower(step).follow()
            return step.table.local.tensors()["weights"].clone()
        weights = step.table.drained().tensors()["weights"]
        weights[-1] = torch.inf  # an item of part 3
        before = weights.clone()
        with pytest.raises(DivergedError, match=r"is not finite at step 1 .* updated nothing") as caught:
            for uploaded in step.batches(0, Waits()):
                step.train(uploaded, 0.02)
        said.append(str(caught.value))
        world.close()
        return before, step.table.drained().tensors()["weights"]

    (before, found), *others = run_workers(size, work)
    assert torch.equal(before, found) and len(said) == 1
    assert all(torch.equal(weights, before[rank::size]) for rank, weights in enumerate(others, 1))
