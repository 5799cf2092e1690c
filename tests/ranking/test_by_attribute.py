"""Recall by attribute and value-weighted metrics by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gcnrec.ranking import by_attribute
from gcnrec.ranking.by_attribute import recall_by_value, value_metrics
from gcnrec.ranking.evaluate import ItemCounts

#                     red red blue green none
CODES = np.array([0, 0, 1, 2, -1], np.int32)
LABELS = ["red", "blue", "green"]
COUNTS = ItemCounts(
    np.array([3, 1, 4, 0, 2]), {5: np.array([6, 2, 1, 3, 8])}, {5: np.array([1, 0, 2, 0, 1])}
)  # fmt: skip


def row(value, values, items, pairs, hits):
    return {
        "value": value,
        "values": values,
        "items": items,
        "pairs": pairs,
        "hits@5": hits,
        "recall@5": hits / pairs if pairs else None,
    }


def test_rows_come_by_pairs_then_name_and_items_without_value_last():
    expected = [row("blue", 1, 1, 4, 2), row("red", 1, 2, 4, 1), row("green", 1, 1, 0, 0), row(None, 0, 1, 2, 1)]
    assert recall_by_value(CODES, LABELS, COUNTS) == expected


def test_rare_values_share_a_row(monkeypatch):
    monkeypatch.setattr(by_attribute, "MOST_VALUES", 1)
    expected = [row("blue", 1, 1, 4, 2), row("other", 2, 3, 4, 1), row(None, 0, 1, 2, 1)]
    assert recall_by_value(CODES, LABELS, COUNTS) == expected


def test_values_weigh_hits_pairs_and_places():
    found = value_metrics(np.array([2.0, 5.0, 10.0, 1.0, np.nan]), COUNTS, num_users=4)
    assert found == {
        "value_recall@5": pytest.approx((2 + 20) / (6 + 5 + 40)),
        "hit_value@5": pytest.approx(22 / 4),
        "value@5": pytest.approx((12 + 10 + 10 + 3) / 12),
    }
    nothing = value_metrics(np.full(5, np.nan), COUNTS, num_users=4)
    assert set(nothing.values()) == {0.0}
