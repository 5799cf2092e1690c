"""Running top-k over tiles of scores: the best K items of each user, exact, without ever holding all scores.

Tiles must come in rising order of item number. An item then enters a list only with a score above the K-th one, so that
ties fall to the smaller item number, and a block of scores with none above it is skipped by one vector comparison.
The kernels run on the calling thread and release the interpreter: chunks of users are ranked side by side.
A score of -inf means "never list this item"; lists that stay short end in slots with item -1 and score -inf.

Letters: B users of a chunk, T items of a tile, K list length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import DivergedError
from gcnrec.graph import Csr
from gcnrec.ops.arrays import frozen

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class TopK:
    """Ranked lists: `users_B` int32, `items_BK` int32 and `scores_BK` float32 by falling score, then rising item.

    A list shorter than K ends in slots with item -1 and score -inf.
    """

    users_B: NDArray[np.int32]
    items_BK: NDArray[np.int32]
    scores_BK: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ItemLists:
    """An ascending list of items for each user of a chunk: user b has `csr.row(rows_B[b])`. `rows_B` int32."""

    csr: Csr
    rows_B: NDArray[np.int32]

    @classmethod
    def empty(cls, num_users: int, num_items: int) -> ItemLists:
        return cls.shared(np.empty(0, np.int32), num_users, num_items)

    @classmethod
    def shared(cls, items: NDArray[np.int32], num_users: int, num_items: int) -> ItemLists:
        """The same ascending `items` for every user."""
        csr = Csr(np.array([0, len(items)], np.int64), items, num_items)
        return cls(csr, np.zeros(num_users, np.int32))

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """indptr, indices and rows, as kernels take them."""
        return frozen(self.csr.indptr), frozen(self.csr.indices), frozen(self.rows_B)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Items that each user of a chunk must not get: all of `lists`. A row of -1 hides nothing."""

    lists: tuple[ItemLists, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """User -> items left out: all of `parts`, none without a part. The parts may be mapped files and are never merged."""

    parts: tuple[Csr, ...]

    def of(self, users_B: NDArray[np.int32]) -> Hidden:
        return Hidden(tuple(ItemLists(part, users_B) for part in self.parts))


def empty_lists(users_B: NDArray[np.int32], k: int) -> TopK:
    """Lists with every slot empty, to be filled in place by `keep_best` or `keep_best_listed`."""
    shape = (len(users_B), k)
    return TopK(users_B, np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32))


def hide(scores_BT: NDArray[np.float32], first: int, hidden: Hidden) -> None:
    """Overwrite the scores of hidden items with -inf, in the tile of items `first ..`."""
    for lists in hidden.lists:
        _hide_all(scores_BT, first, *lists.arrays())


def keep_best(scores_BT: NDArray[np.float32], first: int, hidden: ItemLists, best: TopK) -> None:
    """Merge the tile of items `first ..` into `best`, hidden items left out (their scores are overwritten with -inf).

    Raises DivergedError when a score that counts is NaN.
    """
    invalid_B = np.zeros(len(best.users_B), np.bool_)
    _keep_best(scores_BT, first, *hidden.arrays(), best.items_BK, best.scores_BK, invalid_B)
    _check(invalid_B, best)


def keep_best_listed(scores_BT: NDArray[np.float32], first: int, hidden: ItemLists, listed: ItemLists, best: TopK) -> None:
    """`keep_best` for the `listed` items only; costs time by their number, not by the tile's width."""
    invalid_B = np.zeros(len(best.users_B), np.bool_)
    _keep_best_listed(scores_BT, first, *hidden.arrays(), *listed.arrays(), best.items_BK, best.scores_BK, invalid_B)
    _check(invalid_B, best)


def contained(items_BK: NDArray[np.int32], lists: ItemLists) -> NDArray[np.bool_]:
    """Whether each item is in its user's list, bool (B, K); item -1 never is. By binary search."""
    found_BK = np.empty(items_BK.shape, np.bool_)
    _contained(items_BK, *lists.arrays(), found_BK)
    return found_BK


def _check(invalid_B: NDArray[np.bool_], best: TopK) -> None:
    if invalid_B.any():
        raise DivergedError(
            f"scores must be numbers, got NaN for user number {best.users_B[invalid_B.argmax()]}; "
            "the model holds NaN or infinite values, train again with a smaller learning rate"
        )


@numba.njit(inline="always")
def _lower_bound(indices, begin, end, value):  # type: ignore[no-untyped-def]
    """The first position in `begin .. end` whose index is at least `value`."""
    while begin < end:
        middle = (begin + end) >> 1
        if indices[middle] < value:
            begin = middle + 1
        else:
            end = middle
    return begin


@numba.njit(inline="always")
def _hide(scores_T, first, indices, begin, end):  # type: ignore[no-untyped-def]
    at = _lower_bound(indices, begin, end, first)
    while at < end and indices[at] < first + len(scores_T):
        scores_T[indices[at] - first] = -np.inf
        at += 1


@numba.njit(nogil=True, cache=True)
def _hide_all(scores_BT, first, indptr, indices, rows_B):  # type: ignore[no-untyped-def]
    for user in range(scores_BT.shape[0]):
        if rows_B[user] >= 0:
            _hide(scores_BT[user], first, indices, indptr[rows_B[user]], indptr[rows_B[user] + 1])


@numba.njit(inline="always")
def _insert(score, item, items_K, scores_K):  # type: ignore[no-untyped-def]
    """Put the item behind every score that is not below its own; the last slot falls out."""
    at = len(items_K) - 1
    while at > 0 and scores_K[at - 1] < score:
        scores_K[at] = scores_K[at - 1]
        items_K[at] = items_K[at - 1]
        at -= 1
    scores_K[at] = score
    items_K[at] = item


@numba.njit(inline="always")
def _any_above(scores_T, begin, end, bound):  # type: ignore[no-untyped-def]
    # `not <=` instead of `>`: NaN counts too. The int32 sum is what LLVM turns into vector comparisons.
    count = np.int32(0)
    for at in range(begin, end):
        count = np.int32(count + np.int32(not (scores_T[at] <= bound)))
    return count != 0


@numba.njit(nogil=True, cache=True)
def _keep_best(scores_BT, first, indptr, indices, rows_B, items_BK, scores_BK, invalid_B):  # type: ignore[no-untyped-def]
    width, last_slot = scores_BT.shape[1], scores_BK.shape[1] - 1
    for user in range(scores_BT.shape[0]):
        scores_T, items_K, scores_K = scores_BT[user], items_BK[user], scores_BK[user]
        _hide(scores_T, first, indices, indptr[rows_B[user]], indptr[rows_B[user] + 1])
        for begin in range(0, width, _BLOCK):
            end = min(begin + _BLOCK, width)
            if _any_above(scores_T, begin, end, scores_K[last_slot]):
                for at in range(begin, end):
                    if not (scores_T[at] <= scores_K[last_slot]):
                        if np.isnan(scores_T[at]):
                            invalid_B[user] = True
                        _insert(scores_T[at], first + at, items_K, scores_K)


@numba.njit(nogil=True, cache=True)
def _keep_best_listed(  # type: ignore[no-untyped-def]
    scores_BT, first, indptr, indices, rows_B, listed_indptr, listed_indices, listed_rows_B, items_BK, scores_BK, invalid_B
):
    width, last_slot = scores_BT.shape[1], scores_BK.shape[1] - 1
    for user in range(scores_BT.shape[0]):
        scores_T, items_K, scores_K = scores_BT[user], items_BK[user], scores_BK[user]
        _hide(scores_T, first, indices, indptr[rows_B[user]], indptr[rows_B[user] + 1])
        end = listed_indptr[listed_rows_B[user] + 1]
        at = _lower_bound(listed_indices, listed_indptr[listed_rows_B[user]], end, first)
        while at < end and listed_indices[at] < first + width:
            score = scores_T[listed_indices[at] - first]
            if not (score <= scores_K[last_slot]):
                if np.isnan(score):
                    invalid_B[user] = True
                _insert(score, listed_indices[at], items_K, scores_K)
            at += 1


@numba.njit(nogil=True, cache=True)
def _contained(items_BK, indptr, indices, rows_B, found_BK):  # type: ignore[no-untyped-def]
    for user in range(items_BK.shape[0]):
        begin, end = indptr[rows_B[user]], indptr[rows_B[user] + 1]
        for slot in range(items_BK.shape[1]):
            at = _lower_bound(indices, begin, end, items_BK[user, slot])
            found_BK[user, slot] = at < end and indices[at] == items_BK[user, slot]
