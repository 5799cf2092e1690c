"""Draws in proportion to weights, in constant time (Walker 1977; Vose 1991, "A linear algorithm for generating random numbers
with a given distribution"), with integer tables: every device that holds a table draws the same numbers.

n numbers have n columns of 2**32 units. A number's share of the n * 2**32 units is a whole number of them; its own column
holds at most 2**32, and columns with room are filled up from full ones. Column c then belongs to c below
`thresholds[c]` and to `others[c]` from there on. A draw is one Philox4x32 call (a, b, c, d): the column is the high 64 bits
of (a * 2**32 + b) * n, and word c decides against the threshold; d is not used.

Weighted neighbours, with replacement: draw k of a target is the call with the counter of gcnrec.ops.draws.neighbours,
(node, k, step mod 2**32, ...), of kind `WEIGHTED`.
Letters: I numbers, E edges, T targets, X drawn edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import Csr
from gcnrec.ops.arrays import frozen
from gcnrec.ops.draws.neighbours import below, check_fanout
from gcnrec.random import WEIGHTED, DrawKey, philox4x32

_FULL = 1 << 32


@dataclass(frozen=True, slots=True)
class AliasTable:
    """`thresholds_I` uint32 and `others_I` int32: one distribution, or (`alias_rows`) one for each row of a CSR."""

    thresholds_I: NDArray[np.uint32]
    others_I: NDArray[np.int32]


def alias_table(weights_I: NDArray[np.floating]) -> AliasTable:
    """The table of numbers 0 .. I-1 drawn in proportion to `weights_I`, each to within 2**-32 of 1/I; weight 0 is never drawn.

    Raises DataError unless weights are finite, at least 0, and one of them above 0.
    """
    return _tables(np.array([0, len(weights_I)]), weights_I)


def alias_rows(csr: Csr, weights_E: NDArray[np.floating]) -> AliasTable:
    """A table for each row of `csr`, over its edges; `others_I` holds positions within the row.

    Raises DataError unless weights are finite, at least 0, and one of every row that has edges above 0.
    """
    return _tables(frozen(csr.indptr), weights_E)


def sample_weighted(
    csr: Csr, tables: AliasTable, rows_T: NDArray[np.int32], fanout: int, key: DrawKey
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """`fanout` columns of each of `rows_T` that has any, with replacement, by `tables` (from `alias_rows`).

    Returns (indptr int64 (T+1), indices int32 (X)): ascending within a row, repeated as often as drawn.
    Raises UsageError unless 1 <= fanout <= 64.
    """
    indptr_T1, edges_X = weighted_edges(csr, tables, rows_T, fanout, key)
    return indptr_T1, frozen(csr.indices)[edges_X]


def weighted_edges(
    csr: Csr, tables: AliasTable, rows_T: NDArray[np.int32], fanout: int, key: DrawKey
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`sample_weighted` with the places of the drawn edges in `csr.indices`, int64 (X), instead of their columns."""
    check_fanout(fanout)
    indptr_T1 = np.zeros(len(rows_T) + 1, np.int64)
    np.cumsum(fanout * (csr.indptr[rows_T.astype(np.int64) + 1] > csr.indptr[rows_T]), out=indptr_T1[1:])
    edges_X = np.empty(int(indptr_T1[-1]), np.int64)
    numbers = key.first_node, np.uint64(key.seed), *key.words(WEIGHTED)
    _weighted_edges(frozen(csr.indptr), tables.thresholds_I, tables.others_I, frozen(rows_T), *numbers, indptr_T1, edges_X)
    return indptr_T1, edges_X


@numba.njit(inline="always")
def draw(thresholds, others, first, count, c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """A number in 0 .. count-1 by the table at first .. first+count-1; c0 .. c3 and k0, k1: Philox counter and key."""
    high, low, word, _ = philox4x32(c0, c1, c2, c3, k0, k1)
    column = below(high, low, count)
    return column if word < thresholds[first + column] else np.int64(others[first + column])


def _tables(indptr: NDArray[np.int64], weights_E: NDArray[np.floating]) -> AliasTable:
    weights = np.ascontiguousarray(weights_E, np.float64)
    table = AliasTable(np.empty(len(weights), np.uint32), np.empty(len(weights), np.int32))
    row = _build(indptr, weights, table.thresholds_I, table.others_I)
    if row >= 0:
        raise DataError(
            f"weights must be finite, at least 0 and not all 0 to draw by them, but the weights of row {row} are not; "
            "correct the weights or draw uniformly"
        )
    return table


@numba.njit(cache=True)
def _build(indptr, weights, thresholds, others):  # type: ignore[no-untyped-def]
    """Fills the table of every row; returns the first row whose weights cannot be drawn by, -1 without one."""
    for row in range(len(indptr) - 1):
        first, last = indptr[row], indptr[row + 1]
        if first < last:
            shares = _shares(weights[first:last])
            if len(shares) == 0:
                return row
            _fill(shares, thresholds[first:last], others[first:last])
    return -1


@numba.njit(cache=True)
def _shares(weights):  # type: ignore[no-untyped-def]
    """Each number's units, int64, n * 2**32 in all: differences of the rounded running sum. Empty when weights are bad."""
    total, heaviest = 0.0, 0
    for number in range(len(weights)):
        if not 0.0 <= weights[number] < np.inf:
            return np.empty(0, np.int64)
        total += weights[number]
        if weights[number] > weights[heaviest]:
            heaviest = number
    if not 0.0 < total < np.inf:
        return np.empty(0, np.int64)
    units = len(weights) * _FULL
    shares = np.empty(len(weights), np.int64)
    passed, before = 0.0, 0
    for number in range(len(weights)):
        passed += weights[number]
        end = min(int(passed / total * units), units)
        shares[number] = end - before
        before = end
    shares[heaviest] += units - before
    return shares


@numba.njit(cache=True)
def _fill(shares, thresholds, others):  # type: ignore[no-untyped-def]
    """Vose's table by two sweeps (Hübschle-Schneider & Sanders 2019): `giver` has 2**32 units or more, `taker` fewer.

    A giver that has given too much takes from the next. All is exact: the units of all columns are theirs together.
    """
    count = len(shares)
    giver = _next(shares, -1, True)
    taker = _next(shares, -1, False)
    left = shares[giver]
    while giver < count:
        if left < _FULL:
            column, giver = giver, _next(shares, giver, True)
            thresholds[column], others[column] = left, giver
            left = shares[giver] - (_FULL - left)
        elif taker < count:
            thresholds[taker], others[taker] = shares[taker], giver
            left -= _FULL - shares[taker]
            taker = _next(shares, taker, False)
        else:  # exactly full: it is its own other number, so that the threshold does not matter
            thresholds[giver], others[giver] = _FULL - 1, giver
            giver = _next(shares, giver, True)
            left = shares[giver] if giver < count else 0


@numba.njit(cache=True)
def _next(shares, after, giving):  # type: ignore[no-untyped-def]
    """The first column beyond `after` with (or, not `giving`, without) 2**32 units; the number of columns without one."""
    after += 1
    while after < len(shares) and (shares[after] >= _FULL) != giving:
        after += 1
    return after


@numba.njit(parallel=True, cache=True)
def _weighted_edges(  # type: ignore[no-untyped-def]
    indptr, thresholds, others, rows_T, first_node, seed, low, last, indptr_T1, edges_X
):
    k0, k1 = np.uint32(seed & np.uint64(0xFFFFFFFF)), np.uint32(seed >> np.uint64(32))
    for t in numba.prange(len(rows_T)):
        row = rows_T[t]
        first, degree = indptr[row], indptr[row + 1] - indptr[row]
        drawn = edges_X[indptr_T1[t] : indptr_T1[t + 1]]
        for k in range(len(drawn)):
            node, number = np.uint32(first_node + row), np.uint32(k)
            drawn[k] = first + draw(thresholds, others, first, degree, node, number, low, last, k0, k1)
        drawn.sort()
