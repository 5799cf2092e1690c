"""The place of given items in a user's ranking of all items, exact, without ever holding all scores.

Items are ranked as in lists: by falling score, then rising number. A score and its item are one integer, which orders them so;
the place of a pair is one more than the number of items whose integer is smaller.
Letters: B users of a chunk, T items of a tile, E pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DivergedError
from gcnrec.ops.topk import Hidden, ItemLists, hide
from gcnrec.ranking.scorer import Scorer

ITEMS_PER_TILE = 2048


def places(
    scorer: Scorer, users_B: NDArray[np.int32], pairs: ItemLists, hidden: Hidden, items_per_tile: int = ITEMS_PER_TILE
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scores and places from 1 of the items in `pairs`, in the order of its users and their items: float32 and int32 (E).

    `hidden` items have no place above others; a pair that is hidden itself is placed as if it alone were not. Scores are made
    twice, a tile at a time. Raises DivergedError for NaN.
    """
    prepared = scorer.prepare(users_B)
    lists = [pairs.csr.row(row) for row in pairs.rows_B.tolist()]
    ends = np.concatenate([[0], np.cumsum([len(items) for items in lists])])
    scores_E = np.empty(ends[-1], np.float32)
    for first, tile_BT in _tiles(scorer, prepared, len(users_B), items_per_tile):
        for row, items in enumerate(lists):
            low, high = np.searchsorted(items, (first, first + tile_BT.shape[1]))
            scores_E[ends[row] + low : ends[row] + high] = tile_BT[row, items[low:high] - first]
    if np.isnan(scores_E).any():
        raise _not_numbers()
    orders = [keys(scores_E[ends[row] : ends[row + 1]], items) for row, items in enumerate(lists)]
    sorted_ = [np.sort(order) for order in orders]
    above = [np.zeros(len(order) + 1, np.int64) for order in orders]
    lowest = [scores_E[ends[row] : ends[row + 1]].min(initial=np.inf) for row in range(len(lists))]
    for first, tile_BT in _tiles(scorer, prepared, len(users_B), items_per_tile):
        if np.isnan(tile_BT).any():
            raise _not_numbers()
        hide(tile_BT, first, hidden)
        for row, pairs_P in enumerate(sorted_):
            if len(pairs_P):
                # An item counts for every pair behind it, so that those behind all pairs need no place.
                near = np.flatnonzero(tile_BT[row] >= lowest[row])
                behind = np.searchsorted(pairs_P, keys(tile_BT[row, near], near + first), side="right")
                above[row] += np.bincount(behind, minlength=len(pairs_P) + 1)
    places_E = np.empty(ends[-1], np.int32)
    for row, order in enumerate(orders):
        counts = np.cumsum(above[row])[:-1]
        places_E[ends[row] : ends[row + 1]] = 1 + counts[np.searchsorted(sorted_[row], order)]
    return scores_E, places_E


def keys(scores_T: NDArray[np.float32], items_T: NDArray[np.integer]) -> NDArray[np.int64]:
    """Integers that order by falling score, then rising item: the bits of a float32 order like an integer, but for the sign."""
    bits_T = (scores_T + np.float32(0.0)).view(np.int32).astype(np.int64)  # -0.0 is 0.0
    rising_T = np.where(bits_T < 0, -(bits_T & 0x7FFFFFFF), bits_T)
    return (-rising_T << 32) + items_T


def _tiles(scorer: Scorer, prepared: torch.Tensor, users: int, items_per_tile: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The first item and the scores of each tile, float32 (B, T); the next tile overwrites them."""
    buffer = torch.empty(users * min(items_per_tile, scorer.num_items))
    for first in range(0, scorer.num_items, items_per_tile):
        last = min(first + items_per_tile, scorer.num_items)
        tile_BT = buffer[: users * (last - first)].view(users, last - first)
        scorer.score(prepared, first, last, tile_BT)
        yield first, tile_BT.numpy()


def _not_numbers() -> DivergedError:
    return DivergedError(
        "scores must be numbers, got NaN; the model holds NaN or infinite values, train again with a smaller learning rate"
    )
