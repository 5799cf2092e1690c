"""Neighbours from before a moment: the edges of each node in the order of time, and uniform draws from their beginning.

A *date* is the place of a time among all different times of the edges, the oldest first: int32. Before date t lie the edges of
smaller dates, so edges of equal time are not before each other. The first n edges of a row in the order of time are found by a
binary search, and Floyd's algorithm draws from 0 .. n-1 (`neighbours.py` has it, with key and words of the counter). The
second word of the counter holds the date as well, so that a node draws anew at another date:

    (node, k // 2 + 32 * (date mod 2**27), step mod 2**32, ...), of kind `DATED`

Letters: T targets, X drawn edges, E edges, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.arrays import frozen
from gcnrec.ops.draws.neighbours import MAX_FANOUT, below, check_fanout
from gcnrec.random import DATED, DrawKey, philox4x32


@dataclass(frozen=True, slots=True)
class DatedCsr:
    """Row r holds `columns_E[indptr[r]:indptr[r+1]]`, int32, with their `dates_E`, int32, ascending; of equal dates by column.

    The `indptr` is that of the Csr with the same edges. Columns and dates take 8 bytes an edge.
    """

    indptr: NDArray[np.int64]
    columns_E: NDArray[np.int32]
    dates_E: NDArray[np.int32]

    def counts(self, rows_T: NDArray[np.int32], dates_T: NDArray[np.int32]) -> NDArray[np.int64]:
        """How many edges each of `rows_T` has before its date, int64 (T)."""
        counts_T = np.empty(len(rows_T), np.int64)
        _counts(frozen(self.indptr), frozen(self.dates_E), frozen(rows_T), frozen(dates_T), counts_T)
        return counts_T

    def draw(
        self, rows_T: NDArray[np.int32], dates_T: NDArray[np.int32], counts_T: NDArray[np.int64], fanout: int, key: DrawKey
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """min(fanout, count) columns of each of `rows_T` from before its date, uniformly and without replacement.

        `counts_T` are those of `counts`. Returns (indptr int64 (T+1), columns int32 (X), ascending within a row). Raises
        UsageError unless 1 <= fanout <= 64.
        """
        check_fanout(fanout)
        indptr_T1 = np.zeros(len(rows_T) + 1, np.int64)
        np.cumsum(np.minimum(counts_T, fanout), out=indptr_T1[1:])
        columns_X = np.empty(int(indptr_T1[-1]), np.int32)
        numbers = key.first_node, fanout, np.uint64(key.seed), *key.words(DATED)
        targets = frozen(rows_T), frozen(dates_T), frozen(counts_T)
        _draw(frozen(self.indptr), frozen(self.columns_E), *targets, indptr_T1, *numbers, columns_X)
        return indptr_T1, columns_X


@dataclass(frozen=True, slots=True)
class DatedGraph:
    """Both directions of a graph in the order of time. `times`, int64, ascending, are the different times of its edges."""

    user_items: DatedCsr
    item_users: DatedCsr
    times: NDArray[np.int64]

    @property
    def num_users(self) -> int:
        return len(self.user_items.indptr) - 1

    @property
    def num_nodes(self) -> int:
        return self.num_users + len(self.item_users.indptr) - 1

    def dates(self, times_X: NDArray[np.int64]) -> NDArray[np.int32]:
        """The dates of any times, int32 (X): before a date lie the edges that are older than its time."""
        return np.searchsorted(self.times, times_X).astype(np.int32)


def dated(graph: BipartiteGraph, times_E: NDArray[np.int64]) -> DatedGraph:
    """The edges of `graph` in the order of their times, which follow `graph.user_items.indices`.

    Keeps 16 bytes an edge and 8 for each different time; holds 40 bytes an edge while it works.
    """
    order_E = np.argsort(times_E, kind="stable")  # equal times stay in the order of users, then of items
    sorted_E = times_E[order_E]
    is_first_E = np.ones(len(sorted_E), np.bool_)
    np.not_equal(sorted_E[1:], sorted_E[:-1], out=is_first_E[1:])
    times = sorted_E[is_first_E]
    del sorted_E
    dates_E = np.cumsum(is_first_E, dtype=np.int32)
    dates_E -= 1
    csr = graph.user_items
    users_E, items_E = csr.row_numbers()[order_E], csr.indices[order_E]
    del order_E
    of_users = _appended(csr, users_E, items_E, dates_E)
    return DatedGraph(of_users, _appended(graph.item_users, items_E, users_E, dates_E), times)


def pair_times(graph: BipartiteGraph) -> NDArray[np.int64]:
    """The times of the edges of `graph`, the earliest of an edge that a refit adds as well, int64.

    In the order of its `user_items.indices`. ValueError where its history has no times.
    """
    history = graph.history
    if history is None or history.times_E is None or not history.times:
        raise ValueError("the history of this graph has no times")
    added = history.added
    if added is None or added.times_E is None:
        return history.times_E
    csr, parts = history.user_items, (history.times_E, added.times_E)
    users_E = np.concatenate([csr.row_numbers(), added.users_E])
    return _earliest(graph.user_items, users_E, np.concatenate([csr.indices, added.items_E]), np.concatenate(parts))


def edge_times(graph: BipartiteGraph) -> NDArray[np.int64]:
    """The earliest time of each edge of `graph.union` in any behaviour, int64, in the order of its `user_items.indices`.

    ValueError where a behaviour has no times.
    """
    parts = [(graph.user_items, pair_times(graph))]
    for other in graph.others:
        if other.earliest_E is None:
            raise ValueError(f"behaviour {other.name!r} has no times")
        parts.append((other.graph.user_items, other.earliest_E))
    if len(parts) == 1:
        return parts[0][1]
    users_E = np.concatenate([csr.row_numbers() for csr, _ in parts])
    items_E = np.concatenate([csr.indices for csr, _ in parts])
    return _earliest(graph.union.user_items, users_E, items_E, np.concatenate([times_E for _, times_E in parts]))


def _earliest(csr: Csr, rows_X: NDArray[np.int32], columns_X: NDArray[np.int32], times_X: NDArray[np.int64]) -> NDArray[np.int64]:
    """The earliest of the times of each entry of `csr`, all of which occur among (row, column)."""
    times_E = np.full(csr.num_edges, np.iinfo(np.int64).max)
    np.minimum.at(times_E, csr.positions(rows_X, columns_X), times_X)
    return times_E


def _appended(csr: Csr, rows_E: NDArray[np.int32], columns_E: NDArray[np.int32], dates_E: NDArray[np.int32]) -> DatedCsr:
    """The rows of `csr` from its edges in the order of time."""
    found = DatedCsr(csr.indptr, np.empty(len(rows_E), np.int32), np.empty(len(rows_E), np.int32))
    _append(rows_E, columns_E, dates_E, np.array(csr.indptr), found.columns_E, found.dates_E)  # copy: places move on
    return found


@numba.njit(cache=True)
def _append(rows_E, columns_E, dates_E, places_R, out_columns_E, out_dates_E):  # type: ignore[no-untyped-def]
    for edge in range(len(rows_E)):
        place = places_R[rows_E[edge]]
        out_columns_E[place], out_dates_E[place] = columns_E[edge], dates_E[edge]
        places_R[rows_E[edge]] = place + 1


@numba.njit(cache=True, nogil=True)
def _counts(indptr, dates_E, rows_T, dates_T, counts_T):  # type: ignore[no-untyped-def]
    for t in range(len(rows_T)):
        first, last = indptr[rows_T[t]], indptr[rows_T[t] + 1]
        low, high = first, last
        while low < high:
            middle = (low + high) // 2
            if dates_E[middle] < dates_T[t]:
                low = middle + 1
            else:
                high = middle
        counts_T[t] = low - first


@numba.njit(cache=True, nogil=True)
def _draw(  # type: ignore[no-untyped-def]
    indptr, columns_E, rows_T, dates_T, counts_T, indptr_T1, first_node, fanout, seed, low, last, out_X
):
    k0, k1 = np.uint32(seed & np.uint64(0xFFFFFFFF)), np.uint32(seed >> np.uint64(32))
    chosen = np.empty(MAX_FANOUT, np.int64)
    for t in range(len(rows_T)):
        count, drawn, start = counts_T[t], min(counts_T[t], fanout), indptr[rows_T[t]]
        if count > fanout:
            _choose(np.uint32(first_node + rows_T[t]), dates_T[t], count, fanout, (low, last, k0, k1), chosen)
        out = out_X[indptr_T1[t] : indptr_T1[t + 1]]
        for k in range(drawn):  # an insertion sort, as they are few
            column = columns_E[start + (chosen[k] if count > fanout else k)]
            at = k
            while at > 0 and out[at - 1] > column:
                out[at] = out[at - 1]
                at -= 1
            out[at] = column


@numba.njit(inline="always")
def _choose(node, date, count, fanout, words, chosen):  # type: ignore[no-untyped-def]
    """Floyd's sample of `fanout` of 0 .. count-1."""
    low, last, k0, k1 = words
    for k in range(fanout):
        if k % 2 == 0:
            a, b, c, d = philox4x32(node, np.uint32(k // 2 + 32 * (date & 0x7FFFFFF)), low, last, k0, k1)
        top = count - fanout + k
        place = below(a, b, top + 1) if k % 2 == 0 else below(c, d, top + 1)
        for earlier in range(k):
            if chosen[earlier] == place:
                place = top
                break
        chosen[k] = place
