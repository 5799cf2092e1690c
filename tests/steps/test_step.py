"""One training step against plain torch on a dense matrix, and what a loss that is not finite leaves behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from built import step_of

from gcnrec import graph
from gcnrec.config import Job
from gcnrec.device import arrays_of
from gcnrec.errors import DivergedError, UsageError
from gcnrec.ops import reduce
from gcnrec.sampling.minibatches import Drawing, Waits
from gcnrec.testing import assert_as_accurate, checkerboard, dense_hop

GRAPH = checkerboard().graph
U = GRAPH.num_users


def built(weights=None, **sections):
    sections = {"train": {"batch_size": 50}, **sections}
    job = Job.parse(sections, [], "test")
    return step_of(job, GRAPH, weights)


def snapshot(step):
    return {name: tensor.clone() for name, tensor in step.table.tensors().items()}


def unchanged(step, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in step.table.tensors().items())


def by_torch(step, layers, dtype, count, rate):
    """The published recipe without any of our kernels: dense hop, in-batch softmax of cosines, L2 of layer 0, torch's Adam."""
    rows = torch.nn.Parameter(step.table.columns(0, step.table.width).to(dtype).clone())
    hop, optimizer = dense_hop(GRAPH).to(dtype), torch.optim.Adam([rows], rate, foreach=False)
    for index in range(count):
        t = step.sampler.batch(0, index).triples
        users, items = torch.from_numpy(t.users_B.astype(np.int64)), torch.from_numpy(t.positives_B.astype(np.int64)) + U
        hops = [rows]
        for _ in range(layers):
            hops.append(hop @ hops[-1])
        final = sum(hops) / len(hops)
        logits = F.normalize(final[users], dim=1) @ F.normalize(final[items], dim=1).T / 0.12
        own = (items[:, None] == items) & ~torch.eye(len(items), dtype=torch.bool)
        loss = F.cross_entropy(logits.masked_fill(own, -torch.inf), torch.arange(len(items)))
        loss = loss + 1e-3 * (rows[users].square().sum() + rows[items].square().sum()) / (2 * len(users))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rows.detach()


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_steps_equal_plain_torch(layers):
    step = built(model={"layers": layers, "width": 16, "start": "normal"}, loss={"l2": 1e-3}, optimizer={"rule": "adam_dense"})
    exact, yardstick = (by_torch(step, layers, dtype, 4, 0.01) for dtype in (torch.float64, torch.float32))
    for index in range(4):
        step(step.sampler.batch(0, index), 0.01)
    # Adam's first steps divide gradients by their own size, which makes rounding errors of the smallest ones visible.
    result = step.table.columns(0, 16)
    assert float((result.double() - exact).norm() / exact.norm()) < 1e-4
    assert float((yardstick.double() - exact).norm() / exact.norm()) < 1e-4


def test_one_sgd_step_equals_plain_torch():
    """Gradients themselves, without Adam's division: as accurate as torch in float32."""
    step = built(model={"layers": 2, "width": 16, "start": "normal"}, loss={"l2": 1e-3}, optimizer={"rule": "sgd"})
    moved = []
    for dtype in (torch.float32, torch.float64):
        rows = step.table.columns(0, 16).to(dtype).clone().requires_grad_()
        hop, t = dense_hop(GRAPH).to(dtype), step.sampler.batch(0, 0).triples
        users, items = torch.from_numpy(t.users_B.astype(np.int64)), torch.from_numpy(t.positives_B.astype(np.int64)) + U
        final = (rows + hop @ rows + hop @ (hop @ rows)) / 3
        logits = F.normalize(final[users], dim=1) @ F.normalize(final[items], dim=1).T / 0.12
        own = (items[:, None] == items) & ~torch.eye(len(items), dtype=torch.bool)
        loss = F.cross_entropy(logits.masked_fill(own, -torch.inf), torch.arange(len(items)))
        loss = loss + 1e-3 * (rows[users].square().sum() + rows[items].square().sum()) / (2 * len(users))
        moved.append((rows - torch.autograd.grad(loss, rows)[0]).detach())
    value = step(step.sampler.batch(0, 0), 1.0)
    assert_as_accurate(step.table.columns(0, 16), *moved, "rows after one step")
    assert value == pytest.approx(float(loss.detach()), rel=1e-6)


def test_lazy_rules_touch_the_rows_of_the_gradient_only():
    step = built(model={"name": "mf", "width": 8}, optimizer={"rule": "adam"}, train={"batch_size": 5})
    before, batch = snapshot(step), step.sampler.batch(0, 0)
    step(batch, 0.1)
    moved = (step.table.tensors()["weights"] != before["weights"]).any(1).numpy()
    assert np.array_equal(np.flatnonzero(moved), batch.nodes_V)
    assert np.array_equal(np.flatnonzero(step.table.tensors()["last"].numpy()), batch.nodes_V)


def test_dense_rules_move_rows_by_their_momentum():
    step = built(model={"name": "mf", "width": 8}, optimizer={"rule": "adam_dense"}, train={"batch_size": 5})
    step(step.sampler.batch(0, 0), 0.1)
    after_one, second = snapshot(step), step.sampler.batch(0, 1)
    step(second, 0.1)
    moved = (step.table.tensors()["weights"] != after_one["weights"]).any(1).numpy()
    assert set(second.nodes_V) < set(np.flatnonzero(moved))


def test_sampled_steps_that_catch_up_rows_equal_full_propagation(threads):
    """Each drawn neighbourhood is the whole one, and a step reads two rows of three: the others still move."""
    threads(1)
    sections = {"optimizer": {"rule": "adam_dense", "learning_rate": 0.01}, "train": {"batch_size": 2}}
    model = {"layers": 1, "width": 16, "start": "normal"}
    full = built(model=model, **sections)
    late = built(model={**model, "propagation": "sampled"}, sampler={"fanouts": [64]}, **sections)
    read = []
    for index in range(60):
        batches = [step.sampler.batch(0, index) for step in (full, late)]
        losses = [step(batch, 0.01) for step, batch in zip((full, late), batches, strict=True)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        read.append(len(batches[1].rows_R) / late.table.num_rows)
    assert np.mean(read) < 0.7
    own, expected = (step.table.drained().columns(0, 16) for step in (late, full))
    assert float((own - expected).norm() / expected.norm()) < 2e-4
    behind = late.table.tensors()["weights"]
    assert float((behind - expected).norm() / expected.norm()) > 5e-3  # what is stored lags behind


@pytest.mark.parametrize("rule", ["sgd", "adagrad_row", "adam", "adam_row", "adam_dense"])
@pytest.mark.parametrize("name", ["mf", "lightgcn", "ngcf"])
def test_a_damaged_row_stops_before_the_table_is_touched(name, rule):
    step = built(model={"name": name, "width": 8}, optimizer={"rule": rule})
    step(step.sampler.batch(0, 0), 0.01)
    batch = step.sampler.batch(0, 1)
    step.table.tensors()["weights"][batch.nodes_V[0]] = torch.inf
    before, layers = snapshot(step), step.encoder.layers
    weights = [] if layers is None else [leaf.detach().clone() for leaf in layers.parameters()]
    with pytest.raises(DivergedError, match="step 2"):
        step(batch, 0.01)
    assert unchanged(step, before)
    assert all(torch.equal(*pair) for pair in zip(weights, layers.parameters() if layers is not None else [], strict=True))


@pytest.mark.parametrize("place", ["rows", "layers"])
def test_a_bad_gradient_of_a_good_loss_stops_too(place, monkeypatch):
    step = built(model={"name": "ngcf", "width": 8})
    step(step.sampler.batch(0, 0), 0.01)
    before, layers = snapshot(step), [leaf.detach().clone() for leaf in step.encoder.layers.parameters()]
    encode = type(step.encoder).encode

    def encode_badly(*arguments):
        encoded = encode(*arguments)

        def pull(*gradients):
            grad = encoded.pull(*gradients)
            target = grad.values_X if place == "rows" else next(step.encoder.layers.parameters()).grad
            target.view(-1)[3] = torch.nan
            return grad

        return replace(encoded, pull=pull)

    monkeypatch.setattr(type(step.encoder), "encode", encode_badly)
    with pytest.raises(DivergedError, match=rf"gradient of the .*{place} is not finite at step 2"):
        step(step.sampler.batch(0, 1), 0.01)
    assert unchanged(step, before)
    assert all(torch.equal(*pair) for pair in zip(layers, step.encoder.layers.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["bpr", "softmax"])
def test_a_rate_that_is_far_too_large_is_noticed_at_the_next_step(kind):
    sampled = {"negatives": "uniform"} if kind == "bpr" else {}
    step = built(
        model={"name": "mf", "width": 8}, loss={"name": kind, "score": "inner"}, sampler=sampled, optimizer={"rule": "sgd"}
    )
    step(step.sampler.batch(0, 0), 1e30)
    before = snapshot(step)
    with pytest.raises(DivergedError, match=r"step 2 .*learning_rate"):
        step(step.sampler.batch(0, 1), 1e30)
    assert unchanged(step, before)


def test_weights_are_scaled_to_a_mean_of_one():
    weights = np.random.default_rng(0).random(GRAPH.num_edges).astype(np.float32) + 0.5
    losses = [built(factor * weights, model={"width": 8}) for factor in (np.float32(1), np.float32(8))]
    batch = [step.sampler.batch(0, 0) for step in losses]
    assert batch[0].triples.weights_B == pytest.approx(batch[1].triples.weights_B, rel=1e-6)
    seen = np.concatenate([b.triples.weights_B for b in losses[0].sampler.epoch(0)])
    assert seen.mean() == pytest.approx(1.0, rel=1e-5)


def test_an_infinite_weight_diverges():
    weights = np.ones(GRAPH.num_edges, np.float32)
    weights[3] = np.inf
    with np.errstate(invalid="ignore"):
        step = built(weights, model={"width": 8}, train={"batch_size": GRAPH.num_edges})
    before = snapshot(step)
    with pytest.raises(DivergedError, match="step 1"):
        step(step.sampler.batch(0, 0), 0.01)
    assert unchanged(step, before)


def test_models_that_cannot_be_trained_yet_are_named():
    with pytest.raises(UsageError, match="ngcf"):
        built(model={"name": "ngcf", "propagation": "sampled"}, optimizer={"rule": "adam"})


def test_a_batch_of_another_epoch_gives_the_same_gradient():
    """Only the step number of a batch may enter the update, nothing the loss."""
    step = built(model={"width": 8})
    batch = step.sampler.batch(0, 0)
    first = step(batch, 0.0)
    assert step(replace(batch, step=1000), 0.0) == first


def test_batches_of_several_threads_are_the_same():
    """Two are drawn and prepared at a time, on more cores; what the host prepares for each is equal to the last number."""
    sections = {"model": {"propagation": "sampled", "layers": 2, "width": 8}, "sampler": {"fanouts": [3, 2]}}
    step = built(**sections, optimizer={"rule": "adam"}, train={"batch_size": 10})
    numbers = range(step.sampler.steps_per_epoch)
    expected = [step.prepare(step.sampler.batch(0, number)) for number in numbers]
    found = list(replace(step, drawing=Drawing(workers=3, threads=2)).batches(0, Waits()))
    assert len(found) == len(expected) > 10
    for uploaded, prepared in zip(found, expected, strict=True):
        assert uploaded.batch.step == prepared.batch.step
        assert np.array_equal(uploaded.batch.rows_R, prepared.batch.rows_R)
        tensors, arrays = leaves((uploaded.encoder, uploaded.objective)), arrays_of((prepared.encoder, prepared.objective))
        assert len(tensors) == len(arrays) > 10
        assert all(np.array_equal(tensor.numpy(), array) for tensor, array in zip(tensors, arrays, strict=True))


def leaves(given):
    if isinstance(given, torch.Tensor):
        return [given]
    return [tensor for part in given for tensor in leaves(part)] if isinstance(given, tuple) else []


@pytest.mark.parametrize("kernel", [graph._transposed, reduce._ordered], ids=["transposes", "orders of sums"])
def test_what_a_thread_prepares_lets_others_go_on(kernel):
    assert kernel.targetoptions["nogil"]
