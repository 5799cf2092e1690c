"""PinSage (Ying et al. 2018, "Graph convolutional neural networks for web-scale recommender systems", algorithms 1 and 2).

    n = sum over important neighbours of alpha * ReLU(Q h_l + q);   z = ReLU(W [h_l | n] + w);   h_{l+1} = z / |z|
    final = G2 ReLU(G1 h_L + g)

alpha are shares of the visits of short random walks; neighbours are nodes of the same side. Users are embedded like items.
Letters: T targets and S sources of a layer, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gcnrec.models.node_inputs import glorot_
from gcnrec.models.pooling import Edges


class PinSageConvolution(torch.nn.Module):
    """One layer of algorithm 1."""

    def __init__(self, width: int, seed: int, number: int) -> None:
        super().__init__()
        self.neighbour = torch.nn.Linear(width, width)
        self.joined = torch.nn.Linear(2 * width, width)
        glorot_(self.neighbour, seed, 2 * number)
        glorot_(self.joined, seed, 2 * number + 1)

    def forward(self, own_TD: torch.Tensor, sources_SD: torch.Tensor, edges: Edges) -> torch.Tensor:
        pooled_TD = edges.pool(F.relu(self.neighbour(sources_SD)))
        return F.normalize(F.relu(self.joined(torch.cat([own_TD, pooled_TD], 1))), dim=1)


class PinSageHead(torch.nn.Module):
    """The last two lines of algorithm 2."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(width, width)
        self.outer = torch.nn.Linear(width, width, bias=False)
        glorot_(self.inner, seed, 1000)
        glorot_(self.outer, seed, 1001)

    def forward(self, rows_TD: torch.Tensor) -> torch.Tensor:
        final: torch.Tensor = self.outer(F.relu(self.inner(rows_TD)))
        return final


def pinsage_convolutions(num_layers: int, width: int, seed: int) -> torch.nn.ModuleList:
    """The convolutions of all layers; the start of each is drawn by `seed` and its number."""
    return torch.nn.ModuleList(PinSageConvolution(width, seed, number) for number in range(num_layers))
