"""Losses of parts add up to the loss of their union: each against loops in float64, and against the objective of whole batches.

Every embedding is a row of one matrix, so that gradients with respect to it add up over nodes, candidates and L2.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gcnrec.config import Job
from gcnrec.device import ops_for, uploaded
from gcnrec.graph import csr_from_edges
from gcnrec.models.objective import objective_of
from gcnrec.models.scores.parts import PartObjective
from gcnrec.sampling.parts import PartedSampler
from gcnrec.sampling.sampler import Triples, edge_sampler, located
from gcnrec.testing import halves, loss_by, star

WORLD = halves(9, 6)
GRAPH = WORLD.graph
USERS, ITEMS = (np.array(side, np.int32) for side in zip(*[(0, 12), (0, 13), (2, 9), (9, 1), (10, 2), (10, 3)], strict=True))
DISLIKED = csr_from_edges(USERS, ITEMS, WORLD.num_users, WORLD.num_items)
WEIGHT, T, T1, L2, D = 0.7, 0.5, 0.4, 0.03, 6
POWERS = {"in_batch": 1.0, "uniform": 0.0, "popularity": 0.5}
CASES = [
    (name, negatives, logq, weighted, disliked)
    for name, negatives, logq in [
        ("softmax", "in_batch", 0.0), ("softmax", "in_batch", 0.6), ("softmax", "popularity", 0.0),
        ("softmax", "popularity", 1.0),
        ("bsl", "in_batch", 0.0), ("bsl", "uniform", 0.0), ("bpr", "uniform", 0.0), ("bpr", "popularity", 0.0),
    ]
    for weighted in (False, True)
    for disliked in (False, True)
    if not (weighted and name == "bsl")
]  # fmt: skip


def made(name, negatives, logq, weighted, disliked, parts, size=30, graph=GRAPH):
    """A sampler of all parts, and the objective of a job."""
    own = {"bsl": {"positive_temperature": T1}, "bpr": {"score": "inner"}, "softmax": {"logq": logq}}
    loss = {"name": name, "negative_weight": WEIGHT if disliked else None, "l2": L2, "temperature": T, **own[name]}
    loss = {key: value for key, value in loss.items() if value is not None}
    sampler = {"negatives": negatives, "num_negatives": 3, "popularity_power": 0.5}
    job = Job.parse({"loss": loss, "sampler": sampler, "train": {"batch_size": size}}, [], "test")
    weights_E = np.random.default_rng(1).random(graph.num_edges).astype(np.float32) if weighted else None
    edges = edge_sampler(job.sampler, graph, weights_E, size, 0, disliked=DISLIKED if disliked else None)
    objective = objective_of(job.loss, job.sampler, graph, weighted)
    return PartedSampler(edges, parts, tuple(range(parts))), objective


def union(batch, num_users):
    """The pairs of all parts as one batch."""
    triples = [part.batch.triples for part in batch.parts]
    columns = [[getattr(t, name) for t in triples] for name in Triples.__dataclass_fields__]
    joined = Triples(*(None if column[0] is None else np.concatenate(column) for column in columns))
    return located(batch.step, joined, num_users)


def by_parts(batch, objective, rows_ND, num_users):
    """The sum of the parts' losses, differentiable in the matrix of all embeddings, which are the table's rows too."""
    parts, ops = PartObjective(objective), ops_for(rows_ND.device)
    given = [uploaded(parts.prepare(part, batch), ops) for part in batch.parts]
    tiles = [rows_ND[torch.from_numpy(part.batch.nodes_V)] for part in batch.parts]
    scored = [parts.rows(tile_VD) for tile_VD in tiles]
    pool_JD = torch.cat([parts.shared(*each) for each in zip(scored, given, strict=True)])
    if batch.pool is not None:
        items_J = torch.from_numpy(batch.pool.items_J.astype(np.int64)) + num_users
        assert torch.equal(pool_JD, parts.rows(rows_ND[items_J]))
    losses = [parts.loss(rows_VD, tile_VD, pool_JD, each) for rows_VD, tile_VD, each in zip(scored, tiles, given, strict=True)]
    return torch.stack(losses).sum()


def oracle(case, batch, rows_ND, graph):
    """The loss of the union by loops in float64, NumPy only."""
    name, negatives, logq, _, _ = case
    rows, t = rows_ND.astype(np.float64), batch.triples
    unit = rows if name == "bpr" else rows / np.linalg.norm(rows, axis=1, keepdims=True)
    share_I = graph.item_users.degrees ** POWERS[negatives]
    share_I = share_I / share_I.sum()
    weights_B = np.ones(len(t.users_B)) if t.weights_B is None else t.weights_B.astype(np.float64)
    terms, of_users, norms = [], {}, []
    for b, (user, item) in enumerate(zip(t.users_B.tolist(), t.positives_B.tolist(), strict=True)):
        others = t.negatives_BN[b].tolist() or [other for other in t.positives_B.tolist() if other != item]
        own = -1 if t.disliked_B is None else int(t.disliked_B[b])
        norms += [rows[node] for node in (user, item + graph.num_users)]
        norms += [rows[other + graph.num_users] for other in [*t.negatives_BN[b].tolist(), *([own] if own >= 0 else [])]]

        def score(other, user=user):
            return unit[user] @ unit[other + graph.num_users]

        if name == "bpr":
            loss = np.mean([np.log1p(np.exp(score(other) - score(item))) for other in others])
            if own >= 0:
                loss = (loss + WEIGHT * np.log1p(np.exp(score(own) - score(item)))) / (1 + WEIGHT)
            terms.append(weights_B[b] * loss)
            continue
        masses = [share_I[other] ** -logq for other in others]
        below, mass = sum(m * np.exp(score(other) / T) for m, other in zip(masses, others, strict=True)), sum(masses)
        if own >= 0:
            below, mass = below + WEIGHT * mass * np.exp(score(own) / T), (1 + WEIGHT) * mass
        if name == "softmax":
            above = np.exp(score(item) / T) * share_I[item] ** -logq
            terms.append(weights_B[b] * np.log((above + below) / above))
        else:
            of_users.setdefault(user, []).append((np.exp(score(item) / T1), np.log(below / mass)))
    for found in of_users.values():
        up, down = zip(*found, strict=True)
        terms.append(-T1 / T * np.log(np.mean(up)) + np.mean(down))
    return np.mean(terms) + L2 * np.square(norms).sum() / (2 * len(t.users_B))


@pytest.mark.parametrize("parts", [4])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_losses_of_parts_add_up_to_that_of_their_union(case, parts):
    """Values within 1e-5 of loops in float64 and 2e-6 of the whole objective; gradients within 1e-5 of the largest."""
    sampler, objective = made(*case, parts)
    batch, num_users = sampler.batch(0, 1), GRAPH.num_users
    whole = union(batch, num_users)
    start_ND = torch.randn(GRAPH.num_nodes, D, generator=torch.Generator().manual_seed(parts))
    one_ND, other_ND = start_ND.clone().requires_grad_(), start_ND.clone().requires_grad_()
    found = by_parts(batch, objective, one_ND, num_users)
    found.backward()
    tile_VD = other_ND[torch.from_numpy(whole.nodes_V)]
    expected = loss_by(objective, tile_VD, tile_VD, whole)
    expected.backward()
    assert case[4] is False or ((whole.triples.disliked_B >= 0).any() and (whole.triples.disliked_B < 0).any())
    assert float(found.detach()) == pytest.approx(oracle(case, whole, start_ND.numpy(), GRAPH), rel=1e-5)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=2e-6)
    assert float((one_ND.grad - other_ND.grad).abs().max()) <= 1e-5 * float(other_ND.grad.abs().max())


@pytest.mark.parametrize("case", [("softmax", "in_batch", 0.0), ("softmax", "popularity", 1.0), ("bsl", "in_batch", 0.0),
                                  ("bsl", "uniform", 0.0), ("bpr", "uniform", 0.0)], ids=str)  # fmt: skip
def test_parts_without_pairs_add_only_the_norm_of_their_candidates(case):
    """Users 0 and 1 alone have edges, so that two of eight parts have pairs; the part of item 0 has neither user."""
    world = replace(star(2), num_users=12, num_items=12)
    sampler, objective = made(*case, False, False, parts=8, size=8, graph=world.graph)
    batch = sampler.batch(0, 0)
    assert [len(part.batch.users_B) for part in batch.parts] == [1, 1, 0, 0, 0, 0, 0, 0]
    whole = union(batch, 12)
    rows_ND = torch.randn(24, D, generator=torch.Generator().manual_seed(0))
    tile_VD = rows_ND[torch.from_numpy(whole.nodes_V)]
    found, expected = by_parts(batch, objective, rows_ND, 12), loss_by(objective, tile_VD, tile_VD, whole)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=2e-6)
    given = PartObjective(objective).prepare(batch.parts[12 % 8], batch)
    assert given.share == 0.0 and given.l2_roots_V.tolist() == pytest.approx([] if batch.pool is None else [2.0**0.5])
