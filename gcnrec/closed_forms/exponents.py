"""Exponents of linkprop by a small search on validation: `model.exponents = "auto"`.

Random validation pairs come from the same time as train and overrate sharp and local sums, so that the search is no default.

Letters: I items, V validation users judged, K list length.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gcnrec import config
from gcnrec.closed_forms import linkprop
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph, csr_from_edges
from gcnrec.interactions import Interactions
from gcnrec.ops.item_rows import Exponents
from gcnrec.ops.topk import Seen
from gcnrec.ranking.metrics import Judged, ndcg, recall
from gcnrec.ranking.top_k import top_k_all

_USERS = 2000
"""Validation users that are judged, evenly spaced among all."""
_NEIGHBOURS = 100
"""Terms kept per item while searching: on validation they rank as well as all, in a third of the time."""
_STEPS = {"sharpness": 0.25, "source_power": 0.1, "target_power": 0.1, "user_power": 0.25}
"""First change of each key; the search ends with half of it."""
_LIMITS = {"sharpness": (0.25, 4.0), "source_power": (-2.0, 2.0), "target_power": (-2.0, 2.0), "user_power": (-2.0, 2.0)}
_LEAST_GAIN = 1.002
"""A change must multiply the value by this, or it is taken for noise."""
_K = 20


def require_valid(pairs: int) -> None:
    """UsageError without validation pairs, on which exponents are chosen."""
    if not pairs:
        raise UsageError(
            "model.exponents = 'auto' is chosen on a validation split, and the data has none; ingest with --valid-size, or set "
            "model.exponents = 'given'"
        )


def chosen(graph: BipartiteGraph, valid: Interactions, settings: config.Model, seen: Seen) -> config.Model:
    """`settings` with the exponents of largest recall@20 + ndcg@20 on `valid`, now given; lists leave `seen` out.

    Coordinate search from the given ones, 20 to 40 fits of `_NEIGHBOURS` terms an item; nothing is drawn.
    Raises UsageError without validation pairs.
    """
    require_valid(len(valid))
    search = _Search(graph, valid, min(_NEIGHBOURS, settings.neighbours or _NEIGHBOURS), seen)
    best = settings.model_copy(update={"exponents": "given"})
    for share in (1.0, 0.5):
        best = search.climbed(best, share)
    return best


def in_words(settings: config.Model) -> str:
    """The exponents as a job file has them, such as `sharpness = 1.5, source_power = 0.75`."""
    return ", ".join(f"{key} = {getattr(settings, key)}" for key in _STEPS)


class _Search:
    """Fits candidates, judges them by a sample of the validation users, and remembers what they were worth."""

    def __init__(self, graph: BipartiteGraph, valid: Interactions, neighbours: int, seen: Seen) -> None:
        self._graph, self._neighbours, self._seen = graph, neighbours, seen
        held = csr_from_edges(valid.users_E, valid.items_E, graph.num_users, graph.num_items)
        users_V = np.flatnonzero(held.degrees).astype(np.int32)
        self._users_V = users_V[:: -(-len(users_V) // _USERS)]
        self._num_held_V = held.degrees[self._users_V]
        self._pairs = held.row_numbers() * np.int64(graph.num_items) + held.indices
        self._values: dict[Exponents, float] = {}

    def climbed(self, best: config.Model, share: float) -> config.Model:
        """From `best`, steps of one key at a time, each `share` of its first, until none gains."""
        gained = True
        while gained:
            gained = False
            for key in _STEPS:
                for candidate in _moved(best, key, share):
                    if self._value(candidate) > _LEAST_GAIN * self._value(best):
                        best, gained = candidate, True
                        break
        return best

    def _value(self, settings: config.Model) -> float:
        """Mean recall@20 + ndcg@20."""
        exponents = linkprop.exponents_of(settings)
        if exponents not in self._values:
            scorer = linkprop.fit(self._graph, settings.model_copy(update={"neighbours": self._neighbours}), 0)
            items_VK = top_k_all(scorer, self._users_V, _K, self._seen).items_BK
            hits_VK = np.isin(self._users_V[:, None] * np.int64(self._graph.num_items) + items_VK, self._pairs) & (items_VK >= 0)
            judged = Judged(items_VK, hits_VK, self._num_held_V)
            self._values[exponents] = float((recall(judged, _K) + ndcg(judged, _K)).mean())
        return self._values[exponents]


def _moved(settings: config.Model, key: str, share: float) -> Iterator[config.Model]:
    """The settings with `key` a step up, and a step down, within its limits."""
    low, high = _LIMITS[key]
    for step in (share * _STEPS[key], -share * _STEPS[key]):
        value = round(min(high, max(low, getattr(settings, key) + step)), 4)
        if value != getattr(settings, key):
            yield settings.model_copy(update={key: value})
