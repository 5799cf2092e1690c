"""The loss of the peers that train steps: in-batch softmax of cosines and L2 of layer 0, as a careful user of torch writes it.

Letters: V nodes of the batch, B positives, J distinct positives, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Numbers = torch.Tensor | NDArray[Any]


@dataclass(frozen=True)
class Labels:
    """A batch as torch code takes it: int64 positions, each positive's place in the pool, floating-point weights."""

    nodes_V: torch.Tensor
    num_users: int
    users_B: torch.Tensor
    target_B1: torch.Tensor
    log_count_J: torch.Tensor
    own_B1: torch.Tensor
    uses_V: torch.Tensor

    @classmethod
    def of(
        cls, nodes_V: Numbers, num_users: int, users_B: Numbers, positives_B: Numbers, dtype: torch.dtype = torch.float32
    ) -> Labels:
        """Labels of `nodes_V`, users first; `users_B` and `positives_B` are places among them."""
        nodes_V, users_B, positives_B = (torch.as_tensor(part) for part in (nodes_V, users_B, positives_B))
        target_B = positives_B - num_users
        log_count_J = torch.bincount(target_B, minlength=len(nodes_V) - num_users).to(dtype).log()
        uses_V = torch.bincount(torch.cat([users_B, positives_B]), minlength=len(nodes_V)).to(dtype)
        return cls(nodes_V, num_users, users_B, target_B[:, None], log_count_J, -log_count_J[target_B, None], uses_V)


def softmax_loss(labels: Labels, final_VD: torch.Tensor, ego_VD: torch.Tensor, temperature: float, l2: float) -> torch.Tensor:
    """Softmax over the distinct positives, each weighted by its count in the batch, a user's own by 1; L2 of `ego_VD`."""
    rows_VD = F.normalize(final_VD, dim=1)
    users_BD, pool_JD = rows_VD.index_select(0, labels.users_B), rows_VD[labels.num_users :]
    logits_BJ = torch.addmm(labels.log_count_J, users_BD, pool_JD.T, alpha=1 / temperature)
    logits_BJ = logits_BJ.scatter_add_(1, labels.target_B1, labels.own_B1)
    penalty = l2 / (2 * len(labels.users_B)) * (labels.uses_V * ego_VD.square().sum(1)).sum()
    return F.cross_entropy(logits_BJ, labels.target_B1[:, 0]) + penalty
