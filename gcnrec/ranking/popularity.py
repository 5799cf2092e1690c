"""The baseline that every model must beat: every user gets the items with the most train users, or with the most recent ones.

Letters: I items, E interactions, X of them at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph, History

if TYPE_CHECKING:
    from gcnrec import config

_DAY = 86_400
_MOST_HALVINGS = 1000.0
"""An interaction that is older still counts 2**-1000, so that its item is not one without train interactions."""
_CHUNK = 2**20
"""Interactions whose counts are in memory at a time."""


@dataclass(frozen=True)
class PopularityScorer:
    """Scores an item with its number of train users, `degrees_I` float32, the same for each of `num_users`."""

    num_users: int
    degrees_I: torch.Tensor

    @property
    def num_items(self) -> int:
        return len(self.degrees_I)

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """Nothing but the number of users: float32 (B, 0)."""
        return torch.empty(len(users_B), 0)

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        out_BT.copy_(self.degrees_I[first:last].expand(len(prepared), -1))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"degrees": self.degrees_I}

    @classmethod
    def of(cls, graph: BipartiteGraph, days: float | None = None) -> PopularityScorer:
        """The counts of `counted`."""
        return cls(graph.num_users, torch.from_numpy(counted(graph, days).astype(np.float32)))

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> PopularityScorer:
        return cls(graph.num_users, tensors["degrees"])


def fit(graph: BipartiteGraph, settings: config.Model, seed: int) -> PopularityScorer:
    """Count the train users of every item, by `popularity_days` where that is set; nothing is drawn.

    Raises UsageError for `popularity_days` without times.
    """
    return PopularityScorer.of(graph, settings.popularity_days)


def counted(graph: BipartiteGraph, days: float | None) -> NDArray[np.int64] | NDArray[np.float64]:
    """Train users of every item: int64 (I), the degrees of `graph`; with `days`, recent ones: float64 (I).

    With a half-life of `days`, an interaction counts 2**(-age / days), age in days before the newest interaction of the graph's
    history. A pair that is both an edge and an added row counts for each. Raises UsageError where times are not known.
    """
    if days is None:
        return np.diff(graph.item_users.indptr)
    history = require_times(graph.history)
    newest = max(int(times_E.max(initial=np.iinfo(np.int64).min)) for times_E in history.times)
    counts_I = np.zeros(graph.num_items)
    for items_E, times_E in zip(history.items, history.times, strict=True):
        for first in range(0, len(items_E), _CHUNK):
            here = slice(first, first + _CHUNK)
            counts_I += np.bincount(items_E[here], recency(times_E[here], newest, days), graph.num_items)
    return counts_I


def recency(times_X: NDArray[np.int64], newest: int, days: float) -> NDArray[np.float64]:
    """2**(-age / days), float64 (X), of times in seconds, with the age in days before the second `newest`."""
    ages_X = newest - times_X.astype(np.float64)  # as floats: integers may overflow
    with np.errstate(over="ignore"):  # of very small `days`
        return np.exp2(-np.minimum(ages_X / _DAY / days, _MOST_HALVINGS))


def require_times(history: History | None) -> History:
    """`history`, if it has times; UsageError where it has none."""
    if history is None or not history.times:
        raise UsageError(
            "model.popularity_days counts by age, and the data has no times; leave it out, or ingest with --time COLUMN"
        )
    return history
