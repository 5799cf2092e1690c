"""The baseline that every model must beat: every user gets the items with the most train users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph

if TYPE_CHECKING:
    from gcnrec import config


@dataclass(frozen=True)
class PopularityScorer:
    """Scores an item with its number of train users, `degrees_I` float32, the same for each of `num_users`."""

    num_users: int
    degrees_I: torch.Tensor

    @property
    def num_items(self) -> int:
        return len(self.degrees_I)

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """Nothing but the number of users: float32 (B, 0)."""
        return torch.empty(len(users_B), 0)

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        out_BT.copy_(self.degrees_I[first:last].expand(len(prepared), -1))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"degrees": self.degrees_I}

    @classmethod
    def of(cls, graph: BipartiteGraph) -> PopularityScorer:
        return cls(graph.num_users, torch.from_numpy(graph.item_users.degrees.astype(np.float32)))

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> PopularityScorer:
        return cls(graph.num_users, tensors["degrees"])


def fit(graph: BipartiteGraph, settings: config.Model, seed: int) -> PopularityScorer:
    """Count the train users of every item; nothing is set or drawn."""
    return PopularityScorer.of(graph)
