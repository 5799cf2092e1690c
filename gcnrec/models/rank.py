"""Exact ranking of all items in bounded memory: chunks of users times tiles of items, one running top-k.

Letters: B users of a chunk (or all users asked for), T items of a tile, K list length, I items.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.graph import Csr
from gcnrec.models.scorer import Scorer
from gcnrec.ops.topk import ItemLists, TopK, empty_lists, keep_best, keep_best_listed

USERS_PER_CHUNK = 1024
ITEMS_PER_TILE = 1024
"""4 MiB of scores: they are still in the processor's caches when the top-k reads them."""


def top_k(
    scorer: Scorer,
    users_B: NDArray[np.int32],
    k: int,
    exclude: Csr | None,
    candidates: NDArray[np.int32] | None = None,
    users_per_chunk: int = USERS_PER_CHUNK,
    items_per_tile: int = ITEMS_PER_TILE,
) -> Iterator[TopK]:
    """The best `k` items of every user, one TopK per chunk of users, in the order of `users_B`.

    `exclude`: user number -> items left out; `candidates`: the item numbers that may be listed (None: all).
    Memory: a chunk's lists and one tile of scores. Chunk and tile size do not change the ranking of given scores.
    """
    allowed = None if candidates is None else np.unique(candidates).astype(np.int32)
    for start in range(0, len(users_B), users_per_chunk):
        chunk_B = users_B[start : start + users_per_chunk]
        hidden = ItemLists(exclude, chunk_B) if exclude else ItemLists.empty(len(chunk_B), scorer.num_items)
        listed = None if allowed is None else ItemLists.shared(allowed, len(chunk_B), scorer.num_items)
        yield rank_chunk(scorer, chunk_B, k, hidden, listed, items_per_tile)


def top_k_all(
    scorer: Scorer, users_B: NDArray[np.int32], k: int, exclude: Csr | None, candidates: NDArray[np.int32] | None = None
) -> TopK:
    """`top_k` in one piece: items int32 and scores float32 of shape (len(users_B), k)."""
    whole = empty_lists(users_B, k)
    done = 0
    for part in top_k(scorer, users_B, k, exclude, candidates):
        whole.items_BK[done : done + len(part.users_B)] = part.items_BK
        whole.scores_BK[done : done + len(part.users_B)] = part.scores_BK
        done += len(part.users_B)
    return whole


def rank_chunk(
    scorer: Scorer,
    users_B: NDArray[np.int32],
    k: int,
    hidden: ItemLists,
    listed: ItemLists | None = None,
    items_per_tile: int = ITEMS_PER_TILE,
) -> TopK:
    """The best `k` items of one chunk of users; tiles without a listed item are not scored."""
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    best = empty_lists(users_B, k)
    prepared = scorer.prepare(users_B)
    buffer = torch.empty(len(users_B) * min(items_per_tile, scorer.num_items))
    for first, last in _tiles(scorer.num_items, items_per_tile, listed):
        scores_BT = buffer[: len(users_B) * (last - first)].view(len(users_B), last - first)
        scorer.score(prepared, first, last, scores_BT)
        if listed is None:
            keep_best(scores_BT.numpy(), first, hidden, best)
        else:
            keep_best_listed(scores_BT.numpy(), first, hidden, listed, best)
    return best


def _tiles(num_items: int, items_per_tile: int, listed: ItemLists | None) -> Iterator[tuple[int, int]]:
    """Rising ranges of items that cover all of them, or all the listed ones."""
    needed = None if listed is None else np.unique(listed.csr.indices // items_per_tile)
    for tile in range(-(-num_items // items_per_tile)) if needed is None else needed.tolist():
        yield tile * items_per_tile, min((tile + 1) * items_per_tile, num_items)
