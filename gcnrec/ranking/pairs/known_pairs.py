"""Held-out pairs that their users know already, and how many of them lists find.

`repeats`: the user took the item before. `pending`: the user met it by another behaviour before, and has not taken it.
Letters: E held-out pairs, H users with known ones, B of them at a time, K list length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gcnrec.interactions import Interactions
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import ItemLists, contained
from gcnrec.ranking import metrics
from gcnrec.ranking.evaluate import HeldOutSplit
from gcnrec.ranking.held_out import Held, chosen
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.seen import SeenRule, known_others
from gcnrec.ranking.top_k import Here, Ranker

Kinds = dict[str, NDArray[np.bool_]]
"""`repeats` and `pending`, as far as there are such pairs: bool (E)."""
_METRICS = ("recall", "ndcg")
_HERE = Here()


def known_pairs(rule: SeenRule, dataset: Dataset, split: Literal["valid", "test"], held_out: Interactions) -> Kinds:
    """Which of the pairs `held_out` of `split` their users know already, as far as lists by `rule` may hold them."""
    if rule == "all":
        return {}
    users_E, items_E1 = held_out.users_E, held_out.items_E[:, None]
    taken_E, met_E = np.zeros((2, len(held_out)), np.bool_)
    for taken in dataset.known_items(*([dataset.valid] if split == "test" else [])):
        taken_E |= contained(items_E1, ItemLists(taken, users_E))[:, 0]
    for other in known_others(dataset, split):
        met_E |= contained(items_E1, ItemLists(other.graph.user_items, users_E))[:, 0]
    kinds = {"pending": met_E & ~taken_E} | ({"repeats": taken_E} if rule == "none" else {})
    return {name: kind_E for name, kind_E in kinds.items() if kind_E.any()}


def known_metrics(
    scorer: Scorer, split: HeldOutSplit, kinds: Kinds, ks: Sequence[int], ranker: Ranker = _HERE
) -> dict[str, dict[str, float]]:
    """How many pairs of each kind the lists of all items find.

    Kind -> `users` and `pairs` of it, its `share` of all pairs, recall@k and ndcg@k as means over these users. A user's other
    pairs are ranked, too, and are no hits. One ranking judges all kinds. Raises DivergedError for NaN scores.
    """
    if not kinds:
        return {}
    pairs, lengths = split.pairs, sorted(set(ks))
    helds = {name: Held.of(chosen(pairs, kind_E)) for name, kind_E in kinds.items()}
    sums = {name: {f"{metric}@{k}": 0.0 for metric in _METRICS for k in lengths} for name in kinds}
    users_H = np.unique(pairs.users_E[np.any([*kinds.values()], axis=0)])
    for lists in ranker.top_k(scorer, users_H, min(lengths[-1], scorer.num_items), split.seen):
        for name, held in helds.items():
            has_B = np.isin(lists.users_B, held.users_H)
            items_BK, of_users = lists.items_BK[has_B], held.lists(lists.users_B[has_B])
            judged = metrics.Judged(items_BK, contained(items_BK, of_users), held.items.degrees[of_users.rows_B])
            for metric in _METRICS:
                for k in lengths:
                    sums[name][f"{metric}@{k}"] += float(metrics.PER_USER[metric](judged, k).sum())
    total = Held.of(pairs).items.num_edges
    found = {}
    for name, held in helds.items():
        users, count = float(len(held.users_H)), held.items.num_edges
        counts = {"users": users, "pairs": float(count), "share": count / total}
        found[name] = counts | {key: value / users for key, value in sums[name].items()}
    return found
