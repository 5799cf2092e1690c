"""The objective of a job against loops over the batch: which rows, scores, negatives, weights and penalty it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.models.objective import objective_of
from gcnrec.models.scores.entries import take
from gcnrec.ops.reduce import entries_of
from gcnrec.rows import Entries
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.testing import checkerboard, halves, loss_by

WORLD = halves(9, 6)
DEGREES = WORLD.graph.item_users.degrees


def parts(sections, weights=None):
    job = Job.parse({**sections, "train": {"batch_size": 30}}, [], "test")
    graph = WORLD.graph
    batch = edge_sampler(job.sampler, graph, weights, 30, 0).batch(0, 0)
    draw = torch.Generator().manual_seed(0)
    final, ego = (torch.randn(len(batch.nodes_V), 6, generator=draw) for _ in range(2))
    return job, batch, final, ego, objective_of(job.loss, job.sampler, graph, weights is not None)


def score(final, batch, user, item, cosine):
    """Score of a user and an item by their numbers."""
    rows = [final[int(np.flatnonzero(batch.nodes_V == node)[0])].double().numpy() for node in (user, item + WORLD.num_users)]
    return rows[0] @ rows[1] / (np.linalg.norm(rows[0]) * np.linalg.norm(rows[1]) if cosine else 1.0)


def entries(batch):
    t = batch.triples
    return list(zip(t.users_B.tolist(), t.positives_B.tolist(), t.negatives_BN.tolist(), strict=True))


@pytest.mark.parametrize("form", ["cosine", "inner"])
def test_bpr(form):
    sections = {
        "loss": {"name": "bpr", "score": form, "l2": 0.0},
        "sampler": {"negatives": "uniform", "num_negatives": 2},
    }
    _, batch, final, ego, objective = parts(sections)
    terms = [
        math.log1p(math.exp(score(final, batch, u, j, form == "cosine") - score(final, batch, u, i, form == "cosine")))
        for u, i, others in entries(batch)
        for j in others
    ]
    assert float(loss_by(objective, final, ego, batch)) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("logq", [False, True])
def test_softmax_in_batch(logq):
    """Negatives are the other entries' positives; with logq a logit loses log(degree / edges)."""
    _, batch, final, ego, objective = parts({"loss": {"l2": 0.0, "logq": logq, "temperature": 0.5}})
    terms = []
    for u, i, _ in entries(batch):

        def mass(item, user=u):
            share = DEGREES[item] / DEGREES.sum() if logq else 1.0
            return math.exp(score(final, batch, user, item, True) / 0.5) / share

        others = sum(mass(j) for _, j, _ in entries(batch) if j != i)
        terms.append(-math.log(mass(i) / (mass(i) + others)))
    assert float(loss_by(objective, final, ego, batch)) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize(("kind", "power"), [("uniform", 0.0), ("popularity", 0.5)])
@pytest.mark.parametrize("logq", [False, True])
def test_softmax_sampled(kind, power, logq):
    sections = {
        "loss": {"l2": 0.0, "logq": logq, "temperature": 0.5},
        "sampler": {"negatives": kind, "num_negatives": 3, "popularity_power": 0.5},
    }
    _, batch, final, ego, objective = parts(sections)
    shares = DEGREES**power / (DEGREES**power).sum()
    terms = []
    for u, i, others in entries(batch):
        own, *rest = (math.exp(score(final, batch, u, j, True) / 0.5) / (shares[j] if logq else 1.0) for j in (i, *others))
        terms.append(-math.log(own / (own + sum(rest))))
    assert float(loss_by(objective, final, ego, batch)) == pytest.approx(np.mean(terms), rel=1e-5)


def by_user(batch, up, down):
    """Mean over users of -(t1/t2) log mean up + mean log mean down (Wu et al. 2024), t1 = 0.9, t2 = 0.5."""
    values = []
    for user in sorted({u for u, _, _ in entries(batch)}):
        mine = [number for number, (u, _, _) in enumerate(entries(batch)) if u == user]
        positive = -0.9 / 0.5 * math.log(np.mean([up[number] for number in mine]))
        values.append(positive + np.mean([math.log(down[number]) for number in mine]))
    return np.mean(values)


@pytest.mark.parametrize("kind", ["in_batch", "uniform"])
def test_bsl(kind):
    sections = {
        "loss": {"name": "bsl", "l2": 0.0, "temperature": 0.5, "positive_temperature": 0.9},
        "sampler": {"negatives": kind, "num_negatives": 3},
    }
    _, batch, final, ego, objective = parts(sections)
    up, down = [], []
    for u, i, drawn in entries(batch):
        others = drawn if kind == "uniform" else [j for _, j, _ in entries(batch) if j != i]
        up.append(math.exp(score(final, batch, u, i, True) / 0.9))
        down.append(np.mean([math.exp(score(final, batch, u, j, True) / 0.5) for j in others]))
    assert float(loss_by(objective, final, ego, batch)) == pytest.approx(by_user(batch, up, down), abs=1e-5)


def test_directau():
    _, batch, final, ego, objective = parts({"loss": {"name": "directau", "l2": 0.0, "uniformity": 2.0}})

    def unit(node):
        row = final[int(np.flatnonzero(batch.nodes_V == node)[0])].double().numpy()
        return row / np.linalg.norm(row)

    sides = [[unit(u) for u, _, _ in entries(batch)], [unit(i + WORLD.num_users) for _, i, _ in entries(batch)]]
    align = np.mean([((a - b) ** 2).sum() for a, b in zip(*sides, strict=True)])
    uniform = [
        math.log(np.mean([math.exp(-2 * ((x[a] - x[b]) ** 2).sum()) for a in range(len(x)) for b in range(a)])) for x in sides
    ]
    assert float(loss_by(objective, final, ego, batch)) == pytest.approx(align + 2.0 * np.mean(uniform), rel=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("bpr", "uniform"), ("softmax", "uniform"), ("softmax", "in_batch")])
def test_weights_scale_the_loss_of_their_positive(name, kind):
    """A weight of 2 on one edge and 0 on the others leaves twice that entry's loss."""
    sections = {"loss": {"name": name, "l2": 0.0}, "sampler": {"negatives": kind}}
    ones = np.ones(WORLD.graph.num_edges, np.float32)
    _, batch, final, ego, plain = parts(sections)
    whole, single = float(loss_by(plain, final, ego, batch)), []
    for number, (u, i, _) in enumerate(entries(batch)):
        weights = 0 * ones
        csr = WORLD.graph.user_items
        weights[csr.indptr[u] + np.flatnonzero(csr.row(u) == i)[0]] = 2.0
        _, weighted_batch, final, ego, objective = parts(sections, weights)
        assert weighted_batch.triples.weights_B[number] == 2.0
        single.append(float(loss_by(objective, final, ego, weighted_batch)) / 2.0)
    assert sum(single) == pytest.approx(whole, rel=1e-5)
    assert float(loss_by(parts(sections, ones)[-1], final, ego, parts(sections, ones)[1])) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "in_batch"])
def test_l2_counts_every_use_of_a_row_in_layer_zero(kind):
    _, batch, final, ego, objective = parts({"loss": {"l2": 0.01}, "sampler": {"negatives": kind, "num_negatives": 2}})
    _, _, _, _, without = parts({"loss": {"l2": 0.0}, "sampler": {"negatives": kind, "num_negatives": 2}})
    uses = [user for user, _, _ in entries(batch)]
    uses += [item + WORLD.num_users for _, item, others in entries(batch) for item in [item, *others]]
    square = sum(float(ego[int(np.flatnonzero(batch.nodes_V == node)[0])].double().square().sum()) for node in uses)
    penalty = float(loss_by(objective, final, ego, batch)) - float(loss_by(without, final, ego, batch))
    assert penalty == pytest.approx(0.01 * square / (2 * len(entries(batch))), rel=1e-4)


@pytest.mark.parametrize("name", ["bsl", "directau"])
def test_losses_that_cannot_weight_refuse_weights(name):
    with pytest.raises(UsageError, match="cannot weight"):
        parts({"loss": {"name": name}}, np.ones(WORLD.graph.num_edges, np.float32))


def test_take_gathers_and_sums_duplicates():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    index = np.array([4, 0, 4, 4])
    taken = take(rows, Entries(*map(torch.from_numpy, entries_of(index, 5))))
    assert torch.equal(taken, rows[torch.from_numpy(index)])
    factor = torch.tensor([1.0, 10.0, 100.0, 1000.0])[:, None]
    (gradient,) = torch.autograd.grad((factor * taken).sum(), rows)
    assert gradient[:, 0].tolist() == [10.0, 0.0, 0.0, 0.0, 1101.0]


@pytest.mark.parametrize("name", ["bpr", "softmax", "bsl", "directau"])
def test_gradient_by_finite_differences(name):
    """Along random directions of both inputs, against central differences of the objective itself."""
    sections = {
        "loss": {"name": name, "l2": 0.05, "temperature": 0.5},
        "sampler": {"negatives": "uniform" if name == "bpr" else "in_batch"},
        "model": {"name": "mf"},
    }
    _, batch, final, ego, objective = parts(sections)
    final, ego = final.requires_grad_(), ego.requires_grad_()
    gradients = torch.autograd.grad(loss_by(objective, final, ego, batch), (final, ego))
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        directions = [torch.randn(final.shape, generator=draw) for _ in range(2)]
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        with torch.no_grad():
            up = loss_by(objective, final + 3e-3 * directions[0], ego + 3e-3 * directions[1], batch)
            down = loss_by(objective, final - 3e-3 * directions[0], ego - 3e-3 * directions[1], batch)
        # float32: a difference of 2e-7 over 6e-3, plus the third derivative.
        assert slope == pytest.approx(float(up - down) / 6e-3, abs=2e-3 + 1e-3 * abs(slope))


def test_checkerboard_scores_are_worth_something():
    """Embeddings that tell the parities apart lose less than any that do not."""
    job, graph = Job.parse({"loss": {"l2": 0.0}}, [], "test"), checkerboard().graph
    batch = edge_sampler(job.sampler, graph, None, 64, 0).batch(0, 0)
    objective = objective_of(job.loss, job.sampler, graph, False)
    parity = torch.tensor([[1.0, 0.0] if (node % graph.num_users) % 2 else [0.0, 1.0] for node in batch.nodes_V])
    same = torch.ones(len(parity), 2)
    assert float(loss_by(objective, parity, same, batch)) < float(loss_by(objective, same, same, batch))
