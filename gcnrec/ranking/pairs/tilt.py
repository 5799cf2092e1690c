"""Recall and ndcg of held-out pairs that are weighted by popularity: what a hold-out with more popular pairs would say.

A random hold-out has an item in proportion to its train degree d; what users do later leans further to popular items, so random
hold-outs overrate models that correct popularity. `evaluate.tilt = t` weights a held-out pair of user u and item i by
w_i = max(d_i, 1)^t, the inverse of how rare it is in the hold-out (Schnabel et al. 2016; self-normalised: Yang et al. 2018):

    recall_u = sum of w over the hits among the first k / sum of w over the held-out items
    ndcg_u   = sum of w_i / log2(rank + 1) over the hits / the same of the list by falling w, at most k long
    tilted   = sum_u W_u value_u / sum_u W_u        with W_u the mean w of u's held-out items

W_u keeps the tilt of users with a single held-out item. A per-user value is value_u W_u / mean W, so that their mean is the
metric; it may exceed 1. t = 0 gives recall@k and ndcg@k.
Letters: I items, H users with held-out items, E held-out pairs, B users of a chunk, K list length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import Csr
from gcnrec.ranking.metrics import Floats, Judged

NAMES = ("recall_tilted", "ndcg_tilted")


@dataclass(frozen=True, slots=True)
class Tilt:
    """Weights of a split: `weights_I`; of its users `held_H` (sums of w), `share_H` (W_u / mean W), `ideal_H` by list length."""

    weights_I: Floats
    held_H: Floats
    share_H: Floats
    ideal_H: dict[int, Floats]

    @classmethod
    def of(cls, held: Csr, item_degrees_I: NDArray[np.integer], power: float, ks: Sequence[int]) -> Tilt:
        """Of the held-out items `held` (user -> items) and train degrees; H are the users with any, in order."""
        weights_I = np.maximum(item_degrees_I, 1).astype(np.float64) ** power
        users_H = np.flatnonzero(held.degrees)
        counts_H = held.degrees[users_H]
        rows_E = np.repeat(np.arange(len(users_H)), counts_H)
        weights_E = weights_I[held.indices]
        held_H: Floats = np.bincount(rows_E, weights_E, len(users_H)).astype(np.float64)
        falling_E = weights_E[np.lexsort((-weights_E, rows_E))]
        ranks_E = np.arange(len(rows_E)) - np.repeat(np.cumsum(counts_H) - counts_H, counts_H) + 1
        gains_E = falling_E / np.log2(ranks_E + 1.0)
        ideals = (np.bincount(rows_E, np.where(ranks_E <= k, gains_E, 0.0), len(users_H)) for k in ks)
        ideal_H = {k: ideal.astype(np.float64) for k, ideal in zip(ks, ideals, strict=True)}
        mean_H = held_H / counts_H
        return cls(weights_I, held_H, mean_H / mean_H.mean(), ideal_H)

    def judge(self, judged: Judged, here: slice, k: int) -> dict[str, Floats]:
        """The per-user values of the users `here` (a range of H), whose lists `judged` holds, by name@k; float64 (B)."""
        hits_BK = judged.hits_BK[:, :k]
        gains_BK = np.where(hits_BK, self.weights_I[judged.items_BK[:, :k]], 0.0)
        discounts_K = 1.0 / np.log2(np.arange(2.0, gains_BK.shape[1] + 2.0))
        values = gains_BK.sum(axis=1) / self.held_H[here], gains_BK @ discounts_K / self.ideal_H[k][here]
        return {f"{name}@{k}": value_B * self.share_H[here] for name, value_B in zip(NAMES, values, strict=True)}
