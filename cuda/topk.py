"""Running top-k over tiles of scores on the GPU: the functions of `gcnrec.ops.topk`, on tensors.

Tiles must come in rising order of item number. A score of -inf means "never list this item"; lists that stay short end in
places with item -1 and score -inf.

Letters: B users of a chunk, T items of a tile, K list length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for, rows_address
from gcnrec.cuda.propagate import Csr, edges
from gcnrec.errors import DivergedError, UsageError

LONGEST = 1024
"""Places of the longest list."""
LIST_BLOCK = 128
"""Threads that keep lists side by side, as topk.cu has it."""


class TopK(NamedTuple):
    """Ranked lists on the device: `users_B` int32, `items_BK` int32, `scores_BK` float32, and `invalid_B` uint8: whether a
    score of the user was NaN, for `check` to read once at the end."""

    users_B: torch.Tensor
    items_BK: torch.Tensor
    scores_BK: torch.Tensor
    invalid_B: torch.Tensor


class ItemLists(NamedTuple):
    """An ascending list of items for each user of a chunk: user b has row rows_B[b] (int32) of `csr`."""

    csr: Csr
    rows_B: torch.Tensor


def empty_lists(users_B: torch.Tensor, k: int) -> TopK:
    """Lists with every place empty. Raises UsageError for more than 1024 places: lists live in shared memory."""
    if not 0 <= k <= LONGEST:
        raise UsageError(f"a list on the GPU has at most {LONGEST} items, got {k}; ask for fewer or use the CPU")
    shape, device = (len(users_B), k), users_B.device
    items_BK = torch.full(shape, -1, dtype=torch.int32, device=device)
    scores_BK = torch.full(shape, -torch.inf, device=device)
    return TopK(users_B, items_BK, scores_BK, torch.zeros(len(users_B), dtype=torch.uint8, device=device))


def keep_best(scores_BT: torch.Tensor, first: int, hidden: ItemLists, best: TopK) -> None:
    """Merge the tile of items `first ..` into `best`, hidden items left out (their scores are overwritten with -inf).

    NaN is noted in `best.invalid_B`; `check` raises for it.
    """
    _keep_best(scores_BT, first, hidden, (np.uint64(0),) * 3, best)


def keep_best_listed(scores_BT: torch.Tensor, first: int, hidden: ItemLists, listed: ItemLists, best: TopK) -> None:
    """`keep_best` for the `listed` items only; costs time by their number, not by the tile's width."""
    _keep_best(scores_BT, first, hidden, _lists(listed), best)


def contained(items_BK: torch.Tensor, lists: ItemLists) -> torch.Tensor:
    """Whether each item is in its user's list, bool (B, K); item -1 never is. By binary search."""
    found_BK = torch.zeros(items_BK.shape, dtype=torch.uint8, device=items_BK.device)
    shape = (np.int64(items_BK.shape[0]), np.int64(items_BK.shape[1]))
    arguments = (address("items_BK", items_BK, torch.int32), *shape, *_lists(lists), address("found_BK", found_BK, torch.uint8))
    if items_BK.numel():
        module.launch("topk.cu", "gcnrec_contained", blocks_for(items_BK.numel(), BLOCK), BLOCK, arguments, items_BK.device)
    return found_BK.bool()


def check(best: TopK) -> None:
    """Raise DivergedError when a score that counted was NaN."""
    if bool(best.invalid_B.any()):  # synchronize: once for all tiles of a chunk
        user = int(best.users_B[best.invalid_B.argmax()])
        raise DivergedError(
            f"scores must be numbers, got NaN for user number {user}; "
            "the model holds NaN or infinite values, train again with a smaller learning rate"
        )


def _keep_best(
    scores_BT: torch.Tensor, first: int, hidden: ItemLists, listed: tuple[np.uint64, np.uint64, np.uint64], best: TopK
) -> None:
    users, k = best.items_BK.shape
    scores, pitch = rows_address("scores_BT", scores_BT)
    sizes = (np.int64(users), np.int64(scores_BT.shape[1]), pitch, np.int64(first))
    lists = (
        np.int32(k), address("items_BK", best.items_BK, torch.int32), address("scores_BK", best.scores_BK, torch.float32),
        address("invalid_B", best.invalid_B, torch.uint8),
    )  # fmt: skip
    if users and k:
        arguments, grid = (scores, *sizes, *_lists(hidden), *listed, *lists), blocks_for(32 * users, LIST_BLOCK)
        module.launch("topk.cu", "gcnrec_keep_best", grid, LIST_BLOCK, arguments, scores_BT.device)


def _lists(lists: ItemLists) -> tuple[np.uint64, np.uint64, np.uint64]:
    return *edges(lists.csr), address("rows_B", lists.rows_B, torch.int32)
