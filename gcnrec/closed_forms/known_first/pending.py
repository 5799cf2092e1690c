"""The baseline of shops: what a user met by another behaviour and has not taken yet, the newest first, then popular items.

The n-th newest of such items scores 1 / n. Where no behaviour has times, all of them score alike, the popular ones slightly more.
Every other item scores by its popularity, far below.

Letters: I items, E pairs that are pending, M pairs met by other behaviours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import config
from gcnrec.closed_forms.known_first.scorer import KnownFirstScorer
from gcnrec.errors import DataError
from gcnrec.graph import Behaviour, BipartiteGraph, Csr, csr_from_edges, merged
from gcnrec.ops.topk import ItemLists, contained

_BELOW = 1e-9
"""What all items that are not pending share, by popularity: less than any that is."""
_POPULAR = 1e-3
"""What popularity adds at most to a score of 1, where no times are known."""
_UNKNOWN = np.iinfo(np.int64).min


def require_others(has_others: bool) -> None:
    """DataError for data with a single behaviour."""
    if not has_others:
        raise DataError(
            "pending lists what users met by other behaviours, and the data has none; ingest with --behaviour and --target"
        )


def fit(graph: BipartiteGraph, settings: config.Model, seed: int) -> KnownFirstScorer:
    """Order each user's items of `graph.others` that `graph` itself lacks; nothing is set or drawn.

    Raises DataError for a graph of one behaviour.
    """
    require_others(bool(graph.others))
    degrees_I = graph.item_users.degrees
    met = merged([other.graph.user_items for other in graph.others])
    users_M = met.row_numbers()
    taken_M = contained(met.indices[:, None], ItemLists(graph.user_items, users_M))[:, 0]
    times_M = _newest(met, graph.others)
    users_E, items_E = users_M[~taken_M], met.indices[~taken_M]
    pending = csr_from_edges(users_E, items_E, graph.num_users, graph.num_items)
    popularity_I = degrees_I / max(int(degrees_I.max(initial=0)), 1)
    if times_M is None:
        values_E = 1.0 + _POPULAR * popularity_I[items_E]
    else:
        values_E = 1.0 / _places(pending, times_M[~taken_M], degrees_I[items_E])
    shares_I = _BELOW * degrees_I / max(int(degrees_I.sum()), 1)
    return KnownFirstScorer(graph, pending, values_E.astype(np.float32), torch.from_numpy(shares_I.astype(np.float32)))


def _newest(met: Csr, others: tuple[Behaviour, ...]) -> NDArray[np.int64] | None:
    """The last time of every pair of `met`, in its order; None where no behaviour has times."""
    if all(other.times_E is None for other in others):
        return None
    newest_M = np.full(met.num_edges, _UNKNOWN, np.int64)
    for other in others:
        if other.times_E is not None:
            own = other.graph.user_items
            places_E = met.positions(own.row_numbers(), own.indices)
            newest_M[places_E] = np.maximum(newest_M[places_E], other.times_E)
    return newest_M


def _places(pending: Csr, times_E: NDArray[np.int64], degrees_E: NDArray[np.int64]) -> NDArray[np.int64]:
    """From 1, the place of every pair in its user's row, the newest first; of equal times the more popular item."""
    users_E = pending.row_numbers()
    order_E = np.lexsort((pending.indices, -degrees_E, -times_E, users_E))
    places_E = np.empty(pending.num_edges, np.int64)
    places_E[order_E] = np.arange(pending.num_edges) - np.repeat(pending.indptr[:-1], pending.degrees) + 1
    return places_E
