"""Layers that embed a node from its neighbours.

GraphSAGE (Hamilton et al. 2017, "Inductive representation learning on large graphs") with the mean aggregator:

    h_{l+1} = sigma(lin_r h_l + lin_l mean of the neighbours' h_l)            (algorithm 1, with the sum of two maps)

sigma is ReLU, none after the last layer. Parameters are called as in torch_geometric's SAGEConv and may be exchanged with it.
The drawn neighbours are uniform and without replacement; exports average all.

PinSage (Ying et al. 2018, "Graph convolutional neural networks for web-scale recommender systems", algorithms 1 and 2):

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


class SageConvolution(torch.nn.Module):
    """One layer. Both maps start as the identity: one hop of mean propagation, which keeps what a spectral start knows."""

    def __init__(self, width: int, activation: torch.nn.Module) -> None:
        super().__init__()
        self.lin_l = torch.nn.Linear(width, width)
        self.lin_r = torch.nn.Linear(width, width, bias=False)
        self.activation = activation
        with torch.no_grad():
            torch.nn.init.eye_(self.lin_l.weight)
            torch.nn.init.eye_(self.lin_r.weight)
            self.lin_l.bias.zero_()

    def forward(self, own_TD: torch.Tensor, sources_SD: torch.Tensor, edges: Edges) -> torch.Tensor:
        made: torch.Tensor = self.activation(self.lin_r(own_TD) + self.lin_l(edges.pool(sources_SD)))
        return made


def sage_convolutions(num_layers: int, width: int) -> torch.nn.ModuleList:
    """ReLU between layers, none after the last."""
    return torch.nn.ModuleList(
        SageConvolution(width, torch.nn.Identity() if layer == num_layers - 1 else torch.nn.ReLU()) for layer in range(num_layers)
    )


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
