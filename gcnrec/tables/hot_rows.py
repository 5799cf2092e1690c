"""Which rows a device keeps: the most popular users and items, two prefixes of the row numbers cut at one degree.

Numbers go by falling degree, so a row's membership and its place in the cache are comparisons, not look-ups.
Letters: H cached rows, R rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Users 0 .. users-1 and items 0 .. items-1 (rows `first_item` ..)."""

    first_item: int
    users: int
    items: int

    @property
    def rows_H(self) -> NDArray[np.int64]:
        """All of them, in the order in which the cache holds them."""
        return np.concatenate([np.arange(self.users), self.first_item + np.arange(self.items)])

    def split(self, rows_R: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of ascending rows: the positions of cached ones, their places in the cache, and the positions of all others."""
        ends = np.searchsorted(rows_R, [self.users, self.first_item, self.first_item + self.items])
        own, others = np.arange(len(rows_R)), [slice(ends[0], ends[1]), slice(ends[2], len(rows_R))]
        hot = np.concatenate([own[: ends[0]], own[ends[1] : ends[2]]])
        places = rows_R[hot].copy()
        places[ends[0] :] += self.users - self.first_item
        return hot, places, np.concatenate([own[part] for part in others])


def hottest(graph: BipartiteGraph, bytes_of: Callable[[NDArray[np.int64]], int], budget: int) -> Prefixes:
    """The longest prefixes of nodes of at least some degree whose rows take at most `budget` bytes."""
    degrees = graph.user_items.degrees, graph.item_users.degrees
    cuts = np.unique(np.concatenate(degrees))  # ascending: a higher cut is a smaller cache

    def at_least(degree: int) -> Prefixes:
        users, items = (int(np.searchsorted(-side, -degree, side="right")) for side in degrees)
        return Prefixes(graph.num_users, users, items)

    low, high = 0, len(cuts)
    while low < high:
        middle = (low + high) // 2
        if bytes_of(at_least(int(cuts[middle])).rows_H) <= budget:
            high = middle
        else:
            low = middle + 1
    return at_least(int(cuts[low])) if low < len(cuts) else Prefixes(graph.num_users, 0, 0)
