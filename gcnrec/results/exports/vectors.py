"""What an index of inner products holds and is asked, and how its lists are measured.

Letters: B users, I items, F width, K list length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.ranking.scorer import EmbeddingScorer

MEASURED_USERS = 1000
"""Recall of lists is measured for so many users, spread evenly over the user numbers, so over all degrees."""
ADDED_AT_ONCE = 1 << 16
"""Items that an index takes at a time."""


def queries_of(scorer: EmbeddingScorer, users_B: NDArray[np.int32]) -> NDArray[np.float32]:
    """What to search an index for: the users' embeddings, and a 1 behind them where items have a column; float32 (B, F)."""
    rows_BF = scorer.prepare(users_B).numpy()
    return rows_BF if scorer.column_I is None else np.concatenate([rows_BF, np.ones_like(rows_BF[:, :1])], axis=1)


def indexed_rows(scorer: EmbeddingScorer, first: int, last: int) -> NDArray[np.float32]:
    """Vectors of items `first .. last-1` whose inner products with `queries_of` rank as `scorer` does, float32 (items, F).

    The column loses its mean, which changes no ranking and keeps the vectors short.
    """
    rows_IF = scorer.items_ID[first:last].numpy()
    if scorer.column_I is None:
        return rows_IF
    column_I = scorer.column_I[first:last] - scorer.column_I.mean()
    return np.concatenate([rows_IF, column_I[:, None].numpy()], axis=1)


def measured_users(scorer: EmbeddingScorer) -> NDArray[np.int32]:
    """The users for whom lists are measured."""
    count = min(MEASURED_USERS, scorer.num_users)
    return np.linspace(0, scorer.num_users - 1, count).round().astype(np.int32)


def overlap(found_BK: NDArray[Any], exact_BK: NDArray[np.int32]) -> float:
    """The share of exact lists that lists of the same users hold."""
    return float((exact_BK[:, :, None] == found_BK[:, None, :]).any(axis=2).mean())
