"""Link propagation with free exponents (Fu et al. 2022, "Revisiting neighborhood-based link prediction").

The score of item i for user u sums over the user's items j

    (w_ji d_j^-source_power d_i^-target_power) ^ sharpness,   w_ji = sum over the users v of both j and i of d_v^-user_power

with degrees d of train. Powers of 1/2, 1/2, 1 and sharpness 1 are the linear filter of gfcf, two hops of LightGCN. A sharpness
above 1 trusts few near items more than many far ones. Every item keeps its largest terms only.

Letters: U users, I items, B users of a chunk, T items of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import config
from gcnrec.graph import BipartiteGraph
from gcnrec.ops.item_rows import Exponents, ItemRows, add_rows, linked_items
from gcnrec.ranking.scorer import GraphScorer

NEIGHBOURS = 500
"""Terms kept per item on average where `model.neighbours` names no number. Of Gowalla's lists of 20, 99 % of the entries are
then as by the whole sum, 95 % with 200."""


@dataclass(frozen=True)
class LinkPropScorer(GraphScorer):
    """Sums rows of items: `rows` holds the terms of the formula."""

    rows: ItemRows

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """All scores of the chunk, float32 (B, I): a row of an item is read once, whatever the tiles."""
        scores_BI = torch.empty(len(users_B), self.num_items)
        self.write(users_B, scores_BI)
        return scores_BI

    def write(self, users_B: NDArray[np.int32], out_BI: torch.Tensor) -> None:
        """Write what `prepare` returns into `out_BI` float32."""
        add_rows(self.graph.user_items, self.rows, users_B, out_BI.zero_().numpy())

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.rows.tensors()

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> LinkPropScorer:
        return cls(graph, ItemRows.from_tensors(tensors))


def fit(graph: BipartiteGraph, settings: config.Model, seed: int) -> LinkPropScorer:
    """Keep `settings.neighbours` terms an item on average (default NEIGHBOURS), more of popular items; nothing is drawn.

    The exponents come from `settings`; `gcnrec.closed_forms.exponents` chooses others on validation beforehand.
    """
    return LinkPropScorer(graph, linked_items(graph, exponents_of(settings), settings.neighbours or NEIGHBOURS))


def exponents_of(settings: config.Model) -> Exponents:
    """The exponents that `[model]` names."""
    return Exponents(settings.source_power, settings.target_power, settings.user_power, settings.sharpness)
