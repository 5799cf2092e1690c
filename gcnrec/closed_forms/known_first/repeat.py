"""The baseline of shops where people buy again: what a user took most and lately, then popular items.

    score(u, i) = sum over u's interactions e with i of w_e 2^(-age_e / model.repeat_days)

w_e is the weight that the dataset has for the pair, such as its count of rows with `duplicates = "sum"`, and 1 without weights.
age_e: days before the newest interaction of all; 0 where times are not known. A user's equal scores go to the more popular item.
This is the personal top frequency of next-basket recommendation, with the global one behind it (GP-TopFreq: Li et al., "A next
basket recommendation reality check", TOIS 2023), decayed by age.

A dataset keeps one time for each pair, the newest, and a refit adds that of validation. So intervals between purchases are not
known, and nothing says when an item is due again: a purchase of today comes before a purchase of last month.

Letters: I items, E edges of the graph, A rows that a refit adds, X either.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import config
from gcnrec.closed_forms.known_first.scorer import KnownFirstScorer
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph, Csr, History
from gcnrec.ranking.popularity import recency

_BELOW = 1e-20
"""What all items that a user has not taken share, by popularity."""
_LEAST = 1e-18
"""The least score of an item that a user has taken: interactions 60 half-lives old are alike."""
_LONG_AGO = np.iinfo(np.int64).min


def require_repeats(seen: str) -> None:
    """UsageError where lists leave out what a user has taken; `seen`: the rule of `evaluate.seen` that holds."""
    if seen != "none":
        raise UsageError(
            f"repeat lists what users have taken before, and evaluate.seen = '{seen}' leaves that out of lists; ingest with "
            "--repeats keep, and leave evaluate.seen out"
        )


def fit(graph: BipartiteGraph, settings: config.Model, seed: int) -> KnownFirstScorer:
    """Score each user's items by `graph.history`, all alike where the graph has none; nothing is drawn."""
    own, history = graph.user_items, graph.history or History(graph.user_items)
    values_E = np.maximum(_summed(own, history, settings.repeat_days), _LEAST)
    degrees_I = graph.item_users.degrees
    shares_I = _BELOW * degrees_I / max(int(degrees_I.sum()), 1)
    return KnownFirstScorer(graph, own, values_E.astype(np.float32), torch.from_numpy(shares_I.astype(np.float32)))


def _summed(own: Csr, history: History, days: float) -> NDArray[np.float64]:
    """The scores of the edges `own`, which are those of the history and its added rows: float64 (E)."""
    newest = max((int(times.max(initial=_LONG_AGO)) for times in history.times), default=0)
    before, added = history.user_items, history.added
    values_E = _decayed(before.num_edges, history.times_E, history.weights_E, newest, days)
    if added is None:
        return values_E
    sums_E = np.zeros(own.num_edges)
    sums_E[own.positions(before.row_numbers(), before.indices)] = values_E
    values_A = _decayed(len(added.users_E), added.times_E, added.weights_E, newest, days)
    np.add.at(sums_E, own.positions(added.users_E, added.items_E), values_A)
    return sums_E


def _decayed(
    count: int, times_X: NDArray[np.int64] | None, weights_X: NDArray[np.float32] | None, newest: int, days: float
) -> NDArray[np.float64]:
    """Weights of `count` interactions, decayed by age where times are known: float64 (X)."""
    values_X = np.ones(count) if weights_X is None else weights_X.astype(np.float64)
    return values_X if times_X is None else values_X * recency(times_X, newest, days)
