"""Lists that hold few items of a kind, and items unlike each other: chosen from a ranking, one item after the other.

Caps: an item is taken while none of its groups has as many items in the list as it may. Diversity: maximal marginal relevance
(Carbonell and Goldstein, SIGIR 1998). Of the best items, the next one has the largest

    (1 - diversity) * relevance - diversity * likeness

with relevance: the score, from 0 for the worst of these items to 1 for the best; likeness: the largest cosine with a listed item.
Letters: B users of a chunk, I items, K list length, P items to choose from, F width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.ops.topk import TopK, empty_lists

_LEAST_POOL, _TIMES_POOL = 100, 5
Ranking = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Items and their scores, the best first."""


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `most` items of a group: `groups_I` int32 has each item's group, -1 for none, of which lists hold any number."""

    groups_I: NDArray[np.int32]
    most: int


@dataclass(frozen=True, slots=True)
class Relist:
    """How lists are chosen: under `caps`, and with `diversity` from 0, by score, to 1.

    `unit_IF` float32: the embeddings of the items, each of length 1; needed for diversity.
    """

    caps: tuple[Cap, ...] = ()
    diversity: float = 0.0
    unit_IF: NDArray[np.float32] | None = None

    def lists(self, best: TopK, k: int, whole: Callable[[int], Ranking]) -> TopK:
        """Lists of at most `k` items from `best`, the P best items of each user, in the order of choice.

        Where caps leave too few of them, the list goes on by score through `whole(row)`, all items that the user may get.
        """
        made = empty_lists(best.users_B, k)
        for row in range(len(best.users_B)):
            count = int((best.items_BK[row] >= 0).sum())
            items, scores = best.items_BK[row, :count], best.scores_BK[row, :count]
            counts = _Counts(self.caps)
            at = self._spread(counts, items, scores, k) if self.diversity else counts.taken(items, k)
            items_K, scores_K = items[at], scores[at]
            if len(at) < k and count == best.items_BK.shape[1]:
                # Scores of one user alone may differ by a last bit, so that places in both rankings do not agree.
                all_items, all_scores = whole(row)
                behind = ~np.isin(all_items, items)
                items, scores = all_items[behind], all_scores[behind]
                at = counts.taken(items, k - len(at))
                items_K, scores_K = np.concatenate([items_K, items[at]]), np.concatenate([scores_K, scores[at]])
            made.items_BK[row, : len(items_K)], made.scores_BK[row, : len(items_K)] = items_K, scores_K
        return made

    def _spread(self, counts: _Counts, items_P: NDArray[np.int32], scores_P: NDArray[np.float32], k: int) -> list[int]:
        """Places of up to `k` items by maximal marginal relevance, under the caps; of equal ones the first."""
        assert self.unit_IF is not None
        if not len(items_P):
            return []
        unit_PF = self.unit_IF[items_P]
        span = float(scores_P[0]) - float(scores_P[-1])
        relevance_P = (scores_P - scores_P[-1]) / (span or 1.0)
        likeness_P, chosen = np.full(len(items_P), -1.0, np.float32), list[int]()
        left_P = np.ones(len(items_P), np.bool_)
        while len(chosen) < k and left_P.any():
            likeness = likeness_P if chosen else 0.0  # of nothing: the first is the best
            value_P = np.where(left_P, (1 - self.diversity) * relevance_P - self.diversity * likeness, -np.inf)
            at = int(value_P.argmax())
            left_P[at] = False
            if counts.take(int(items_P[at])):
                chosen.append(at)
                np.maximum(likeness_P, unit_PF @ unit_PF[at], out=likeness_P)
        return chosen


class _Counts:
    """How many items of each group a list holds so far."""

    def __init__(self, caps: tuple[Cap, ...]) -> None:
        self._caps = [(cap.groups_I, cap.most, dict[int, int]()) for cap in caps]

    def take(self, item: int) -> bool:
        """Count the item, unless one of its groups is full."""
        groups = [int(groups_I[item]) for groups_I, _, _ in self._caps]
        for group, (_, most, held) in zip(groups, self._caps, strict=True):
            if group >= 0 and held.get(group, 0) >= most:
                return False
        for group, (_, _, held) in zip(groups, self._caps, strict=True):
            held[group] = held.get(group, 0) + 1
        return True

    def taken(self, items: NDArray[np.int32], k: int) -> list[int]:
        """The places of the first `k` items that fit. Items of full groups leave all at once: there may be very many."""
        found, left = list[int](), np.flatnonzero(self._fit(items))
        while len(found) < k and len(left):
            done = 0
            for at in left.tolist():
                self.take(int(items[at]))
                found.append(at)
                done += 1
                if len(found) == k or self._fills(int(items[at])):
                    break
            left = left[done:]
            left = left[self._fit(items[left])]
        return found

    def _fit(self, items: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which items have no full group."""
        fit = np.ones(len(items), np.bool_)
        for groups_I, most, held in self._caps:
            full = [group for group, count in held.items() if group >= 0 and count >= most]
            fit &= ~np.isin(groups_I[items], full)
        return fit

    def _fills(self, item: int) -> bool:
        """Whether a group of an item that was taken is full."""
        return any(held.get(int(groups_I[item]), 0) >= most for groups_I, most, held in self._caps if groups_I[item] >= 0)


def pool(k: int, num_items: int) -> int:
    """How many of the best items a list of `k` is chosen from."""
    return min(max(_TIMES_POOL * k, _LEAST_POOL), num_items)
