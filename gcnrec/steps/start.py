"""Where a table starts: singular vectors of the graph, random rows, or the rows of an earlier run.

Letters: N nodes, P nodes of the earlier run, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.models.hops import Hop
from gcnrec.models.spectral import top_singular
from gcnrec.random import Stage, normal, normal_at
from gcnrec.tables.dense import FILLED_ROWS


@dataclass(frozen=True)
class Start:
    """What rows start as: singular vectors or normal draws of `seed`, with a root mean square of `scale`."""

    kind: Literal["spectral", "normal"]
    scale: float
    seed: int

    def noise(self, width: int, first: int, last: int) -> torch.Tensor:
        """Standard normal rows first .. last-1, float32; equal for every division into blocks."""
        return torch.from_numpy(normal(self.seed, Stage.INIT, 0, (last - first, width), first * width))

    def drawn(self, width: int, first: int, last: int) -> DrawnNoise:
        """The same rows, of which cells can be drawn alone."""
        return DrawnNoise(self.seed, first, (last - first, width))

    def scaled_noise(self, rows: int, width: int) -> torch.Tensor:
        """Normal rows times `scale`, float32 (rows, width)."""
        rows_ND = torch.empty(rows, width)
        for first in range(0, rows, FILLED_ROWS):
            last = min(first + FILLED_ROWS, rows)
            rows_ND[first:last] = self.noise(width, first, last)
        return rows_ND.mul_(self.scale)


@dataclass(frozen=True, slots=True)
class DrawnNoise:
    """Standard normal rows `first ..` of `shape`, as `Start.noise` has them, none of them made."""

    seed: int
    first: int
    shape: tuple[int, int]

    def at(self, rows_X: NDArray[np.int64], columns_X: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The cells in these rows, from 0, and columns, float32 (X)."""
        return normal_at(self.seed, Stage.INIT, 0, (self.first + rows_X) * self.shape[1] + columns_X)


def spectral_rows(start: Start, graph: BipartiteGraph, width: int) -> torch.Tensor:
    """The top singular vectors of the normalised interactions, times the roots of their values.

    Float32 (N, width), scaled to a root mean square of `start.scale`.
    """
    left_UD, singular_D, right_ID = top_singular(graph, width, start.seed)
    rows_ND = torch.cat([left_UD, right_ID]).mul_(singular_D.sqrt())
    rows_ND.mul_(start.scale / _root_mean_square(rows_ND))
    beyond_D = singular_D == 0
    if beyond_D.any():  # more columns than the graph has rank: zeros on both sides would never get a gradient
        rows_ND[:, beyond_D] = start.scaled_noise(graph.num_nodes, width)[:, beyond_D]
    return rows_ND


def continued_rows(start: Start, graph: BipartiteGraph, earlier_PD: torch.Tensor, places_N: NDArray[np.int32]) -> torch.Tensor:
    """Rows of an earlier run, and for nodes that it did not know one hop of propagation from neighbours that it did.

    `places_N`: a node's row in `earlier_PD`, -1 for a new node. New rows of a side get the ratio of length that matched rows of
    that side have to their own propagation. A new node without a matched neighbour starts from noise.
    """
    known = torch.from_numpy(places_N >= 0)
    rows_ND = torch.zeros(graph.num_nodes, earlier_PD.shape[1])
    rows_ND[known] = earlier_PD[torch.from_numpy(places_N[places_N >= 0].astype(np.int64))]
    hopped_ND = Hop(graph).full(rows_ND)
    for side in (slice(0, graph.num_users), slice(graph.num_users, graph.num_nodes)):
        own, hopped, old = rows_ND[side], hopped_ND[side], known[side]
        reference = hopped[old] if hopped[old].any() else hopped[~old]
        own[~old] = hopped[~old] * (_root_mean_square(own[old]) / _root_mean_square(reference))
    lost = ~known & (rows_ND == 0).all(1)
    rows_ND[lost] = start.scaled_noise(graph.num_nodes, rows_ND.shape[1])[lost]
    return rows_ND


def _root_mean_square(rows_RD: torch.Tensor) -> torch.Tensor:
    if not rows_RD.numel():
        return torch.ones(())
    return rows_RD.square().mean().sqrt().clamp_min(1e-30)
