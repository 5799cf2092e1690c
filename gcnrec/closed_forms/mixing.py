"""Which parts a mixture has and how it weighs them, by a metric over held-out items.

All scores are made once: of every part the best items of a user are kept with the probabilities that all parts give them (see
`ops.shortlist`), and each trial of weights ranks these. Weights come from {0.25, 0.5, 1, 2}, the first part's is 1, and of equal
trials the first is kept, so that the search ends and depends on nothing but the data.

Letters: H users with held-out items, B of them in a chunk, P parts, S places of a short list, K list length, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.closed_forms.mixture import BLOCK_USERS, LEAST_USERS, MIXTURE_ROWS, TIE_WEIGHT, Part, filled
from gcnrec.graph import Csr
from gcnrec.ops.shortlist import best_places, gathered, union
from gcnrec.ops.topk import Hidden, ItemLists, Seen, contained, empty_lists, hide, keep_best
from gcnrec.ranking import metrics
from gcnrec.system.observer import SILENT, Observer

Weights = tuple[float, ...]
"""One of each part, the trained one first; 0 leaves a part out."""
GRID = (0.25, 0.5, 1.0, 2.0)
MOST_USERS = 2**15
"""Users that are looked at, spread evenly over all; more take memory and hardly change a mean."""
_SPARE = 40
"""Items that a short list has from every part beyond the length that is judged."""
_ROUNDS = 3
"""Times that all weights are tried in turn, unless a round changes none."""
ERRORS_NEEDED = 1.0
"""Standard errors of the paired gain by which another part must improve the mixture."""


@dataclass(frozen=True)
class ShortLists:
    """Of a chunk of users: `items_BS` int32, ascending, -1 behind the last; `values_BSP` float32, what each part gives them."""

    items_BS: NDArray[np.int32]
    values_BSP: NDArray[np.float32]
    hits_BS: NDArray[np.bool_]
    num_held_out_B: NDArray[np.int64]


@dataclass(frozen=True)
class Judge:
    """Values of `metric` (such as "recall") at `k`, of mixtures of the parts that the short lists are of."""

    lists: tuple[ShortLists, ...]
    metric: str
    k: int
    per_user: Mapping[str, metrics.Metric] = field(default_factory=metrics.PER_USER.copy)

    @property
    def num_users(self) -> int:
        return sum(len(lists.items_BS) for lists in self.lists)

    def values(self, weights: Weights) -> NDArray[np.float64]:
        """The metric of every user, float64 (H). A weight of 0 of the first part leaves it to break ties."""
        weights_P = np.array((weights[0] or TIE_WEIGHT, *weights[1:]), np.float32)
        return np.concatenate([self._judged(lists, weights_P) for lists in self.lists])

    def _judged(self, lists: ShortLists, weights_P: NDArray[np.float32]) -> NDArray[np.float64]:
        places_BK = best_places(lists.values_BSP, lists.items_BS, weights_P, min(self.k, max(lists.items_BS.shape[1], 1)))
        listed_BK, places_BK = places_BK >= 0, np.maximum(places_BK, 0)
        items_BK = np.where(listed_BK, np.take_along_axis(lists.items_BS, places_BK, 1), -1)
        hits_BK = listed_BK & np.take_along_axis(lists.hits_BS, places_BK, 1)
        return self.per_user[self.metric](metrics.Judged(items_BK, hits_BK, lists.num_held_out_B), self.k)


@dataclass(frozen=True)
class Found:
    """The weights that a search ended with, its mean `value`, that of each part `alone`, and the number of trials."""

    weights: Weights
    value: float
    alone: tuple[float, ...]
    trials: int


def looked_at(held: Csr) -> NDArray[np.int32]:
    """The users with held-out items, or `MOST_USERS` of them, spread evenly; int32 (H), ascending."""
    users_H = np.flatnonzero(held.degrees).astype(np.int32)
    if len(users_H) <= MOST_USERS:
        return users_H
    return users_H[np.linspace(0, len(users_H) - 1, MOST_USERS).astype(np.int64)]


def judge_bytes(num_parts: int, num_users: int, num_items: int, k: int) -> int:
    """What `judge_of` and its result hold at most apart from the parts."""
    places = num_parts * min(k + _SPARE, num_items)
    short_lists = min(num_users, MOST_USERS) * places * (4 * num_parts + 5)
    return short_lists + 4 * (num_parts + MIXTURE_ROWS) * num_items * _block_users(num_items)


def judge_of(parts: Sequence[Part], held: Csr, seen: Seen, metric: str, observer: Observer = SILENT) -> Judge:
    """A judge of mixtures of `parts` by `metric` (such as "recall@20") on user -> held-out items; `seen` is left out.

    Memory: P + 2 rows of I floats for each user of a chunk of at most `BLOCK_USERS`; about 100 P short-list places a user.
    """
    kind, k = metrics.split_name(metric)
    users_H = looked_at(held)
    lists = []
    size = _block_users(parts[0].scorer.num_items)
    for first in range(0, len(users_H), size):
        users_B = users_H[first : first + size]
        hidden, held_out = seen.of(users_B), ItemLists(held, users_B)
        lists.append(_short_lists(parts, users_B, k + _SPARE, hidden, held_out))
        observer.work("choosing the mixture", first + len(users_B), len(users_H))
    return Judge(tuple(lists), kind, k)


def weighed(judge: Judge, num_parts: int) -> Found:
    """All parts, each weight in turn the best of `GRID` given the others; the first partner's stays 1."""
    search = _Search(judge, num_parts)
    weights = search.tuned((1.0,) * num_parts, kept=1)
    return search.found(weights)


def chosen(judge: Judge, num_parts: int) -> Found:
    """Parts by greedy forward selection: the first or a better part alone, then whichever improves the mixture most.

    A part that replaces the first, and an addition, must gain more than `ERRORS_NEEDED` standard errors of the paired gain over
    users. The end may be a single part.
    """
    search = _Search(judge, num_parts)
    weights, best = _single(num_parts)[0], max(_single(num_parts), key=search.mean)
    if search.proved(best, weights):
        weights = best
    first = weights.index(1.0)
    while (better := search.extended(weights)) is not None:
        weights = search.tuned(better, kept=first)
    return search.found(weights)


class _Search:
    """Trials of weights, each judged once."""

    def __init__(self, judge: Judge, num_parts: int) -> None:
        self._num_parts = num_parts
        self._values = lru_cache(maxsize=None)(judge.values)

    def mean(self, weights: Weights) -> float:
        return float(self._values(weights).mean())

    def found(self, weights: Weights) -> Found:
        alone = tuple(self.mean(one) for one in _single(self._num_parts))
        return Found(weights, self.mean(weights), alone, self._values.cache_info().currsize)

    def tuned(self, weights: Weights, kept: int) -> Weights:
        """The weights after each positive one but that of part `kept` takes, in turn, its best value of `GRID`."""
        for _ in range(_ROUNDS):
            before = weights
            for part in range(self._num_parts):
                if part != kept and weights[part]:
                    weights = max((weights, *(_with(weights, part, weight) for weight in GRID)), key=self.mean)
            if weights == before:
                break
        return weights

    def extended(self, weights: Weights) -> Weights | None:
        """The best mixture with one more part, where it is better by enough."""
        absent = [part for part in range(self._num_parts) if not weights[part]]
        trials = [_with(weights, part, weight) for part in absent for weight in GRID]
        best = max(trials, key=self.mean, default=weights)
        return best if self.proved(best, weights) else None

    def proved(self, weights: Weights, rival: Weights) -> bool:
        """Whether the paired gain over `rival` is beyond its error; one user proves nothing."""
        gains_H = self._values(weights) - self._values(rival)
        error = float(gains_H.std(ddof=1) / np.sqrt(len(gains_H))) if len(gains_H) > 1 else np.inf
        return float(gains_H.mean()) > max(ERRORS_NEEDED * error, 0.0)


def _block_users(num_items: int) -> int:
    """Users whose scores by all parts are held at a time: fewer of many items."""
    return max(LEAST_USERS, min(BLOCK_USERS, 2**24 // num_items))


def _single(num_parts: int) -> list[Weights]:
    """Each part alone."""
    return [tuple(float(part == one) for part in range(num_parts)) for one in range(num_parts)]


def _with(weights: Weights, part: int, weight: float) -> Weights:
    return (*weights[:part], weight, *weights[part + 1 :])


def _short_lists(
    parts: Sequence[Part], users_B: NDArray[np.int32], depth: int, hidden: Hidden, held_out: ItemLists
) -> ShortLists:
    num_items = parts[0].scorer.num_items
    filled_B = filled(users_B)
    scores_PBI = torch.zeros(len(parts), len(filled_B), num_items)
    scratch_BI = torch.empty(len(filled_B), num_items)
    depth = min(depth, num_items)
    items_PBK = np.empty((len(parts), len(users_B), depth), np.int32)
    none = ItemLists.empty(len(users_B), num_items)
    for part, scores_BI, items_BK in zip(parts, scores_PBI, items_PBK, strict=True):
        part.add(filled_B, 1.0, scratch_BI, scores_BI)
        own_BI = scores_BI[: len(users_B)].numpy()
        hide(own_BI, 0, hidden)
        best = empty_lists(users_B, depth)
        keep_best(own_BI, 0, none, best)
        items_BK[:] = best.items_BK
    items_BS = np.empty((len(users_B), len(parts) * depth), np.int32)
    union(items_PBK, items_BS)
    items_BS = np.ascontiguousarray(items_BS[:, : int((items_BS >= 0).sum(1).max(initial=0))])  # copy: the longest list's width
    values_PBS = np.empty((len(parts), *items_BS.shape), np.float32)
    for scores_BI, values_BS in zip(scores_PBI, values_PBS, strict=True):
        gathered(scores_BI.numpy(), items_BS, values_BS)
    values_BSP = np.ascontiguousarray(values_PBS.transpose(1, 2, 0))
    return ShortLists(items_BS, values_BSP, contained(items_BS, held_out), held_out.csr.degrees[users_B])
