"""Whose held-out pairs lists are judged by: all users with such pairs, or a fixed sample of them (`evaluate.users`).

Letters: E held-out pairs, H users with any, in rising order, B users of a chunk, U users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import Csr
from gcnrec.interactions import Interactions
from gcnrec.ops.topk import ItemLists
from gcnrec.random import Stage, shuffled


def sampled(pairs: Interactions, users: int | None) -> Interactions:
    """The pairs of `users` users drawn from those with pairs, or all pairs where these are no more, or for None.

    The draw has a fixed seed: it depends on the pairs alone, and a smaller sample is a part of a larger one. Runs on one dataset
    are therefore measured on the same users, whatever their seed.
    """
    if users is None:
        return pairs
    users_H = np.unique(pairs.users_E)
    if users >= len(users_H):
        return pairs
    return of_users(pairs, users_H[shuffled(0, Stage.JUDGED, 0, 0, users, len(users_H))])


def of_users(pairs: Interactions, users_X: NDArray[np.int32]) -> Interactions:
    """The pairs of some users, in their order, without times and weights."""
    return chosen(pairs, np.isin(pairs.users_E, users_X))


def chosen(pairs: Interactions, keep_E: NDArray[np.bool_]) -> Interactions:
    """The marked pairs, in their order, without times and weights."""
    return replace(pairs, users_E=pairs.users_E[keep_E], items_E=pairs.items_E[keep_E], times_E=None, weights_E=None)


@dataclass(frozen=True, slots=True)
class Held:
    """Held-out items by user: `users_H` int32, rising; row h of `items` belongs to user `users_H[h]`. No array has length U."""

    users_H: NDArray[np.int32]
    items: Csr

    @classmethod
    def of(cls, pairs: Interactions) -> Held:
        """The pairs, each once. O(E log E) time, O(E) memory. DataError without a pair."""
        if not len(pairs):
            raise DataError("no user has held-out items, so nothing can be measured; ingest with a test or validation split")
        num_items = len(pairs.item_ids)
        keys_E = np.unique(pairs.users_E.astype(np.int64) * num_items + pairs.items_E)
        users_E, items_E = np.divmod(keys_E, num_items)
        users_H, counts_H = np.unique(users_E, return_counts=True)
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_H)])
        return cls(users_H.astype(np.int32), Csr(indptr, items_E.astype(np.int32), num_items))

    def rows(self, users_B: NDArray[np.int32]) -> NDArray[np.int32]:
        """Where `users_B`, all of which have held-out items, stand in H, int32 (B)."""
        return np.searchsorted(self.users_H, users_B).astype(np.int32)

    def lists(self, users_B: NDArray[np.int32]) -> ItemLists:
        """The held-out items of `users_B`, all of which have some."""
        return ItemLists(self.items, self.rows(users_B))

    def by_user(self, num_users: int) -> Csr:
        """User -> held-out items, with a row for each of `num_users`."""
        counts_U = np.zeros(num_users + 1, np.int64)
        counts_U[self.users_H.astype(np.int64) + 1] = self.items.degrees
        return Csr(np.cumsum(counts_U, out=counts_U), self.items.indices, self.items.columns)


def counts_of(users_E: NDArray[np.int32], users_X: NDArray[np.integer]) -> NDArray[np.int64]:
    """How often each of `users_X` stands in `users_E`, int64 (X)."""
    sorted_E = np.sort(users_E)
    return np.searchsorted(sorted_E, users_X, "right") - np.searchsorted(sorted_E, users_X)
