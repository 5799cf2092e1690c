"""Graph filters that pass the low half of the spectrum and little else (Kim et al. 2025, "ChebyCF"), by two routes.

With C = D_i^-1/2 R' D_u^-1 R D_i^-1/2, whose eigenvalues l lie in 0 .. 1, the scores of user u are

    r_u D_i^-beta h(C) D_i^beta,   h(l) = 1/2 + 1/2 sign(2 l - 1) |2 l - 1|^1.5

`PlateauScorer` evaluates h where it is curved, at the largest eigenvalues, and elsewhere replaces it by its slope:
slope * C is a table of co-occurrences, and the largest eigenvectors V add what h lacks there, with ChebyCF's ideal filter:

    slope * r_u D_i^-beta C D_i^beta  +  r_u D_i^-beta V diag(h(l) - slope * l + weight) V' D_i^beta

`PolynomialScorer` evaluates a Chebyshev polynomial of h, and nothing else, by hops over the graph: no vectors, no table.

Letters: U users, I items, K singular vectors, B users of a chunk, S users of a slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import config
from gcnrec.closed_forms.linkprop import NEIGHBOURS, LinkPropScorer
from gcnrec.graph import BipartiteGraph
from gcnrec.models.spectral import top_singular
from gcnrec.ops.item_rows import Exponents, ItemRows, add_rows, degree_powers, linked_items
from gcnrec.ops.propagate import inverse_sqrt, propagate, propagate_rows
from gcnrec.ranking.scorer import GraphScorer

_FLATNESS = 1.5
"""Exponent of h; ChebyCF's choice on Gowalla."""
_SLOPE = 1.45
"""Of h between 0 and 0.2, where most eigenvalues lie: 1.5 at 0, 1.34 at 0.2."""
SLICE = 64
"""Users who are filtered at once by hops over the graph, as columns."""


def plateau(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """h at eigenvalues in 0 .. 1."""
    centred = 2 * values - 1
    return 0.5 + 0.5 * np.sign(centred) * np.abs(centred) ** _FLATNESS


def item_scales(graph: BipartiteGraph, power: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Train degrees of items to -`power` and to `power`, float32 (I) each."""
    before_I, after_I = (degree_powers(graph.item_users.degrees, each).astype(np.float32) for each in (-power, power))
    return torch.from_numpy(before_I), torch.from_numpy(after_I)


def rated(graph: BipartiteGraph, users_S: NDArray[np.int32], scale_I: torch.Tensor) -> torch.Tensor:
    """Column s is `scale_I` at the items of user s and 0 elsewhere, float32 (I, S)."""
    rated_IS = torch.zeros(graph.num_items, len(users_S))
    for column, user in enumerate(users_S):
        items = graph.user_items.row(int(user))
        rated_IS.numpy()[items, column] = scale_I.numpy()[items]
    return rated_IS


@dataclass(frozen=True)
class PlateauScorer(LinkPropScorer):
    """`rows` is the sloped part, `vectors_IK` float32 the eigenvectors V, `gains_K` float32 their factors, `power` beta."""

    vectors_IK: torch.Tensor
    gains_K: torch.Tensor
    power: float

    def write(self, users_B: NDArray[np.int32], out_BI: torch.Tensor) -> None:
        """Write all scores of the chunk into `out_BI` float32."""
        before_I, after_I = item_scales(self.graph, self.power)
        ones_U = torch.ones(self.num_users)
        rows_BK = propagate_rows(self.graph.user_items, self.vectors_IK, ones_U, before_I, users_B)
        torch.mm(rows_BK.mul_(self.gains_K), self.vectors_IK.T, out=out_BI).mul_(after_I)
        add_rows(self.graph.user_items, self.rows, users_B, out_BI.numpy())

    def tensors(self) -> dict[str, torch.Tensor]:
        power = torch.tensor(self.power, dtype=torch.float64)
        return {**super().tensors(), "vectors": self.vectors_IK, "gains": self.gains_K, "power": power}

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> PlateauScorer:
        return cls(graph, ItemRows.from_tensors(tensors), tensors["vectors"], tensors["gains"], float(tensors["power"]))


def fit_plateau(graph: BipartiteGraph, settings: config.Model, seed: int) -> PlateauScorer:
    """`factors` eigenvectors (at most min(U, I)) drawn from `seed`, and `neighbours` co-occurrences an item on average."""
    rank = min(settings.factors, graph.num_users, graph.num_items)
    _, singular_K, vectors_IK = top_singular(graph, rank, seed)
    values_K = singular_K.numpy().astype(np.float64) ** 2
    gains_K = torch.from_numpy((plateau(values_K) - _SLOPE * values_K + settings.filter_weight).astype(np.float32))
    beta = settings.filter_power
    rows = linked_items(graph, Exponents(0.5 + beta, 0.5 - beta, 1.0, 1.0), settings.neighbours or NEIGHBOURS)
    rows.values_E.mul_(_SLOPE)
    return PlateauScorer(graph, rows, vectors_IK, gains_K, beta)


@dataclass(frozen=True)
class PolynomialScorer(GraphScorer):
    """`coefficients_P` float64 of Chebyshev polynomials of 2 C - Id, lowest order first; `power` is beta."""

    coefficients_P: torch.Tensor
    power: float

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """All scores of the chunk, float32 (B, I). Besides them, memory holds (U + 5 I) rows of 64 floats."""
        before_I, after_I = item_scales(self.graph, self.power)
        scores_BI = torch.empty(len(users_B), self.num_items)
        for start in range(0, len(users_B), SLICE):
            users_S = users_B[start : start + SLICE]
            scores_BI[start : start + SLICE] = (self._filtered(rated(self.graph, users_S, before_I)) * after_I[:, None]).T
        return scores_BI

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"coefficients": self.coefficients_P, "power": torch.tensor(self.power, dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> PolynomialScorer:
        return cls(graph, tensors["coefficients"], float(tensors["power"]))

    def _filtered(self, signal_IS: torch.Tensor) -> torch.Tensor:
        """The polynomial applied to columns, by T_n+1 = 2 X T_n - T_n-1 with X = 2 C - Id."""
        first, *rest = self.coefficients_P.tolist()
        sum_IS, older_IS, newer_IS = first * signal_IS, signal_IS, signal_IS
        for order, coefficient in enumerate(rest, start=1):
            moved_IS = self._centred(newer_IS)
            older_IS, newer_IS = newer_IS, moved_IS if order == 1 else moved_IS.mul_(2).sub_(older_IS)
            sum_IS.add_(newer_IS, alpha=coefficient)
        return sum_IS

    def _centred(self, signal_IS: torch.Tensor) -> torch.Tensor:
        """(2 C - Id) signal, two hops."""
        up, down = self.graph.user_items, self.graph.item_users
        user_scale, item_scale = inverse_sqrt(up.degrees), inverse_sqrt(down.degrees)
        smooth_US = propagate(up, signal_IS, user_scale, item_scale)
        return propagate(down, smooth_US, item_scale, user_scale).mul_(2).sub_(signal_IS)


def fit_polynomial(graph: BipartiteGraph, settings: config.Model, seed: int) -> PolynomialScorer:
    """The polynomial of degree `filter_order` through h at Chebyshev's nodes; nothing is read of the graph, nothing drawn."""
    return PolynomialScorer(graph, torch.from_numpy(chebyshev(settings.filter_order)), settings.filter_power)


def chebyshev(order: int) -> NDArray[np.float64]:
    """Coefficients, lowest first, of Chebyshev polynomials of 2 l - 1 that interpolate h at the order + 1 roots of T_order+1.

    h - 1/2 is odd about the middle of the spectrum, so that every even coefficient but the first vanishes. Vanishing
    coefficients at the end are cut off.
    """
    angles_P = np.pi * (np.arange(order + 1) + 0.5) / (order + 1)
    cosines_PP = np.cos(np.arange(order + 1)[:, None] * angles_P)
    coefficients_P: NDArray[np.float64] = cosines_PP @ plateau((np.cos(angles_P) + 1) / 2) * 2 / (order + 1)
    coefficients_P[0] /= 2
    last = int(np.flatnonzero(np.abs(coefficients_P) > 1e-12)[-1])
    return coefficients_P[: last + 1]
