"""Rows of weighted items: for every item the items that it speaks for, in compressed sparse rows of bounded size.

A score of user u is the sum of the rows of its items. Rows are built an item at a time, so that no array of items x items exists.

Letters: U users, I items, E entries of all rows, B users of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.ops.arrays import frozen

LONGEST = 2048
"""Items of a user that meet one another. A user with more counts as several users, each with every n-th of its items, so that
an interaction costs at most so many additions."""
_LEAST = 4
"""Entries that a row gets at least, where it has them and all rows together may have them."""


@dataclass(frozen=True)
class Exponents:
    """Of the degrees of the item that speaks, of the item spoken for and of the users between them, and of the product."""

    source: float
    target: float
    user: float
    sharpness: float


@dataclass(frozen=True)
class ItemRows:
    """Row j holds `values_E` float32 for the items `indices_E` int32, ascending, from `indptr` int64 (I + 1) [j] to [j + 1]."""

    indptr: torch.Tensor
    indices_E: torch.Tensor
    values_E: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"indptr": self.indptr, "indices": self.indices_E, "values": self.values_E}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> ItemRows:
        return cls(tensors["indptr"], tensors["indices"], tensors["values"])


def degree_powers(degrees: NDArray[np.integer], exponent: float) -> NDArray[np.float64]:
    """degree ** exponent, 0 where the degree is 0."""
    powers = np.zeros(len(degrees), np.float64)
    np.power(degrees, exponent, out=powers, where=np.asarray(degrees) > 0, dtype=np.float64)
    return powers


def linked_items(graph: BipartiteGraph, exponents: Exponents, neighbours: int) -> ItemRows:
    """Row j, item i: (w_ji d_j^-source d_i^-target)^sharpness, where w_ji is the sum of d_u^-user over the users of both, i != j.

    The rows keep their largest values, ties to the smaller item number: `row_sizes` of them, I * neighbours at most in all.
    The time is that of two sums over users of min(d_u, LONGEST) * d_u; scratch: two vectors of I per thread.
    """
    a, b = graph.item_users, graph.user_items
    shares = numba.get_num_threads()
    links = frozen(a.indptr), frozen(a.indices), frozen(b.indptr), frozen(b.indices)
    found_I = np.zeros(a.rows, np.int64)
    _count(*links, found_I, shares)
    indptr = np.zeros(a.rows + 1, np.int64)
    np.cumsum(row_sizes(a.degrees, found_I, a.rows * neighbours), out=indptr[1:])
    indices_E, values_E = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    source_I, target_I = degree_powers(a.degrees, -exponents.source), degree_powers(a.degrees, -exponents.target)
    _fill(*links, source_I, target_I, exponents.user, exponents.sharpness, indptr, indices_E, values_E, shares)
    return ItemRows(torch.from_numpy(indptr), torch.from_numpy(indices_E), torch.from_numpy(values_E))


def row_sizes(degrees_I: NDArray[np.int64], found_I: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Entries kept of each row, int64 (I): the same multiple of the root of its degree, no more than the `found_I` it has.

    What short rows leave over raises the multiple for the others. The sum is at most `total` and falls short of it by the
    rounding of rows to whole entries.
    """
    if int(found_I.sum()) <= total:
        return found_I
    roots_I = np.sqrt(degrees_I, dtype=np.float64)
    least = min(_LEAST, total // len(found_I))

    def sizes(multiple: float) -> NDArray[np.int64]:
        return np.minimum(found_I, np.maximum(least, np.floor(multiple * roots_I)).astype(np.int64))

    low, high = 0.0, float(total)  # the multiple lies between: any row of degree 1 or more would take all entries at `high`
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if int(sizes(middle).sum()) <= total else (low, middle)
    return sizes(low)


def add_rows(csr: Csr, rows: ItemRows, users_B: NDArray[np.int32], out_BI: NDArray[np.float32]) -> None:
    """out[b, i] += the values for item i in the rows of the items of user b.

    The values are summed in ascending order of the user's items, in float32, each user on one thread; scratch: a vector of I a
    thread.
    """
    _add_rows(
        frozen(csr.indptr), frozen(csr.indices), frozen(users_B), frozen(rows.indptr.numpy()), frozen(rows.indices_E.numpy()),
        frozen(rows.values_E.numpy()), out_BI, numba.get_num_threads(),
    )  # fmt: skip


@numba.njit(inline="always")
def _part(items, item):  # type: ignore[no-untyped-def]
    """The part of a user's ascending `items` that meets `item`: all, or of a long history every n-th."""
    parts = -(-len(items) // LONGEST)
    return items if parts == 1 else items[np.searchsorted(items, item) % parts :: parts]


@numba.njit(parallel=True, cache=True, nogil=True)
def _count(item_ptr, item_users, user_ptr, user_items, found, shares):  # type: ignore[no-untyped-def]
    """Other items that share a user with each item."""
    items = len(found)
    for share in numba.prange(shares):
        met = np.full(items, -1, np.int32)
        for item in range(share, items, shares):  # by turns: popular items stand together and cost the most
            met[item] = item
            for user in item_users[item_ptr[item] : item_ptr[item + 1]]:
                for other in _part(user_items[user_ptr[user] : user_ptr[user + 1]], item):
                    if met[other] != item:
                        met[other] = item
                        found[item] += 1


@numba.njit(parallel=True, cache=True, nogil=True)
def _fill(  # type: ignore[no-untyped-def]
    item_ptr, item_users, user_ptr, user_items, source, target, user_power, sharpness, indptr, indices, values, shares
):
    items = len(source)
    for share in numba.prange(shares):
        weights = np.zeros(items, np.float64)
        touched = np.empty(items, np.int32)
        for item in range(share, items, shares):
            count = 0
            for user in item_users[item_ptr[item] : item_ptr[item + 1]]:
                part = _part(user_items[user_ptr[user] : user_ptr[user + 1]], item)
                weight = float(len(part)) ** -user_power
                for other in part:
                    if weights[other] == 0.0 and other != item:
                        touched[count] = other
                        count += 1
                    weights[other] += weight
            weights[item] = 0.0
            place = slice(indptr[item], indptr[item + 1])
            _keep_largest(touched[:count], weights, target, indices[place])
            for at in range(indptr[item], indptr[item + 1]):
                other = indices[at]
                values[at] = (weights[other] * source[item] * target[other]) ** sharpness
            weights[touched[:count]] = 0.0


@numba.njit(cache=True)
def _keep_largest(touched, weights, target, kept):  # type: ignore[no-untyped-def]
    """Fill `kept` with the items of `touched` of largest weight * target (compared in float32), in ascending order."""
    if len(kept) < len(touched):
        keys = np.empty(len(touched), np.float32)
        for at in range(len(touched)):
            keys[at] = weights[touched[at]] * target[touched[at]]
        bar = np.partition(keys, len(keys) - len(kept))[len(keys) - len(kept)] if len(kept) else np.float32(np.inf)
        ties = np.sort(touched[keys == bar])
        count = 0
        for at in range(len(touched)):
            if keys[at] > bar:
                kept[count] = touched[at]
                count += 1
        kept[count:] = ties[: len(kept) - count]
    else:
        kept[:] = touched
    kept.sort()


@numba.njit(parallel=True, cache=True, nogil=True)
def _add_rows(indptr, indices, users, row_ptr, row_items, row_values, out, shares):  # type: ignore[no-untyped-def]
    for share in numba.prange(shares):
        sums = np.empty(out.shape[1], np.float32)  # stays in the cache, where a row of `out` would be fetched add by add
        for b in range(share, len(users), shares):  # by turns: long histories may stand together
            _sum_rows(indices[indptr[users[b]] : indptr[users[b] + 1]], row_ptr, row_items, row_values, sums)
            out[b] += sums


@numba.njit(cache=True, nogil=True)
def _sum_rows(items, row_ptr, row_items, row_values, sums):  # type: ignore[no-untyped-def]
    sums[:] = np.float32(0)
    for item in items:
        for at in range(row_ptr[item], row_ptr[item + 1]):
            sums[np.uint32(row_items[at])] += row_values[at]  # unsigned: no check for places before the first
