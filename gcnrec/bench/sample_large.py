"""Bench `sample-large`: bench `sample` on 10 million nodes and 200 million edges, where every access misses the caches.

The graph is built as CSR straight away; with the peers' 64-bit copy of it, the bench takes 6 GB.
Letters: U users, I items, E edges.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np

from gcnrec.bench.harness import Row
from gcnrec.bench.sample import rows_on
from gcnrec.graph import BipartiteGraph, Csr, transpose
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
    closed = np.concatenate([[0], np.cumsum(kept_U)])
    _close_up(indptr, closed, indices)
    user_items = Csr(closed, indices[: closed[-1]], num_items)
    return BipartiteGraph(user_items, transpose(user_items))


@numba.njit(parallel=True, cache=True)
def _draw_rows(indptr, num_items, indices, kept_U):  # type: ignore[no-untyped-def]
    """Write ascending distinct items at the beginning of each row's room, and their numbers."""
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
