"""Which rows a device keeps: the most popular users and items, two prefixes of the row numbers cut at one degree.

Numbers go by falling degree, so a row's membership and its place in the cache are comparisons, not look-ups, and the cached rows
of an ascending batch are two of its slices.
Letters: R rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.rows import RowNumbers


@dataclass(frozen=True, slots=True)
class Part:
    """Rows first .. last-1 of a batch; row n is at place n + `shift` of the cache, or not there where `shift` is None."""

    first: int
    last: int
    shift: int | None


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Users 0 .. users-1 and items 0 .. items-1 (rows `first_item` ..)."""

    first_item: int
    users: int
    items: int

    def __len__(self) -> int:
        return self.users + self.items

    @property
    def ranges(self) -> tuple[range, range]:
        """The rows of users and of items, in the order in which the cache holds them."""
        return range(self.users), range(self.first_item, self.first_item + self.items)

    def among(self, numbers: RowNumbers) -> Prefixes:
        """The same nodes by their rows in a table that has `numbers` alone: prefixes of its users and items."""
        users, items = (rows_among(rows, numbers) for rows in self.ranges)
        return Prefixes(items.start, len(users), len(items))

    def parts(self, rows_R: NDArray[np.int64]) -> tuple[Part, ...]:
        """The slices of ascending rows that are cached or not, in order; none is empty."""
        ends = [0, *np.searchsorted(rows_R, [self.users, self.first_item, self.first_item + self.items]).tolist(), len(rows_R)]
        shifts = (0, None, self.users - self.first_item, None)
        parts = (Part(first, last, shift) for first, last, shift in zip(ends, ends[1:], shifts, strict=False))
        return tuple(part for part in parts if part.first < part.last)


def rows_among(nodes: range, numbers: RowNumbers) -> range:
    """The rows of a table with `numbers` that are some of successive `nodes`."""
    first, last = (len(range(numbers.first, end, numbers.stride)) for end in (nodes.start, nodes.stop))
    return range(first, last)


def hottest(graph: BipartiteGraph, bytes_of: Callable[[range], int], budget: int) -> Prefixes:
    """The longest prefixes of nodes of at least some degree whose rows take at most `budget` bytes."""
    degrees = graph.user_items.degrees, graph.item_users.degrees
    cuts = np.unique(np.concatenate(degrees))  # ascending: a higher cut is a smaller cache

    def at_least(degree: int) -> Prefixes:
        users, items = (int(np.searchsorted(-side, -degree, side="right")) for side in degrees)
        return Prefixes(graph.num_users, users, items)

    low, high = 0, len(cuts)
    while low < high:
        middle = (low + high) // 2
        if sum(map(bytes_of, at_least(int(cuts[middle])).ranges)) <= budget:
            high = middle
        else:
            low = middle + 1
    return at_least(int(cuts[low])) if low < len(cuts) else Prefixes(graph.num_users, 0, 0)
