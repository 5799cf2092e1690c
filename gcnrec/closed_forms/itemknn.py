"""Item-based nearest neighbours (Deshpande & Karypis 2004, "Item-based top-N recommendation algorithms").

The similarity of two items is the cosine of their user sets, its denominator raised by `shrink` against chance
(shared / (sqrt(degree i * degree j) + shrink)). A user's score of an item is the sum of its similarities to the user's
items, counting only the `neighbours` most similar items of each of these.

targetknn compares the users who met an item, by any behaviour, with the users who took the other one, by the target.

contentknn takes the cosine of items' features instead. Items without train users are then neighbours, too; items without features
are similar to none.

Letters: B users of a chunk, T items of a tile, I items, F features, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import config
from gcnrec.closed_forms.cooccurrence import nearest_items
from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph
from gcnrec.ranking.scorer import GraphScorer

NEIGHBOURS = 200
"""Similar items kept per item where `model.neighbours` names no number."""
_ROWS = 512
"""Items whose features are compared with all others at a time."""


@dataclass(frozen=True)
class ItemKnnScorer(GraphScorer):
    """`neighbours_IK` int32, ascending and -1 behind the last; `similarity_IK` float32."""

    neighbours_IK: torch.Tensor
    similarity_IK: torch.Tensor

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """All scores of the chunk, float32 (B, I): a list of neighbours is read once, whatever the tiles."""
        csr = self.graph.user_items
        scores_BI = torch.empty(len(users_B), self.num_items)
        _score(csr.indptr, csr.indices, users_B, self.neighbours_IK.numpy(), self.similarity_IK.numpy(), scores_BI.numpy())
        return scores_BI

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"neighbours": self.neighbours_IK, "similarity": self.similarity_IK}

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> ItemKnnScorer:
        return cls(graph, tensors["neighbours"], tensors["similarity"])


def fit(graph: BipartiteGraph, settings: config.Model, seed: int) -> ItemKnnScorer:
    """Keep `settings.neighbours` items per item (default NEIGHBOURS), similarity with `settings.shrink`; nothing is drawn."""
    neighbours_IK, similarity_IK = nearest_items(graph, min(settings.neighbours or NEIGHBOURS, graph.num_items), settings.shrink)
    return ItemKnnScorer(graph, torch.from_numpy(neighbours_IK), torch.from_numpy(similarity_IK))


def fit_towards(graph: BipartiteGraph, settings: config.Model, seed: int) -> ItemKnnScorer:
    """targetknn: how many of those who met an item, by any behaviour, took the other one; as `fit` otherwise.

    Raises DataError for a graph of one behaviour.
    """
    require_others(bool(graph.others))
    count = min(settings.neighbours or NEIGHBOURS, graph.num_items)
    neighbours_IK, similarity_IK = nearest_items(graph.union, count, settings.shrink, graph)
    return ItemKnnScorer(graph.union, torch.from_numpy(neighbours_IK), torch.from_numpy(similarity_IK))


def read_towards(graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> ItemKnnScorer:
    """What `fit_towards` gave."""
    return ItemKnnScorer.from_tensors(graph.union, tensors)


def require_others(has_others: bool) -> None:
    """DataError for data with a single behaviour."""
    if not has_others:
        raise DataError(
            "targetknn tells what users took from what they met, and the data has one behaviour; ingest with --behaviour and "
            "--target"
        )


def fit_content(graph: BipartiteGraph, settings: config.Model, items_IF: NDArray[np.float32] | None) -> ItemKnnScorer:
    """Keep the `settings.neighbours` most similar items of every item, none of cosine 0 or less.

    Raises DataError for data without item features.
    """
    require_features(items_IF is not None)
    assert items_IF is not None
    units_IF = torch.nn.functional.normalize(torch.from_numpy(np.array(items_IF)), dim=1)  # copy: out of the memory map
    count = min(settings.neighbours or NEIGHBOURS, graph.num_items - 1)
    neighbours_IK = np.full((graph.num_items, count), -1, np.int32)
    similarity_IK = np.zeros((graph.num_items, count), np.float32)
    for first in range(0, graph.num_items, _ROWS):
        rows = slice(first, min(first + _ROWS, graph.num_items))
        neighbours_IK[rows], similarity_IK[rows] = _most_alike(units_IF, rows, count)
    return ItemKnnScorer(graph, torch.from_numpy(neighbours_IK), torch.from_numpy(similarity_IK))


def require_features(has_features: bool) -> None:
    """DataError for data without item features."""
    if not has_features:
        raise DataError("contentknn compares items by their features, and the data has none; ingest with --item-features")


def _most_alike(units_IF: torch.Tensor, rows: slice, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest items of a range of items by ascending number, -1 and 0 behind the last."""
    cosines_TI = units_IF[rows] @ units_IF.T
    cosines_TI[torch.arange(len(cosines_TI)), torch.arange(rows.start, rows.stop)] = 0.0
    best_TK, chosen_TK = cosines_TI.topk(count, dim=1)
    last = cosines_TI.shape[1]
    chosen_TK = torch.where(best_TK > 0, chosen_TK, last)
    chosen_TK, order_TK = chosen_TK.sort(dim=1)
    best_TK = best_TK.gather(1, order_TK)
    absent_TK = chosen_TK == last
    return chosen_TK.masked_fill(absent_TK, -1).numpy().astype(np.int32), best_TK.masked_fill(absent_TK, 0.0).numpy()


@numba.njit(parallel=True, cache=True, nogil=True)
def _score(indptr, indices, users, neighbours, similarity, out):  # type: ignore[no-untyped-def]
    for b in numba.prange(len(users)):
        out[b] = np.float32(0)
        for edge in range(indptr[users[b]], indptr[users[b] + 1]):
            item = indices[edge]
            for place in range(neighbours.shape[1]):
                other = neighbours[item, place]
                if other < 0:
                    break
                out[b, other] += similarity[item, place]
