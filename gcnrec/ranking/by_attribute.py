"""Recall by an attribute of the items, and metrics that weight items by their value, from the counts of an evaluation.

All are pooled over users, as recall by popularity decile is.
Letters: I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.ranking.evaluate import ItemCounts

MOST_VALUES = 20
"""Values of an attribute that have a row of their own."""


def recall_by_value(codes_I: NDArray[np.int32], labels: Sequence[str], counts: ItemCounts) -> list[dict[str, Any]]:
    """A row for each value of an attribute: `value`, `values`, `items`, `pairs` (held out), then hits@k and recall@k.

    `codes_I`: the place of each item's value in `labels`, -1 without a value. Values come by falling number of pairs, then by
    name. Values behind the first `MOST_VALUES` share the row "other", and `values` counts them. Items without a value, if any,
    have the row None. recall@k is hits / pairs, None without pairs: weighted by pairs, the rows average to all hits / all pairs.
    """
    pairs = np.bincount(codes_I + 1, counts.held_out_I, len(labels) + 1)[1:].astype(np.int64)
    order = sorted(range(len(labels)), key=lambda code: (-pairs[code], labels[code]))
    first, rest = order[:MOST_VALUES], order[MOST_VALUES:]
    rows = [_row(labels[code], 1, codes_I == code, counts) for code in first]
    if rest:
        rows.append(_row("other", len(rest), np.isin(codes_I, rest), counts))
    if (codes_I < 0).any():
        rows.append(_row(None, 0, codes_I < 0, counts))
    return rows


def value_metrics(values_I: NDArray[np.float64], counts: ItemCounts, num_users: int) -> dict[str, float]:
    """value_recall@k, hit_value@k and value@k; `values_I` is from 0 on, and NaN, an item without a value, counts as 0 in hits.

    value_recall: value of all hits / value of all held-out pairs. As in recall, k does not cap the pairs of a user.
    hit_value: value of the hits of a user's list, mean over `num_users` users with held-out pairs.
    value: mean value of the places in lists whose items have one. Each is 0 where nothing is divided by.
    """
    known_I = np.where(np.isnan(values_I), 0.0, values_I)
    held = float(counts.held_out_I @ known_I)
    found: dict[str, float] = {}
    for k, hits_I in counts.hits_I.items():
        found[f"value_recall@{k}"] = float(hits_I @ known_I) / held if held else 0.0
    for k, hits_I in counts.hits_I.items():
        found[f"hit_value@{k}"] = float(hits_I @ known_I) / num_users if num_users else 0.0
    for k, exposure_I in counts.exposure_I.items():
        places = int(exposure_I[~np.isnan(values_I)].sum())
        found[f"value@{k}"] = float(exposure_I @ known_I) / places if places else 0.0
    return found


def _row(value: str | None, values: int, chosen_I: NDArray[np.bool_], counts: ItemCounts) -> dict[str, Any]:
    pairs = int(counts.held_out_I[chosen_I].sum())
    row: dict[str, Any] = {"value": value, "values": values, "items": int(chosen_I.sum()), "pairs": pairs}
    for k, hits_I in counts.hits_I.items():
        row[f"hits@{k}"] = int(hits_I[chosen_I].sum())
        row[f"recall@{k}"] = row[f"hits@{k}"] / pairs if pairs else None
    return row
