"""Ranks some items that a user knows by a score of their own, and every other item by its popularity, far below.

Letters: U users, I items, E pairs with a score of their own, B users of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ranking.scorer import GraphScorer


@dataclass(frozen=True)
class KnownFirstScorer(GraphScorer):
    """`known`: user -> items, for the users of train; `values_E` float32 their scores; `shares_I` float32 those of the rest."""

    known: Csr
    values_E: NDArray[np.float32]
    shares_I: torch.Tensor

    @property
    def alone(self) -> KnownFirstScorer:
        """The same without popular items: what it has to say in a mixture, where others rank the rest."""
        return replace(self, shares_I=torch.zeros_like(self.shares_I))

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """All scores of the chunk, float32 (B, I)."""
        scores_BI = self.shares_I.repeat(len(users_B), 1)
        for scores_I, user in zip(scores_BI.numpy(), users_B, strict=True):
            if user < self.known.rows:  # others are new: nothing of theirs is known
                scores_I[self.known.row(user)] = self.values_E[self.known.indptr[user] : self.known.indptr[user + 1]]
        return scores_BI

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is stored: the rows of `known` with their scores, and the shares."""
        indptr, indices = (torch.from_numpy(np.array(each)) for each in (self.known.indptr, self.known.indices))
        return {"indptr": indptr, "indices": indices, "values": torch.from_numpy(self.values_E), "shares": self.shares_I}

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> KnownFirstScorer:
        """What `tensors` gave, for the users of `graph`."""
        known = Csr(tensors["indptr"].numpy(), tensors["indices"].numpy(), graph.num_items)
        return cls(graph, known, tensors["values"].numpy(), tensors["shares"])
