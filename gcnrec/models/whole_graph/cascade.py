"""LightGCN on each behaviour in turn, from views to purchases: each starts from what the one before has made.

    x_0 = E;   x_b = x_{b-1} + 1/L * sum over l = 1 .. L of A_b^l x_{b-1};   final = x_B

A_b is the symmetric-normalised matrix of behaviour b alone. The sum with x_{b-1} is the residual connection of CRGCN (Yan et al.
2022, "Cascading residual graph convolutional network for multi-behavior recommendation", arXiv:2205.13128). CRGCN also scales
rows to unit length between behaviours and has a loss for each; here only the target, which is last, has one.
Letters: N nodes, D width, B behaviours, L layers.
"""

from __future__ import annotations

import torch

from gcnrec.graph import BipartiteGraph
from gcnrec.models.hops import Hop, SymmetricHop
from gcnrec.models.whole_graph.encoder import WholeGraph


class Cascade(WholeGraph):
    """`graph.others`, the most frequent first, and then the target; it has no parameters but the table's rows."""

    def __init__(self, graph: BipartiteGraph, num_layers: int, width: int) -> None:
        super().__init__(width, None)
        self._hops = [*(Hop(other.graph) for other in graph.others), Hop(graph)]
        self._num_layers = num_layers

    def propagated(self, rows_ND: torch.Tensor) -> torch.Tensor:
        current = rows_ND
        for hop in self._hops:
            source, total = current, current
            for _ in range(self._num_layers):
                source = SymmetricHop.apply(source, hop)
                total = total + source / self._num_layers
            current = total
        return current
