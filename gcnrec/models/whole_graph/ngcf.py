"""NGCF (Wang et al. 2019, "Neural Graph Collaborative Filtering"), without message dropout.

    e_0 = row; e_{l+1} = LeakyReLU((e_l + A e_l) W1 + b1 + (A e_l * e_l) W2 + b2, 0.2); final = [e_0 | n(e_1) | ... | n(e_L)]

with n the scaling to unit length (eqs. 7 and 9; self-connection in the first term only, as in the authors' code).
Letters: N nodes, D width, L layers, F = D (L + 1) width of the embeddings.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from gcnrec import random
from gcnrec.graph import BipartiteGraph
from gcnrec.models.hops import Hop, SymmetricHop
from gcnrec.models.whole_graph.encoder import WholeGraph


class Ngcf(WholeGraph):
    """Propagates all nodes through autograd: its layers are not linear, so every row has a gradient."""

    def __init__(self, graph: BipartiteGraph, num_layers: int, width: int, seed: int) -> None:
        self._hop = Hop(graph)
        self._maps = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(2 * num_layers))
        super().__init__(width * (num_layers + 1), self._maps)
        for step, layer in enumerate(self._maps):
            limit = (3.0 / width) ** 0.5  # Glorot & Bengio 2010, for equal fan-in and fan-out
            draws = random.uniform(seed, random.Stage.INIT, 1 + step, width * width)
            weight = torch.from_numpy((limit * (2.0 * draws - 1.0)).astype(np.float32)).view(width, width)
            with torch.no_grad():
                layer.weight.copy_(weight)  # type: ignore[operator, union-attr]
                layer.bias.zero_()  # type: ignore[operator, union-attr]

    def propagated(self, rows_ND: torch.Tensor) -> torch.Tensor:
        parts, current = [rows_ND], rows_ND
        for linear, product in zip(self._maps[0::2], self._maps[1::2], strict=True):  # type: ignore[misc]
            side: torch.Tensor = SymmetricHop.apply(current, self._hop)
            current = F.leaky_relu(linear(current + side) + product(side * current), 0.2)
            parts.append(F.normalize(current, dim=1))
        return torch.cat(parts, 1)
