"""LightGCN whose hop is a mean of the behaviours' hops by learnt weights, one set for users and one for items.

    A x = [ sum over b of alpha_b (A_b x)[users] ; sum over b of beta_b (A_b x)[items] ];   final = 1/(L+1) * sum over l of A^l E

alpha and beta are softmaxes of a learnt number for each behaviour, equal at the start; A_b is the symmetric-normalised matrix of
behaviour b alone. MBGCN learns such weights for the user side (Jin et al. 2020, "Multi-behavior recommendation with graph
convolutional networks"), times the behaviours' shares in a user's interactions, which are left out here.
Letters: N nodes, U users, I items, D width, B behaviours, L layers.
"""

from __future__ import annotations

import torch

from gcnrec.graph import BipartiteGraph
from gcnrec.models.hops import Hop, SymmetricHop
from gcnrec.models.whole_graph.encoder import WholeGraph


class _Weights(torch.nn.Module):
    """`logits_2B`: the target's first, then those of `graph.others`; users' row first."""

    def __init__(self, behaviours: int) -> None:
        super().__init__()
        self.logits_2B = torch.nn.Parameter(torch.zeros(2, behaviours))

    def by_node(self, num_users: int, num_items: int) -> torch.Tensor:
        """What each behaviour weighs at each node, float32 (B, N)."""
        of_users_B, of_items_B = self.logits_2B.softmax(1)
        return torch.cat([of_users_B[:, None].expand(-1, num_users), of_items_B[:, None].expand(-1, num_items)], 1)


class BehaviourWeights(WholeGraph):
    """Every behaviour of `graph`, the target's first; `weights` are its parameters."""

    def __init__(self, graph: BipartiteGraph, num_layers: int, width: int) -> None:
        self.weights = _Weights(1 + len(graph.others))
        super().__init__(width, self.weights)
        self._graph, self._num_layers = graph, num_layers
        self._hops = [Hop(graph), *(Hop(other.graph) for other in graph.others)]

    def propagated(self, rows_ND: torch.Tensor) -> torch.Tensor:
        weights_BN = self.weights.by_node(self._graph.num_users, self._graph.num_items)
        source, total = rows_ND, rows_ND
        for _ in range(self._num_layers):
            source = sum_of(weights_BN, [SymmetricHop.apply(source, hop) for hop in self._hops])
            total = total + source
        return total / (self._num_layers + 1)


def sum_of(weights_BN: torch.Tensor, hopped: list[torch.Tensor]) -> torch.Tensor:
    """sum over b of weights_BN[b] * hopped[b], row by row; float32 (N, D)."""
    total_ND = weights_BN[0, :, None] * hopped[0]
    for weights_N, hopped_ND in zip(weights_BN[1:], hopped[1:], strict=True):
        total_ND = total_ND + weights_N[:, None] * hopped_ND
    return total_ND
