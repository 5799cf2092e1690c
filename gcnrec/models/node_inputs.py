"""What a node brings to the first layer of GraphSAGE and PinSage: its projected features, its table row, a bias of its side.

    h_0 = P f + keep * row + b            P and b of the node's side; no P f where that side has no features

A node that training never saw has no row worth reading. So that the model can do without, some nodes of every batch are
treated as new (Volkovs et al. 2017, "DropoutNet: addressing cold start in recommender systems"): `keep` is 0.
Letters: N nodes, R nodes to encode, S rows of a sample or of a side, F features, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import random
from gcnrec.graph import BipartiteGraph
from gcnrec.tables.features.sides import FeatureSides, Tiles
from gcnrec.tables.features.table import FeatureTable

_AXES_ROWS = 65_536
_AXES_BLOCK = 4096


class NodeInputs(torch.nn.Module):
    """h_0 of any nodes. `read_rows` False leaves table rows out, for models of features alone.

    Projections start by keeping all angles between nodes of a side (a scaled identity), or where features are wider than the
    table as much of their inner products as its width holds (their principal axes). A feature vector of length 1 comes out with
    entries of root mean square `start_scale`, as rows of a table have that starts with this scale; less where axes are left out.
    """

    def __init__(self, graph: BipartiteGraph, features: FeatureSides, width: int, read_rows: bool, start_scale: float) -> None:
        super().__init__()
        self.num_users, self.width, self.read_rows = graph.num_users, width, read_rows
        starts = graph.user_items.indptr, graph.item_users.indptr
        self.known_N: NDArray[np.bool_] = np.concatenate([each[1:] > each[:-1] for each in starts])
        self.biases = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.projections = torch.nn.ModuleList(
            torch.nn.Identity() if columns is None else torch.nn.Linear(columns, width, bias=False) for columns in features.widths
        )
        for side, projection in zip(features.sides, self.projections, strict=True):
            if side is not None and isinstance(projection, torch.nn.Linear):
                _start_projection_(projection.weight, side.host, start_scale)

    def has_features(self, nodes_R: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Bool (R): whether the node's side has features."""
        users, items = (isinstance(projection, torch.nn.Linear) for projection in self.projections)
        return np.where(nodes_R < self.num_users, users, items)

    def forward(
        self, sizes: tuple[int, int], tiles: Tiles, rows_RD: torch.Tensor | None = None, keep_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        """h_0 of R nodes, users first, so many of each side, float32 (R, D).

        `tiles` are the features of both sides. Table rows `rows_RD` are read where `keep_R` is True; None: no node has one.
        """
        parts, first = [], 0
        for side, size in enumerate(sizes):
            total_SD = self.biases[side].expand(size, -1)
            if rows_RD is not None and keep_R is not None:
                here = slice(first, first + size)
                total_SD = total_SD + rows_RD[here] * keep_R[here, None]
            tile_SF = tiles[side]
            parts.append(total_SD if tile_SF is None else total_SD + self.projections[side](tile_SF))
            first += size
        return torch.cat(parts)


def _start_projection_(weight_DF: torch.Tensor, table: FeatureTable, start_scale: float) -> None:
    width, columns = weight_DF.shape
    with torch.no_grad():
        if columns <= width:
            torch.nn.init.eye_(weight_DF)
        else:
            weight_DF.copy_(_principal_axes(table, width))
        weight_DF.mul_(start_scale * width**0.5)


def _principal_axes(table: FeatureTable, count: int) -> torch.Tensor:
    """The `count` leading eigenvectors of the Gram matrix of (at most `_AXES_ROWS` of) the rows, float64 (count, F).

    No projection to so few columns keeps more of the rows' inner products (Eckart & Young 1936). The entry of largest magnitude
    of each is positive.
    """
    gram_FF = torch.zeros(table.width, table.width, dtype=torch.float64)
    chosen_S = np.arange(0, table.num_rows, max(1, -(-table.num_rows // _AXES_ROWS)))
    for first in range(0, len(chosen_S), _AXES_BLOCK):
        part = table.rows(chosen_S[first : first + _AXES_BLOCK])
        gram_FF += part.T @ part
    axes_DF = torch.linalg.eigh(gram_FF).eigenvectors.T[-count:].flip(0)
    largest_D1 = axes_DF.gather(1, axes_DF.abs().argmax(1, keepdim=True))
    return axes_DF * largest_D1.sign()


def glorot_(linear: torch.nn.Linear, seed: int, step: int) -> None:
    """Uniform start of a layer (Glorot & Bengio 2010, eq. 16), bias 0; layers of one model differ in `step`."""
    limit = (6.0 / (linear.in_features + linear.out_features)) ** 0.5
    draws = random.uniform(seed, random.Stage.INIT, 2000 + step, linear.weight.numel())
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(limit * (2.0 * draws - 1.0)).view_as(linear.weight))
        if linear.bias is not None:
            linear.bias.zero_()
