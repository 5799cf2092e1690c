"""Metrics beyond accuracy: how unlike each other the items of a list are, and which hits popularity would not give.

    diversity@k   = 1 - mean cosine of all pairs among the first k items (Ziegler et al. 2005)
    serendipity@k = hits that no list by popularity of the same length holds / hits, over all lists (Ge et al. 2010)

With e_i of length 1 and m items of a list that have a direction, the cosines of all pairs sum to (|sum of e_i|^2 - m) / 2.
Diversity therefore costs one sum of rows for each list. An item without a direction has cosine 0 with each other item.
Letters: B users of a chunk, K list length, I items, F width, P hits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import Csr
from gcnrec.ops.topk import TopK
from gcnrec.ranking.metrics import Floats

SHORTEST = 1e-12
"""Rows of at most this length have no direction."""
GATHERED_VALUES = 2**20
"""Of rows that are copied at a time."""


@dataclass(frozen=True, slots=True)
class BeyondAccuracy:
    """What lists are compared with: likeness of items by `rows_IF`, and popularity.

    `rows_IF` float32 of any lengths, may be a mapped file; None leaves diversity out. `popular_I` int64: the place of each item
    by popularity, from 0. `seen`: user -> items that lists leave out.
    """

    rows_IF: NDArray[np.float32] | None
    popular_I: NDArray[np.int64]
    seen: tuple[Csr, ...]

    @classmethod
    def of(cls, rows_IF: NDArray[np.float32] | None, item_degrees_I: NDArray[np.int64], seen: tuple[Csr, ...]) -> BeyondAccuracy:
        """Popularity by train degree; of equal degrees the smaller item number comes first."""
        popular_I = np.empty(len(item_degrees_I), np.int64)
        popular_I[np.argsort(-item_degrees_I, kind="stable")] = np.arange(len(item_degrees_I))
        return cls(rows_IF, popular_I, seen)

    @property
    def names(self) -> tuple[str, ...]:
        """Metrics that each user has a value of."""
        return () if self.rows_IF is None else ("diversity",)

    def diversity(self, lists: TopK, ks: Sequence[int]) -> dict[str, Floats]:
        """diversity@k of each list, float64 (B), by name; 0 for fewer than two items. `ks` rise; slots with item -1 are empty."""
        found = {f"diversity@{k}": np.zeros(len(lists.users_B)) for k in ks} if self.rows_IF is not None else {}
        for here in self._blocks(lists.items_BK) if found else ():
            for k, value_B in zip(ks, self._of_block(lists.items_BK[here], ks), strict=True):
                found[f"diversity@{k}"][here] = value_B
        return found

    def places(self, lists: TopK, hits_BK: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Of each hit its place from 0 in the user's list by popularity, int64 (P) in the order of `hits_BK`'s True values."""
        users_P = np.nonzero(hits_BK)[0]
        places_P = self.popular_I[lists.items_BK[hits_BK]]
        if not self.seen:
            return places_P
        starts = np.flatnonzero(np.diff(users_P, prepend=-1))
        for start, end in zip(starts, np.append(starts[1:], len(users_P)), strict=True):
            user = int(lists.users_B[users_P[start]])
            seen = np.unique(np.concatenate([self.popular_I[part.row(user)] for part in self.seen]))
            places_P[start:end] -= np.searchsorted(seen, places_P[start:end])
        return places_P

    def _blocks(self, items_BK: NDArray[np.int32]) -> Iterator[slice]:
        """Ranges of lists whose rows are copied at a time."""
        assert self.rows_IF is not None
        size = max(1, GATHERED_VALUES // max(1, items_BK.shape[1] * self.rows_IF.shape[1]))
        for first in range(0, len(items_BK), size):
            yield slice(first, first + size)

    def _of_block(self, items_BK: NDArray[np.int32], ks: Sequence[int]) -> Iterator[Floats]:
        """Diversity of a block of lists for each of `ks`, float64 (B)."""
        assert self.rows_IF is not None
        listed_BK = items_BK >= 0
        rows_BKF = self.rows_IF[items_BK]  # copy: item -1 copies the last row, whose weight is 0
        lengths_BK = np.sqrt(np.einsum("bkf,bkf->bk", rows_BKF, rows_BKF))
        directed_BK = listed_BK & (lengths_BK > SHORTEST)
        weights_BK = np.where(directed_BK, 1.0 / np.maximum(lengths_BK, SHORTEST), 0.0).astype(np.float32)
        sum_BF, done = np.zeros((len(items_BK), self.rows_IF.shape[1])), 0
        for k in ks:
            sum_BF += np.einsum("bk,bkf->bf", weights_BK[:, done:k], rows_BKF[:, done:k])
            done = k
            count_B, directed_B = listed_BK[:, :k].sum(axis=1), directed_BK[:, :k].sum(axis=1)
            cosines_B = ((sum_BF**2).sum(axis=1) - directed_B) / np.maximum(count_B * (count_B - 1), 1)
            yield np.where(count_B > 1, 1.0 - cosines_B, 0.0)
