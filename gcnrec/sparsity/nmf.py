"""Nonnegative matrix factorisation of the interactions: R ~ users @ items.T with no negative entry (Lee & Seung 2001).

Letters: U users, I items, K rank.
"""

from __future__ import annotations

import torch

from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.propagate import propagate
from gcnrec.random import Stage, uniform

SWEEPS = 40
_LEAST = 1e-10
"""Entries do not fall below: smaller ones would only slow arithmetic down as denormal numbers."""


def nonnegative_factors(graph: BipartiteGraph, rank: int, seed: int, sweeps: int = SWEEPS) -> tuple[torch.Tensor, torch.Tensor]:
    """`users_UK` and `items_IK`, float32, that bring down the squared error over all U * I cells, unseen ones counting as 0.

    Multiplicative updates (Lee & Seung 2001, "Algorithms for non-negative matrix factorization"), which never raise it, from
    uniform random entries. Holds both factors and as much again.
    """
    level = 2.0 * (graph.num_edges / max(1, graph.num_users * graph.num_items * rank)) ** 0.5
    users_UK = _random(seed, 1, graph.num_users, rank).mul_(level).clamp_min_(_LEAST)
    items_IK = _random(seed, 2, graph.num_items, rank).mul_(level).clamp_min_(_LEAST)
    for _ in range(sweeps):
        _update(graph.user_items, users_UK, items_IK)
        _update(graph.item_users, items_IK, users_UK)
    return users_UK, items_IK


def _update(csr: Csr, own_RK: torch.Tensor, other_CK: torch.Tensor) -> None:
    """own *= (A other) / (own other' other), in place."""
    wanted_RK = propagate(csr, other_CK, torch.ones(csr.rows), torch.ones(csr.columns))
    wanted_RK /= (own_RK @ (other_CK.T @ other_CK)).clamp_min_(_LEAST)
    own_RK.mul_(wanted_RK).clamp_min_(_LEAST)


def _random(seed: int, step: int, rows: int, columns: int) -> torch.Tensor:
    return torch.from_numpy(uniform(seed, Stage.SPECTRAL, step, rows * columns)).float().reshape(rows, columns)
