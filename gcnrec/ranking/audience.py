"""The users who score highest for each item: exact, in bounded memory. Chunks of users times tiles of items, one running top-k.

Letters: R users to choose from, B of them in a chunk, J items, T of them in a tile, K list length, I items of the scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DivergedError
from gcnrec.ops.topk import Hidden, ItemLists, TopK, empty_lists, hide, keep_best
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.top_k import ITEMS_PER_TILE


@dataclass(frozen=True, slots=True)
class Crowd:
    """The users to choose from: `users_R` int32; a user's scores are multiplied by `weights_R` float32, above 0.

    `hidden` gives, for places in `users_R`, the items whose lists must not name the user.
    """

    users_R: NDArray[np.int32]
    weights_R: NDArray[np.float32]
    hidden: Callable[[NDArray[np.int32]], Hidden]


@dataclass(frozen=True)
class EqualScorer:
    """Scores each item 1 for each user, so that the weights of a crowd alone rank."""

    num_users: int
    num_items: int

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """Nothing but the number of users: float32 (B, 0)."""
        return torch.empty(len(users_B), 0)

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        out_BT.fill_(1.0)


def audiences(
    scorer: Scorer, items_J: NDArray[np.int32], k: int, crowd: Crowd, chunk: int, report: Callable[[int, int], None]
) -> TopK:
    """For each of `items_J`, which rise, the `k` users with the highest weighted scores above 0.

    The lists name places in `users_R`; of equal scores the first place comes first. `chunk` users are scored at a time, and
    `report` gets how many of how many are. Raises DivergedError for NaN.
    """
    best, none = empty_lists(items_J, k), ItemLists.empty(len(items_J), len(crowd.users_R))
    for first in range(0, len(crowd.users_R), chunk):
        rows_B = np.arange(first, min(first + chunk, len(crowd.users_R)), dtype=np.int32)
        hidden, weights_B = crowd.hidden(rows_B), crowd.weights_R[rows_B]
        for here, scores_BT in _tiles(scorer, crowd.users_R[rows_B], items_J, hidden):
            scores_TB = np.multiply(scores_BT.T, weights_B, order="C")
            scores_TB[scores_TB <= 0.0] = -np.inf
            part = TopK(items_J[here], best.items_BK[here], best.scores_BK[here])
            keep_best(scores_TB, first, none, part)
        report(int(rows_B[-1]) + 1, len(crowd.users_R))
    return best


def _tiles(
    scorer: Scorer, users_B: NDArray[np.int32], items_J: NDArray[np.int32], hidden: Hidden
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Ranges of J and the scores of their items, float32 (B, T), -inf where hidden. Other tiles are not scored."""
    prepared = scorer.prepare(users_B)
    buffer = torch.empty(len(users_B) * min(ITEMS_PER_TILE, scorer.num_items))
    for tile in np.unique(items_J // ITEMS_PER_TILE).tolist():
        first, last = tile * ITEMS_PER_TILE, min((tile + 1) * ITEMS_PER_TILE, scorer.num_items)
        tile_BT = buffer[: len(users_B) * (last - first)].view(len(users_B), last - first)
        scorer.score(prepared, first, last, tile_BT)
        scores_BT = tile_BT.numpy()
        hide(scores_BT, first, hidden)
        start, end = np.searchsorted(items_J, (first, last))
        scores_BT = scores_BT[:, items_J[start:end] - first]  # copy: of the wanted items
        if np.isnan(scores_BT).any():
            raise DivergedError(
                "scores must be numbers, got NaN; the model holds NaN or infinite values, train again with a smaller "
                "learning rate"
            )
        yield slice(int(start), int(end)), scores_BT
