"""Graph-filter collaborative filtering (Shen et al. 2021, "How powerful is graph convolution for recommendation?").

With R the 0/1 matrix and N = D_u^-1/2 R D_i^-1/2, the scores of user u are

    r_u N' N  +  weight * r_u D_i^-1/2 V V' D_i^1/2

a linear filter plus an ideal low-pass filter over the largest right singular vectors V of N. Nothing is trained.

Letters: B users of a chunk, T items of a tile, U users, I items, K singular vectors, S users of a slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import config
from gcnrec.closed_forms.plateau import SLICE, PlateauScorer, PolynomialScorer, fit_plateau, fit_polynomial, rated
from gcnrec.graph import BipartiteGraph
from gcnrec.models.spectral import top_singular
from gcnrec.ops.propagate import inverse_sqrt, propagate, propagate_rows
from gcnrec.ranking.scorer import GraphScorer


@dataclass(frozen=True)
class GfcfScorer(GraphScorer):
    """The filters applied to chunks of users: `vectors_IK` float32 right singular vectors, `weight` of the low-pass part."""

    vectors_IK: torch.Tensor
    weight: float

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """All scores of the chunk, float32 (B, I): the linear filter needs every item of a user at once.

        Besides them, memory holds (U + 2 I) rows of 64 floats.
        """
        user_scale = inverse_sqrt(self.graph.user_items.degrees)
        item_scale = inverse_sqrt(self.graph.item_users.degrees)
        ones_U, ones_I = torch.ones(self.num_users), torch.ones(self.num_items)
        low_BK = propagate_rows(self.graph.user_items, self.vectors_IK, ones_U, item_scale, users_B)
        roots_I = torch.from_numpy(np.sqrt(self.graph.item_users.degrees).astype(np.float32))
        scores_BI = low_BK.mul_(self.weight) @ self.vectors_IK.T
        scores_BI.mul_(roots_I)
        for start in range(0, len(users_B), SLICE):
            users_S = users_B[start : start + SLICE]
            rated_IS = rated(self.graph, users_S, ones_I)
            smooth_US = propagate(self.graph.user_items, rated_IS, user_scale, item_scale)
            linear_IS = propagate(self.graph.item_users, smooth_US, item_scale, user_scale, rated_IS)
            scores_BI[start : start + SLICE] += linear_IS.T
        return scores_BI

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"vectors": self.vectors_IK, "weight": torch.tensor(self.weight, dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> GfcfScorer:
        return cls(graph, tensors["vectors"], float(tensors["weight"]))


def fit(graph: BipartiteGraph, settings: config.Model, seed: int) -> GfcfScorer | PlateauScorer | PolynomialScorer:
    """The filter of `settings.response`, fitted by itself.

    "ideal": `factors` (at most min(U, I)) singular vectors of the normalised train matrix; `filter_weight` weighs their part.
    """
    if settings.response == "plateau":
        return fit_plateau(graph, settings, seed)
    if settings.response == "polynomial":
        return fit_polynomial(graph, settings, seed)
    rank = min(settings.factors, graph.num_users, graph.num_items)
    return GfcfScorer(graph, top_singular(graph, rank, seed)[2], settings.filter_weight)


def from_tensors(graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> GfcfScorer | PlateauScorer | PolynomialScorer:
    """The filter whose tensors have these names."""
    kind = PlateauScorer if "gains" in tensors else PolynomialScorer if "coefficients" in tensors else GfcfScorer
    return kind.from_tensors(graph, tensors)
