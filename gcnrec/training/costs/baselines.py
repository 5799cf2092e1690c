"""Seconds and bytes that a closed-form baseline takes, predicted from sizes before the fit.

Rates are of one core of an AMD EPYC (Zen 4), fitted to five data sets from 1,659 to 40,981 items; within a factor of two there.
Letters: U users, I items, E train edges, B ranked users, K singular vectors, S columns of a Krylov basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec import config
from gcnrec.closed_forms import itemknn, linkprop
from gcnrec.graph import BipartiteGraph

_PAIR = 1e-8
"""Seconds to count a pair of items that a user has."""
_NEIGHBOUR = 9e-8
"""Seconds to weigh two items that share a user, with its share of the selection of a row's neighbours ..."""
_LINK = 4e-8
"""... and the same of linkprop."""
_ENTRY = 1e-8
"""A neighbour of an item of a user, added to the score of any item."""
_SCORE = 1.3e-9
"""A score of a user and an item that passes the top-k."""
_PRODUCT = 7e-11
"""A multiplication and an addition of a matrix product."""
_HOP = 4e-10
"""The same for an edge of the graph and a column."""
_BASIS = 1.5e-10
"""A node, a column and another of a Krylov basis."""
_INVERSE = 4e-11
"""An item, another and a third of ease's matrix."""
_MET = 4e-7
"""An edge of other behaviours that `pending` sorts."""
_TAKEN = 1e-7
"""An edge that `repeat` scores."""
_KNOWN_BYTES = 80
"""Of an edge, while `pending` sorts, or `repeat` finds the edges of rows that a refit adds."""
_KNOWN_FIRST = ("pending", "repeat")
_OVERHEAD = 0.05
_MOST_THREADS = 8
"""Threads beyond these speed nothing up by much: memory is what they wait for."""


@dataclass(frozen=True, slots=True)
class Load:
    """What costs depend on: sizes of the graph, `pairs` (sum of squared user degrees), B and the edges of these users."""

    users: int
    items: int
    edges: int
    pairs: float
    ranked: int
    ranked_edges: int

    @classmethod
    def of(cls, graph: BipartiteGraph, users_B: NDArray[np.integer]) -> Load:
        degrees = graph.user_items.degrees.astype(np.float64)
        edges = int(degrees[users_B].sum())
        return cls(graph.num_users, graph.num_items, graph.num_edges, float(degrees @ degrees), len(users_B), edges)


def seconds_of(name: str, load: Load, settings: config.Model) -> float:
    """Seconds to fit the baseline `name` and rank for B users on numba's threads; compilation is not in it."""
    work = _fit_work(name, load, settings) + _score_work(name, load, settings) + _SCORE * load.ranked * load.items
    return _OVERHEAD + work / min(numba.get_num_threads(), _MOST_THREADS)


def bytes_of(name: str, load: Load, settings: config.Model) -> int:
    """Bytes that fitting the baseline `name` holds at most, without the graph; bytes of ranking depend on the chunk of users."""
    if name == "ease":
        return 12 * load.items**2
    if name == "popularity":
        return 4 * load.items
    if name in _KNOWN_FIRST:
        return _KNOWN_BYTES * load.edges
    rows = 8 * load.items * _neighbours(name, load, settings)
    if name != "gfcf" or settings.response == "polynomial":
        return rows
    near, far = sorted((load.users, load.items))
    rank = min(settings.factors, near)
    columns = _columns(rank, near)
    return 4 * (near * (columns + 2 * rank) + 2 * far * rank) + 8 * columns**2 + (rows if settings.response == "plateau" else 0)


def _fit_work(name: str, load: Load, settings: config.Model) -> float:
    """Seconds of one core to fit."""
    linked = min(load.pairs, load.items**2)
    if name == "popularity":
        return 0.0
    if name in _KNOWN_FIRST:
        return (_MET if name == "pending" else _TAKEN) * load.edges
    if name == "ease":
        return _INVERSE * load.items**3 + _PAIR * load.pairs
    if name == "gfcf":
        near = min(load.users, load.items)
        columns = _columns(min(settings.factors, near), near)
        rows = _PAIR * load.pairs + _LINK * linked if settings.response == "plateau" else 0.0
        spectrum = _BASIS * columns**2 * (near + columns) + 2 * _HOP * load.edges * columns
        return rows + (0.0 if settings.response == "polynomial" else spectrum)
    return _PAIR * load.pairs + (_LINK if name == "linkprop" else _NEIGHBOUR) * linked


def _score_work(name: str, load: Load, settings: config.Model) -> float:
    """Seconds of one core to score all items for B users."""
    entries = load.ranked_edges * _neighbours(name, load, settings)
    if name in ("popularity", *_KNOWN_FIRST):
        return 0.0
    if name == "ease":
        return _SCORE / 4 * load.ranked_edges * load.items
    if name == "gfcf":
        hop = 2 * _HOP * load.edges * load.ranked
        if settings.response == "polynomial":
            return hop * settings.filter_order
        vectors = _PRODUCT * load.ranked * min(settings.factors, load.users, load.items) * load.items
        return vectors + (_ENTRY * entries if settings.response == "plateau" else hop)
    return _ENTRY * entries


def _neighbours(name: str, load: Load, settings: config.Model) -> int:
    default = itemknn.NEIGHBOURS if name in ("itemknn", "contentknn", "targetknn") else linkprop.NEIGHBOURS
    return min(settings.neighbours or default, load.items)


def _columns(rank: int, near: int) -> int:
    """Columns of the basis that `gcnrec.models.spectral.top_singular` makes."""
    return min(4 * (rank + 16), near + rank)
