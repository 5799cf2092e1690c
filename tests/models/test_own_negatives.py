"""Items that users rated low among the negatives of a batch: each loss against loops in float64, gradients, and the optimum."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.graph import csr_from_edges
from gcnrec.models import losses
from gcnrec.models.objective import objective_of
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.testing import halves, loss_by

WORLD = halves(9, 6)
GRAPH = WORLD.graph
DEGREES = GRAPH.item_users.degrees
USERS, ITEMS = (np.array(side, np.int32) for side in zip(*[(0, 12), (0, 13), (2, 9), (9, 1), (10, 2), (10, 3)], strict=True))
DISLIKED = csr_from_edges(USERS, ITEMS, WORLD.num_users, WORLD.num_items)
W, T, T1 = 0.7, 0.5, 0.4
KINDS = {"in_batch": 0.0, "uniform": 0.0, "popularity": 0.5}


def parts(name, negatives, logq=0.0, weights=None, precision="float32"):
    """A batch of 30 entries, rows of its nodes in float64, and the objective of a job with negative pairs."""
    own = {"bsl": {"positive_temperature": T1}, "bpr": {"score": "inner"}, "softmax": {"precision": precision, "logq": logq}}
    loss = {"name": name, "negative_weight": W, "l2": 0.0, "temperature": T, **own[name]}
    sampler = {"negatives": negatives, "num_negatives": 3, "popularity_power": 0.5}
    job = Job.parse({"loss": loss, "sampler": sampler, "train": {"batch_size": 30}}, [], "test")
    batch = edge_sampler(job.sampler, GRAPH, weights, 30, 0, disliked=DISLIKED).batch(0, 0)
    rows_VD = torch.randn(len(batch.nodes_V), 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return batch, rows_VD, objective_of(job.loss, job.sampler, GRAPH, weights is not None)


def tensor(values):
    return torch.from_numpy(values).float()


def scores_of(batch, rows_VD, cosine):
    """A function of a user's and an item's numbers."""
    unit = torch.nn.functional.normalize(rows_VD, dim=1) if cosine else rows_VD
    place = {int(node): row for node, row in zip(batch.nodes_V, unit, strict=True)}
    return lambda user, item: place[user] @ place[item + WORLD.num_users]


def entries(batch):
    """User, positive, the other negatives, and the own one or -1."""
    triples = batch.triples
    positives = triples.positives_B.tolist()
    for user, item, drawn, own in zip(
        triples.users_B.tolist(), positives, triples.negatives_BN.tolist(), triples.disliked_B.tolist(), strict=True
    ):
        yield user, item, drawn or [other for other in positives if other != item], own


def by_loops(name, batch, rows_VD, power, logq, weights_B):
    """The loss by loops over the batch, in the type of the rows."""
    score = scores_of(batch, rows_VD, name != "bpr")
    share_I = DEGREES**power / (DEGREES**power).sum()
    terms, by_user = [], {}
    for (user, item, others, own), weight in zip(entries(batch), weights_B, strict=True):
        if name == "bpr":
            term = sum(torch.nn.functional.softplus(score(user, other) - score(user, item)) for other in others) / len(others)
            if own >= 0:
                term = (term + W * torch.nn.functional.softplus(score(user, own) - score(user, item))) / (1 + W)
            terms.append(weight * term)
            continue
        masses = [share_I[other] ** -logq for other in others]
        negative = sum(mass * torch.exp(score(user, other) / T) for mass, other in zip(masses, others, strict=True))
        total = sum(masses)
        if own >= 0:
            negative, total = negative + W * sum(masses) * torch.exp(score(user, own) / T), (1 + W) * total
        if name == "bsl":
            by_user.setdefault(user, []).append((torch.exp(score(user, item) / T1), torch.log(negative / total)))
        else:
            positive = torch.exp(score(user, item) / T) * share_I[item] ** -logq
            terms.append(weight * torch.log((positive + negative) / positive))
    for found in by_user.values():
        up, down = zip(*found, strict=True)
        terms.append(-T1 / T * torch.log(sum(up) / len(up)) + sum(down) / len(down))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "negatives", "logq"), [
    ("softmax", "in_batch", 0.0), ("softmax", "in_batch", 0.6), ("softmax", "popularity", 0.0), ("softmax", "popularity", 1.0),
    ("bsl", "in_batch", 0.0), ("bsl", "uniform", 0.0), ("bpr", "uniform", 0.0), ("bpr", "popularity", 0.0),
])  # fmt: skip
def test_losses_and_gradients_are_those_of_loops(name, negatives, logq, weighted):
    """Values within 1e-5, gradients within 1e-5 of the largest, of float64."""
    if weighted and name == "bsl":
        return
    rng = np.random.default_rng(1)
    weights = rng.random(GRAPH.num_edges).astype(np.float32) if weighted else None
    batch, exact_VD, objective = parts(name, negatives, logq, weights)
    own = batch.triples.disliked_B
    assert (own >= 0).any() and (own < 0).any(), "both cases must occur"
    weights_B = np.ones(len(own)) if weights is None else batch.triples.weights_B.astype(np.float64)
    exact_VD.requires_grad_()
    power = 1.0 if negatives == "in_batch" else KINDS[negatives]
    expected = by_loops(name, batch, exact_VD, power, logq, weights_B)
    expected.backward()
    rows_VD = exact_VD.detach().float().requires_grad_()
    found = loss_by(objective, rows_VD, rows_VD.detach(), batch)
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float((rows_VD.grad - exact_VD.grad).abs().max()) <= 1e-5 * float(exact_VD.grad.abs().max())


def test_entries_without_a_negative_of_their_own_lose_as_before():
    batch, rows_VD, objective = parts("softmax", "in_batch")
    bare = replace(batch, disliked_B=np.full(len(batch.users_B), -1, np.int64))
    plain = replace(batch, disliked_B=None)
    used = np.unique(np.concatenate([batch.users_B, batch.positives_B]))
    renumbered = {key: np.searchsorted(used, getattr(batch, key)) for key in ("users_B", "positives_B")}
    plain = replace(plain, nodes_V=batch.nodes_V[used], **renumbered)
    rows = rows_VD.float().requires_grad_()
    found = loss_by(objective, rows, rows.detach(), bare)
    found.backward()
    alone = rows_VD[used].float().requires_grad_()
    expected = loss_by(objective, alone, alone.detach(), plain)
    expected.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float((rows.grad[used] - alone.grad).abs().max()) <= 1e-6 * float(alone.grad.abs().max())


def test_in_bfloat16_the_loss_stays_close():
    batch, rows_VD, objective = parts("softmax", "in_batch", precision="bfloat16")
    exact, _, float32 = parts("softmax", "in_batch")
    rows = rows_VD.float()
    assert float(loss_by(objective, rows, rows, batch)) == pytest.approx(float(loss_by(float32, rows, rows, exact)), rel=1e-2)


def test_l2_counts_the_rows_of_own_negatives():
    batch, rows_VD, objective = parts("bpr", "uniform")
    rows, l2 = rows_VD.float(), 0.1
    own = batch.disliked_B[batch.disliked_B >= 0]
    every = np.concatenate([batch.users_B, batch.positives_B, batch.negatives_BN.reshape(-1), own])
    penalty = l2 * float(rows_VD[every].square().sum()) / (2 * len(batch.users_B))
    found = loss_by(replace(objective, l2=l2), rows, rows, batch) - loss_by(objective, rows, rows, batch)
    assert float(found) == pytest.approx(penalty, rel=1e-4)


def test_a_single_candidate_leaves_the_weight_alone():
    """Every entry has the same positive, so that the own negative is the only one: -log(e^2 / (e^2 + w e^-1))."""
    users, pool, own = torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0]]), torch.tensor([[-1.0], [5.0]])
    given = losses.Own(own, torch.tensor([math.log(W), -math.inf]))
    bias = torch.tensor([math.log(2.0)])
    loss = losses.pool_softmax(users, losses.Pool(pool, bias, -bias[[0, 0]]), torch.tensor([0, 0]), 1.0, own=given)
    assert float(loss) == pytest.approx(math.log(1 + W * math.exp(-3)) / 2, rel=1e-6)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_optimum_of_what_a_user_rated_low_is_lower_by_its_share_of_the_negatives(weight):
    """A user takes items with p and rated item 7 low: no gradient at s/t = log p - log(q + w v), by negatives without noise.

    The gradient of item i is (its share of the softmax - p_i) / t. A positive is no negative of its own entry, so that shares
    lack a part q_i, below 0.02.
    """
    rng, size, temperature, many = np.random.default_rng(3), 150, 0.5, 1e5
    likes, drawn = (rng.dirichlet(np.full(size, 20.0)) for _ in range(2))
    bias, weights, users = tensor(np.log(many * drawn)), tensor(size * likes), torch.ones(size, 1)

    def gradient_of(noise):
        scores = tensor(temperature * (np.log(likes) - np.log(noise)))[:, None].requires_grad_()
        own = losses.Own(scores[torch.full((size,), 7)], torch.full((size,), math.log(weight)))
        pool = losses.Pool(scores, bias, -bias)
        losses.pool_softmax(users, pool, torch.arange(size), temperature, weights, own=own).backward()
        return scores.grad.numpy()[:, 0] * temperature / likes

    at_the_optimum = gradient_of(drawn + weight * (np.arange(size) == 7))
    assert np.abs(at_the_optimum).max() < 0.03
    assert gradient_of(drawn)[7] > 0.3, "elsewhere there is one"


def test_directau_has_no_negatives_to_join():
    with pytest.raises(UsageError, match=r"directau' compares with no negatives, so that loss.negative_weight = 2 cannot apply"):
        Job.parse({"loss": {"name": "directau", "negative_weight": 2}}, [], "test")
    assert Job.parse({"loss": {"name": "directau", "negative_weight": 0}}, [], "test").loss.negative_weight == 0
