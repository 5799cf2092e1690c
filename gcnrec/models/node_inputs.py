"""What a node brings to the first layer of GraphSAGE and PinSage: its projected features, its table row, a bias of its side.

    h_0 = P f + keep * row + b            P and b of the node's side; no P f where that side has no features

A node that training never saw has no row worth reading. So that the model can do without, some nodes of every batch are
treated as new (Volkovs et al. 2017, "DropoutNet: addressing cold start in recommender systems"): `keep` is 0.
Letters: N nodes, U users, I items, R nodes to encode, F features, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import random
from gcnrec.graph import BipartiteGraph

_AXES_ROWS = 65_536
_AXES_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Features:
    """`users_UF` and `items_IF`, float32 and perhaps memory-mapped, None for a side without features."""

    users_UF: NDArray[np.float32] | None = None
    items_IF: NDArray[np.float32] | None = None

    @property
    def sides(self) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Features of users, then of items; None for a side without any."""
        return self.users_UF, self.items_IF


class NodeInputs(torch.nn.Module):
    """h_0 of any nodes. `read_rows` False leaves table rows out, for models of features alone.

    Projections start by keeping all angles between nodes of a side (a scaled identity), or where features are wider than the
    table as much of their inner products as its width holds (their principal axes). A feature vector of length 1 comes out with
    entries of root mean square `start_scale`, as rows of a table have that starts with this scale; less where axes are left out.
    """

    def __init__(self, graph: BipartiteGraph, features: Features, width: int, read_rows: bool, start_scale: float) -> None:
        super().__init__()
        self.num_users, self.width, self._features, self._read_rows = graph.num_users, width, features, read_rows
        degrees_N = np.concatenate([graph.user_items.degrees, graph.item_users.degrees])
        self.known_N = torch.from_numpy(degrees_N > 0)
        self.biases = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.projections = torch.nn.ModuleList(
            torch.nn.Identity() if rows is None else torch.nn.Linear(rows.shape[1], width, bias=False) for rows in features.sides
        )
        for rows, projection in zip(features.sides, self.projections, strict=True):
            if rows is not None and isinstance(projection, torch.nn.Linear):
                _start_projection_(projection.weight, rows, start_scale)

    def has_features(self, nodes_R: NDArray[np.int64]) -> torch.Tensor:
        """Bool (R): whether the node's side has features."""
        users, items = (rows is not None for rows in self._features.sides)
        return torch.from_numpy(np.where(nodes_R < self.num_users, users, items))

    def forward(self, nodes_R: NDArray[np.int64], rows_RD: torch.Tensor, keep_R: torch.Tensor) -> torch.Tensor:
        """h_0 of ascending node numbers `nodes_R`, float32 (R, D); `rows_RD` their table rows, read where `keep_R` is True."""
        cut = int(np.searchsorted(nodes_R, self.num_users))
        ranges = (slice(0, cut), slice(cut, len(nodes_R)))
        return torch.cat([self._side(side, nodes_R[here], rows_RD[here], keep_R[here]) for side, here in enumerate(ranges)])

    def _side(self, side: int, nodes_R: NDArray[np.int64], rows_RD: torch.Tensor, keep_R: torch.Tensor) -> torch.Tensor:
        total_RD = self.biases[side].expand(len(nodes_R), -1)
        if self._read_rows:
            total_RD = total_RD + rows_RD * keep_R[:, None]
        features = self._features.sides[side]
        if features is not None:
            chosen_RF = features[nodes_R - side * self.num_users]  # copy: of these nodes' features, out of the memory map
            total_RD = total_RD + self.projections[side](torch.from_numpy(chosen_RF))
        return total_RD


def _start_projection_(weight_DF: torch.Tensor, rows_NF: NDArray[np.float32], start_scale: float) -> None:
    width, columns = weight_DF.shape
    with torch.no_grad():
        if columns <= width:
            torch.nn.init.eye_(weight_DF)
        else:
            weight_DF.copy_(_principal_axes(rows_NF, width))
        weight_DF.mul_(start_scale * width**0.5)


def _principal_axes(rows_NF: NDArray[np.float32], count: int) -> torch.Tensor:
    """The `count` leading eigenvectors of the Gram matrix of (at most `_AXES_ROWS` of) the rows, float64 (count, F).

    No projection to so few columns keeps more of the rows' inner products (Eckart & Young 1936). The entry of largest magnitude
    of each is positive.
    """
    gram_FF = torch.zeros(rows_NF.shape[1], rows_NF.shape[1], dtype=torch.float64)
    chosen_NF = rows_NF[:: max(1, -(-len(rows_NF) // _AXES_ROWS))]
    for first in range(0, len(chosen_NF), _AXES_BLOCK):
        part = torch.from_numpy(np.array(chosen_NF[first : first + _AXES_BLOCK]))  # copy: out of the memory map
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
