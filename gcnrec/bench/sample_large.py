"""Bench `sample-large`: bench `sample` on 10 million nodes and 200 million edges, where every access misses the caches.

The graph is built as CSR straight away, in half a minute on two cores and 2.3 GB; with the peers' 64-bit copy of it, the bench
takes 6 GB.
Letters: U users, I items, E edges.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.bench.harness import Row
from gcnrec.bench.sample import rows_on
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.random import Stage, philox4x32

LARGE = (8_000_000, 2_000_000, 200_000_000)
"""Users, items and edges, at least."""
_BATCHES = 24
"""Batches in one repetition: together they read several times what a last-level cache holds."""


def run(threads: int | None = None, runs: int = 5, size: tuple[int, int, int] = LARGE) -> Iterator[Row]:
    """Rows of all variants and the closing row; units are drawn edges. `size` is that of `power_law`."""
    yield from rows_on(power_law(*size), "sample-large", _BATCHES, threads, runs)


def power_law(num_users: int, num_items: int, num_edges: int) -> BipartiteGraph:
    """At least `num_edges` edges and about 1 % more; density falls as number^-1/3 of users and ^-0.4 of items."""
    wanted_U = np.arange(1, num_users + 1) ** (-1 / 3)
    wanted_U *= 1.02 * num_edges / wanted_U.sum()
    drawn_U = np.clip(np.rint(wanted_U), 1, num_items // 4).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(drawn_U)])
    indices = np.empty(indptr[-1], np.int32)
    kept_U = np.empty(num_users, np.int64)
    _draw_rows(indptr, num_items, indices, kept_U)
    user_items = _closed_up(indptr, indices, kept_U, num_items)
    return BipartiteGraph(user_items, _transposed(user_items))


def _closed_up(indptr: NDArray[np.int64], indices: NDArray[np.int32], kept_U: NDArray[np.int64], num_items: int) -> Csr:
    closed = np.concatenate([[0], np.cumsum(kept_U)])
    _close_up(indptr, closed, indices)
    return Csr(closed, indices[: closed[-1]], num_items)


def _transposed(csr: Csr) -> Csr:
    """As graph.transpose, without the row number of every edge: half the memory."""
    indptr = np.zeros(csr.columns + 1, np.int64)
    indices = np.empty(csr.num_edges, np.int32)
    _transpose(csr.indptr, csr.indices, indptr, indices)
    return Csr(indptr, indices, csr.rows)


@numba.njit(parallel=True, cache=True)
def _draw_rows(indptr, num_items, indices, kept_U):  # type: ignore[no-untyped-def]
    """Ascending distinct items at the beginning of each row's room, and how many they are."""
    zero, stage = np.uint32(0), np.uint32(Stage.SYNTHETIC)
    for user in numba.prange(len(kept_U)):
        row = indices[indptr[user] : indptr[user + 1]]
        for k in range(len(row)):
            draw = philox4x32(np.uint32(user), np.uint32(k), zero, stage, zero, zero)[0]
            row[k] = np.int32(num_items * (draw * 2.0**-32) ** 1.65)
        row.sort()
        kept = 1
        for k in range(1, len(row)):
            if row[k] != row[kept - 1]:
                row[kept] = row[k]
                kept += 1
        kept_U[user] = kept


@numba.njit(cache=True)
def _close_up(indptr, closed, indices):  # type: ignore[no-untyped-def]
    for user in range(len(indptr) - 1):
        for k in range(closed[user + 1] - closed[user]):
            indices[closed[user] + k] = indices[indptr[user] + k]


@numba.njit(cache=True)
def _transpose(indptr, indices, out_indptr, out_indices):  # type: ignore[no-untyped-def]
    for item in indices:
        out_indptr[item + 1] += 1
    for item in range(len(out_indptr) - 1):
        out_indptr[item + 1] += out_indptr[item]
    place = out_indptr[:-1].copy()
    for user in range(len(indptr) - 1):
        for edge in range(indptr[user], indptr[user + 1]):
            item = indices[edge]
            out_indices[place[item]] = user
            place[item] += 1
