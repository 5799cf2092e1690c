"""Ranking metrics and the statistics over users, as pure functions; names and definitions are fixed by the project.

A hit is a held-out item in the list. `recall@k` divides by all held-out items, `recall_capped@k` by at most k of them.
Hits are found once (`Judged`) and shared by every metric and every k.
Letters: B users, K list length, I items, U users of a test, M metrics, R resamples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.extensions.calls import calling
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import PAGE
from gcnrec.random import Stage, generator

Floats = NDArray[np.float64]
_METRIC = re.compile(r".+@[1-9][0-9]{0,8}")
BOOTSTRAP_BYTES = 2**23
"""Of the draws of a bootstrap that are held at a time."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Ranked lists with their hits: `items_BK` int32 (-1 in empty slots), `hits_BK` bool, `num_held_out_B` (at least 1)."""

    items_BK: NDArray[np.int32]
    hits_BK: NDArray[np.bool_]
    num_held_out_B: NDArray[np.int64]


def recall(judged: Judged, k: int) -> Floats:
    """Hits among the first k / held-out items (He et al. 2020, LightGCN's evaluation)."""
    return _num_hits(judged, k) / judged.num_held_out_B


def recall_capped(judged: Judged, k: int) -> Floats:
    """Hits among the first k / min(k, held-out items): 1 is always in reach (Ekstrand 2020, LensKit)."""
    return _num_hits(judged, k) / np.minimum(judged.num_held_out_B, k)


def precision(judged: Judged, k: int) -> Floats:
    """Hits among the first k / k; a list that stays short still divides by k."""
    return _num_hits(judged, k) / k


def hit_rate(judged: Judged, k: int) -> Floats:
    """1 with at least one hit among the first k, else 0."""
    return (_num_hits(judged, k) > 0).astype(np.float64)


def mrr(judged: Judged, k: int) -> Floats:
    """1 / rank of the first hit among the first k, 0 without one (Voorhees 1999)."""
    hits_BK = judged.hits_BK[:, :k]
    return np.where(hits_BK.any(axis=1), 1.0 / (hits_BK.argmax(axis=1) + 1.0), 0.0)


def average_precision(judged: Judged, k: int) -> Floats:
    """map@k: sum over hits at rank r <= k of precision@r / min(k, held-out items)."""
    hits_BK = judged.hits_BK[:, :k]
    precisions_BK = np.cumsum(hits_BK, axis=1) / np.arange(1.0, hits_BK.shape[1] + 1.0)
    value_B: Floats = (precisions_BK * hits_BK).sum(axis=1) / np.minimum(judged.num_held_out_B, k)
    return value_B


def ndcg(judged: Judged, k: int) -> Floats:
    """DCG of 0/1 gains with discount 1 / log2(rank + 1) / DCG of min(k, held-out) hits in front (Järvelin & Kekäläinen 2002)."""
    hits_BK, ideal_B = judged.hits_BK[:, :k], np.minimum(judged.num_held_out_B, k)
    ranks = max(hits_BK.shape[1], int(ideal_B.max(initial=1)))  # a k beyond all items costs nothing
    discounts_K = 1.0 / np.log2(np.arange(2.0, ranks + 2.0))
    value_B: Floats = (hits_BK @ discounts_K[: hits_BK.shape[1]]) / np.cumsum(discounts_K)[ideal_B - 1]
    return value_B


class MetricName(NamedTuple):
    """The two parts of a metric's name, such as "recall@20"."""

    kind: str
    k: int


def split_name(metric: str) -> MetricName:
    """The kind and the list length of a metric."""
    kind, _, k = metric.rpartition("@")
    return MetricName(kind, int(k))


def measured(document: Mapping[str, Any]) -> dict[str, float]:
    """The entries of a JSON document that are metrics, in their order."""
    return {name: float(value) for name, value in document.items() if _METRIC.fullmatch(name) and isinstance(value, (int, float))}


Metric = Callable[[Judged, int], Floats]
"""The value of each user's first k, float64 (B)."""
PER_USER: dict[str, Metric] = {
    "recall": recall,
    "recall_capped": recall_capped,
    "ndcg": ndcg,
    "precision": precision,
    "hit_rate": hit_rate,
    "mrr": mrr,
    "map": average_precision,
}
"""Metrics that need nothing but the hits, by their fixed names."""


class OwnMetric(Protocol):
    """What `evaluate.own_metrics` names; the class is made of one dict, its part of `evaluate.own_settings`."""

    def values(self, judged: Judged, k: int) -> Floats:
        """The value of each user's list, cut after k items, float64 (B) and finite; the mean over users is reported.

        Lists may be shorter than k, and end with empty slots. A user's value follows from that user's list alone.
        """
        ...


_TOO_LARGE = 1e100
"""What counts as infinite: sums of squares over users must have a number."""


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A metric of another package. UsageError where it gives anything but a finite float64 for each user."""

    own: Own
    made: OwnMetric

    def __call__(self, judged: Judged, k: int) -> Floats:
        with calling(self.own.shown, f"values for lists of {len(judged.items_BK):,} users at k = {k}"):
            values_B = np.asarray(self.made.values(_unchangeable(judged), k))
        users = len(judged.items_BK)
        if values_B.shape != (users,) or values_B.dtype != np.float64 or not (np.abs(values_B) < _TOO_LARGE).all():
            came = f"{values_B.dtype} {values_B.shape}"
            is_small = values_B.dtype.kind != "f" or (np.abs(values_B) < _TOO_LARGE).all()
            came += "" if is_small else " with values that are not finite"
            raise UsageError(
                f"{self.own.shown} must give finite float64 ({users},), a value for each user, got {came}; see {PAGE}"
            )
        return values_B


def _unchangeable(judged: Judged) -> Judged:
    """The same, of which other metrics see no change that a class makes."""
    seen = Judged(judged.items_BK.view(), judged.hits_BK.view(), judged.num_held_out_B.view())
    for each in (seen.items_BK, seen.hits_BK, seen.num_held_out_B):
        each.flags.writeable = False
    return seen


def per_user_with(own: Iterable[Own]) -> dict[str, Metric]:
    """`PER_USER` and the metrics of other packages, by the names that a job gives them. UsageError as `Own.make`."""
    return {**PER_USER, **{each.key.rpartition(".")[2]: _Foreign(each, each.make()) for each in own}}


HEAD = 0.2
"""Of the items, the most popular ones; the rest is the long tail."""


def self_information(item_degrees: NDArray[np.integer], num_users: int) -> Floats:
    """-log2(train users of the item / users) in bits, float64 in the shape of the degrees; no train user counts as one."""
    information: Floats = -np.log2(np.maximum(item_degrees, 1) / max(num_users, 1))
    return information


def novelty(judged: Judged, k: int, information_BK: Floats) -> Floats:
    """Mean self-information of the first k listed items (Zhou et al. 2010), 0 for an empty list.

    `information_BK` float64: of the item in each place of `judged`, anything in empty slots.
    """
    listed_BK = judged.items_BK[:, :k] >= 0
    total_B = np.where(listed_BK, information_BK[:, :k], 0.0).sum(axis=1)
    value_B: Floats = total_B / np.maximum(listed_BK.sum(axis=1), 1)
    return value_B


def coverage(exposure_I: NDArray[np.integer]) -> float:
    """Share of all items that someone was recommended; `exposure_I` counts the lists that hold each item."""
    return float((exposure_I > 0).mean())


def gini(exposure_I: NDArray[np.integer]) -> float:
    """Gini coefficient of the exposure of all items: 0 all equal, towards 1 when few get all; 0 when no list has an item.

    sum_i (2 i - I - 1) x_i / (I sum x), x ascending, i from 1 (Fleder & Hosanagar 2009). The sums are exact, as integers. Items
    that no list holds come first and add nothing, so that memory is that of the listed ones.
    """
    items, x = len(exposure_I), np.sort(exposure_I[exposure_I > 0]).astype(np.int64)
    weights = 2 * np.arange(items - len(x) + 1, items + 1) - items - 1
    return float(weights @ x) / (items * float(x.sum())) if len(x) else 0.0


def long_tail(exposure_I: NDArray[np.integer], item_degrees_I: NDArray[np.integer]) -> float:
    """Share of all places in lists that hold none of the `HEAD` of items with most train users; 0 when no list has an item.

    Of equal numbers of users the smaller item number belongs to the head (Abdollahpouri et al. 2017, with 20 % as the head).
    """
    (head,) = by_popularity(item_degrees_I, [math.ceil(HEAD * len(item_degrees_I))])
    places = int(exposure_I.sum())
    return 1.0 - float(exposure_I[head].sum()) / places if places else 0.0


def by_popularity(item_degrees_I: NDArray[np.integer], ends: Sequence[int]) -> list[slice | NDArray[np.intp]]:
    """Items by falling train degree, of equal degrees the smaller number first: the part up to each of the rising `ends`.

    Slices where numbers follow the degrees already, as in each ingested dataset: no order of all items is made.
    """
    parts = [slice(first, last) for first, last in zip((0, *ends), ends, strict=False)]
    if not (item_degrees_I[1:] > item_degrees_I[:-1]).any():
        return [*parts]
    order_I = np.argsort(-item_degrees_I.astype(np.int64), kind="stable")
    return [order_I[part] for part in parts]


def _num_hits(judged: Judged, k: int) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = judged.hits_BK[:, :k].sum(axis=1)
    return counts


def bootstrap_intervals(values_UM: Floats, resamples: int, seed: int, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile intervals of the column means, users drawn with replacement (Efron & Tibshirani 1993, ch. 13).

    All columns share the draws, so intervals of differences are paired.
    """
    draws = generator(seed, Stage.BOOTSTRAP)
    num_users = len(values_UM)
    parts = []
    for size in _batches(resamples, num_users):
        counts_RU = np.empty((size, num_users))
        for row in counts_RU:
            row[:] = np.bincount(draws.integers(num_users, size=num_users), minlength=num_users)
        parts.append(counts_RU @ values_UM / num_users)
    ends: Floats = np.quantile(np.concatenate(parts), [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)  # type: ignore[assignment]
    return ends[0], ends[1]


def sign_flip_p_values(differences_UM: Floats, permutations: int, seed: int) -> Floats:
    """Two-sided p-values of paired differences with mean 0 (Fisher's randomisation test; Smucker et al. 2007).

    Under the null each user's difference is as likely with either sign: (1 + flips at least as far from 0) / (1 + flips).
    """
    draws = generator(seed, Stage.BOOTSTRAP, step=1)
    moving_UM = differences_UM[differences_UM.any(axis=1)]  # a user without any difference changes no sum
    observed_M = np.abs(moving_UM.sum(axis=0))
    # sums that are equal in exact arithmetic must count as equal
    bound_M = observed_M - 1e-12 * np.abs(moving_UM).sum(axis=0)
    extreme_M = np.zeros(differences_UM.shape[1], np.int64)
    for size in _batches(permutations, len(moving_UM)):
        bits = np.unpackbits(draws.integers(0, 256, (size, -(-len(moving_UM) // 8)), dtype=np.uint8), axis=1)
        signs_RU = 1.0 - 2.0 * bits[:, : len(moving_UM)]
        extreme_M += (np.abs(signs_RU @ moving_UM) >= bound_M).sum(axis=0)
    p_values_M: Floats = np.asarray((1.0 + extreme_M) / (1.0 + permutations), np.float64)
    return p_values_M


def holm(p_values: Floats) -> Floats:
    """p-values adjusted for testing all of them at once (Holm 1979): running maximum of (m - rank) p, at most 1."""
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * p_values[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _batches(count: int, width: int) -> Iterator[int]:
    """Sizes that add up to `count`, each at most `BOOTSTRAP_BYTES` of float64 rows of `width`, but one row at least."""
    most = max(1, BOOTSTRAP_BYTES // (8 * max(width, 1)))
    while count > 0:
        yield min(most, count)
        count -= most
