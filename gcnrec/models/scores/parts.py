"""The objective of a part of a batch, whose candidates may be embedded by other parts.

The loss of a step is the sum over its parts: a part's mean counts by its share of the pairs, or of the users where the loss is a
mean over users. L2 of a row counts where the row is a node, every use of it in the step.
Letters: V nodes of the part, J candidates, K of them nodes of the part, B pairs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gcnrec.models import losses
from gcnrec.models.objective import Objective, roots_of_uses
from gcnrec.models.scores.entries import entries_in, take
from gcnrec.models.scores.in_batch import BslInBatch, BslSampled, PoolScore, Shared
from gcnrec.rows import Array, Entries
from gcnrec.sampling.parts import Part, PartedBatch, Pool, PooledPart


class PartGiven(NamedTuple, Generic[Array]):
    """What a part's objective takes from the host: `shared`, entries of its K candidates among its nodes, None without a pool.

    `share` of the part in the step's loss, 0 where it has no pair; `num_pairs` of the step.
    """

    score: Any
    shared: Entries[Array] | None
    l2_roots_V: Array | None
    share: float
    num_pairs: int


@dataclass(frozen=True)
class PartObjective:
    """`objective` of a whole batch, part by part: `rows`, `shared`, and the `loss` against the pool of all parts."""

    objective: Objective

    def prepare(self, part: Part, step: PartedBatch) -> PartGiven[NDArray[Any]]:
        """What the other functions take from the host. Runs while earlier batches train."""
        batch, score = part.batch, self.objective.score
        share = len(batch.users_B) / step.num_pairs
        if isinstance(score, (BslInBatch, BslSampled)):  # their mean is over users
            share = len(np.unique(batch.users_B)) / step.num_users
        if step.pool is None or part.pooled is None:
            roots_V = roots_of_uses(batch) if self.objective.l2 else None
            return PartGiven(score.prepare(batch), None, roots_V, share, step.num_pairs)
        pool = Shared(step.pool.items_J, step.pool.counts_J, part.pooled.target_B)
        roots_V = _roots_of_shared_uses(part, step.pool, part.pooled) if self.objective.l2 else None
        shared = entries_in(batch, part.pooled.shared_K)
        return PartGiven(_pooled(score).prepare_part(batch, pool), shared, roots_V, share, step.num_pairs)

    def rows(self, final_VD: torch.Tensor) -> torch.Tensor:
        """Embeddings as scores take them, differentiable."""
        return F.normalize(final_VD, dim=1) if self.objective.cosine else final_VD

    def shared(self, rows_VD: torch.Tensor, given: PartGiven[torch.Tensor]) -> torch.Tensor:
        """The candidates that the part embeds, (K, D), differentiable; none without a pool."""
        return rows_VD[:0] if given.shared is None else take(rows_VD, given.shared)

    def loss(
        self, rows_VD: torch.Tensor, ego_VD: torch.Tensor, pool_JD: torch.Tensor, given: PartGiven[torch.Tensor]
    ) -> torch.Tensor:
        """What the part adds to the loss of the step, differentiable in embeddings, table rows and pool."""
        total = rows_VD.new_zeros(())
        if given.share and given.shared is None:
            total = given.share * self.objective.score(rows_VD, given.score)
        elif given.share:
            total = given.share * _pooled(self.objective.score).of_part(rows_VD, pool_JD, given.score)
        if given.l2_roots_V is not None:
            total = total + losses.half_squared_norm(ego_VD, given.l2_roots_V, given.num_pairs, self.objective.l2)
        return total


def _pooled(score: Any) -> PoolScore:
    """The score as one against a pool: samplers give a pool to no other."""
    pooled: PoolScore = score
    return pooled


def _roots_of_shared_uses(part: Part, pool: Pool, pooled: PooledPart) -> NDArray[np.float32]:
    """The roots of how often the part's nodes occur in the pairs of the step, float32 (V)."""
    batch = part.batch
    every = [batch.users_B] if batch.disliked_B is None else [batch.users_B, batch.disliked_B[batch.disliked_B >= 0]]
    uses_V = np.bincount(np.concatenate(every), minlength=len(batch.nodes_V))
    uses_V[pooled.shared_K] += pool.counts_J[pool.of_part(batch.part)]
    return np.sqrt(uses_V.astype(np.float32))
