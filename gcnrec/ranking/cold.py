"""Recall and ndcg by whether users and items are cold.

A node is cold when the graph that the model was trained on gives it no edge.
Letters: U users, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gcnrec.ranking.evaluate import HeldOutSplit, Measures, evaluate
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.top_k import USERS_PER_CHUNK

METRICS = ("recall", "ndcg")


def cold_metrics(
    scorer: Scorer, split: HeldOutSplit, ks: Sequence[int], chunk: int = USERS_PER_CHUNK
) -> dict[str, dict[str, float]]:
    """Group of held-out pairs -> `users`, `pairs`, recall@k and ndcg@k over the users with such pairs.

    `warm`: user and item have train edges; `cold_items`: the item has none; `cold_users`: the user has none. These rank all items
    that are not seen; other held-out items of a user are ranked, too, and are no hits. `cold_items_apart` ranks cold items only,
    `warm_apart` the others only.
    Empty where no held-out pair is cold; a group without pairs is left out.
    """
    held_out, item_degrees_I = split.pairs, split.item_degrees_I
    cold_item_E, cold_user_E = item_degrees_I[held_out.items_E] == 0, split.user_degrees_U[held_out.users_E] == 0
    if not (cold_item_E.any() or cold_user_E.any()):
        return {}
    cold_I, warm_I = (np.flatnonzero(side_I).astype(np.int32) for side_I in (item_degrees_I == 0, item_degrees_I > 0))
    groups: dict[str, tuple[NDArray[np.bool_], NDArray[np.int32] | None]] = {
        "warm": (~cold_item_E & ~cold_user_E, None),
        "warm_apart": (~cold_item_E & ~cold_user_E, warm_I),
        "cold_items": (cold_item_E, None),
        "cold_items_apart": (cold_item_E, cold_I),
        "cold_users": (cold_user_E, None),
    }
    found = {}
    for name, (chosen_E, candidates) in groups.items():
        if chosen_E.any():
            users_E, items_E = held_out.users_E[chosen_E], held_out.items_E[chosen_E]
            part = replace(held_out, users_E=users_E, items_E=items_E, times_E=None, weights_E=None)
            means = evaluate(scorer, replace(split, pairs=part), Measures(ks), candidates=candidates, chunk=chunk).metrics
            counts = {"users": float(len(np.unique(part.users_E))), "pairs": float(len(part))}
            found[name] = counts | {f"{metric}@{k}": means[f"{metric}@{k}"] for metric in METRICS for k in sorted(set(ks))}
    return found
