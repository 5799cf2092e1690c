"""The interaction graph as two compressed sparse rows, one per direction.

Letters: E edges, U users, I items, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import DataError, first_line, reading

_INT64 = np.iinfo(np.int64)
_FEW = 8
"""Rows and columns an edge, above which edges are few."""


@dataclass(frozen=True)
class Csr:
    """Row r holds the columns `indices[indptr[r]:indptr[r+1]]`, ascending and unique.

    `indptr` int64 (R+1), `indices` int32 (E); both may be memory-mapped and are never written.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    columns: int

    @property
    def rows(self) -> int:
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        return len(self.indices)

    @cached_property
    def degrees(self) -> NDArray[np.int64]:
        """Entries per row, int64 (R), which stay in memory."""
        return np.diff(self.indptr)

    def degrees_of(self, rows_B: NDArray[np.integer]) -> NDArray[np.int64]:
        """Entries of some rows, int64 (B): of a mapped graph nothing is kept in memory, where `degrees` takes 8 bytes a row."""
        rows_B = rows_B.astype(np.int64, copy=False)
        return self.indptr[rows_B + 1] - self.indptr[rows_B]

    def row(self, number: int) -> NDArray[np.int32]:
        return self.indices[self.indptr[number] : self.indptr[number + 1]]

    def between(self, first: int, last: int) -> Csr:
        """Rows `first .. last-1` as a matrix of their own; the entries are a view."""
        indptr = self.indptr[first : last + 1]
        begin = int(indptr[0])
        return Csr(indptr - begin if begin else indptr, self.indices[begin : int(indptr[-1])], self.columns)

    def picked(self, rows_B: NDArray[np.integer]) -> Csr:
        """The rows `rows_B` as a matrix of their own, in the order given."""
        lengths_B = self.degrees_of(rows_B)
        ends_B = np.cumsum(lengths_B)
        offsets_E = np.arange(lengths_B.sum()) - np.repeat(ends_B - lengths_B, lengths_B)
        indptr = np.concatenate([np.zeros(1, np.int64), ends_B])
        return Csr(indptr, self.indices[np.repeat(self.indptr[rows_B], lengths_B) + offsets_E], self.columns)

    def kept(self, keep_E: NDArray[np.bool_]) -> Csr:
        """The marked entries, with as many rows and columns."""
        indptr = np.concatenate([[0], np.cumsum(keep_E)])[self.indptr].astype(np.int64)
        return Csr(indptr, self.indices[keep_E], self.columns)

    def row_numbers(self) -> NDArray[np.int32]:
        """The row of every entry, int32 (E)."""
        return np.repeat(np.arange(self.rows, dtype=np.int32), self.degrees)

    def positions(self, rows_X: NDArray[np.integer], columns_X: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where in `indices` the entries (row, column) stand, int64 (X), all of which the matrix has."""
        keys = self.row_numbers().astype(np.int64) * self.columns + self.indices
        return np.searchsorted(keys, rows_X.astype(np.int64) * self.columns + columns_X)

    def check(self, name: str, remedy: str = "the dataset folder is damaged, ingest again") -> None:
        """Raise DataError, with the `remedy`, unless the arrays form a CSR with ascending, unique columns in range."""
        if len(self.indptr) == 0 or self.indptr[0] != 0 or not _rises(self.indptr, len(self.indices)):
            raise DataError(f"{name}: indptr must rise from 0 to {len(self.indices)}; {remedy}")
        if not _columns_ok(self.indptr, self.indices, self.columns):
            raise DataError(f"{name}: columns must ascend within 0 .. {self.columns - 1}; {remedy}")


@dataclass(frozen=True)
class BipartiteGraph:
    """What users read, `user_items` (U rows, I columns), and what items read, `item_users` (I rows, U columns).

    The graph of a dataset has the same edges in both directions. A graph with nodes folded in does not: new users read items
    that do not read them (`gcnrec.results.fold_in`). Raises DataError where the sizes differ.

    Of data with several behaviours, a graph has the edges of the one to predict, and `others` are the rest. Models read `union`.
    The graph of a dataset has a `history`: what is known of its edges.
    """

    user_items: Csr
    item_users: Csr
    others: tuple[Behaviour, ...] = ()
    history: History | None = None

    def __post_init__(self) -> None:
        a, b = self.user_items, self.item_users
        self._check((a.rows, a.columns) == (b.columns, b.rows))

    @cached_property
    def union(self) -> BipartiteGraph:
        """The edges of all behaviours, each once; this very graph where there is only one."""
        if not self.others:
            return self
        graphs = (self, *(other.graph for other in self.others))
        return BipartiteGraph(merged([graph.user_items for graph in graphs]), merged([graph.item_users for graph in graphs]))

    @property
    def num_users(self) -> int:
        return self.user_items.rows

    @property
    def num_items(self) -> int:
        return self.item_users.rows

    @property
    def num_nodes(self) -> int:
        return self.num_users + self.num_items

    @property
    def num_edges(self) -> int:
        return self.user_items.num_edges

    @classmethod
    def from_edges(cls, users_E: NDArray[np.int32], items_E: NDArray[np.int32], num_users: int, num_items: int) -> BipartiteGraph:
        """Both directions from edges in any order; repeated edges are merged."""
        user_items = csr_from_edges(users_E, items_E, num_users, num_items)
        return cls(user_items, transpose(user_items))

    @classmethod
    def open(cls, folder: Path, num_users: int, num_items: int, prefix: str = "") -> BipartiteGraph:
        """Memory-map the four arrays of `folder` whose names begin with `prefix`; their content is not looked at (`Csr.check`).

        DataError for an array of another type or length than the numbers of users and items say, or of other edges than the other
        direction has.
        """
        user_items = open_csr(folder, f"{prefix}user_items", num_users, num_items)
        graph = cls(user_items, open_csr(folder, f"{prefix}item_users", num_items, num_users))
        graph._check(graph.user_items.num_edges == graph.item_users.num_edges)
        return graph

    def save(self, folder: Path) -> None:
        """Write `user_items.{indptr,indices}.npy` and `item_users.{indptr,indices}.npy` into `folder`."""
        for name, csr in (("user_items", self.user_items), ("item_users", self.item_users)):
            np.save(folder / f"{name}.indptr.npy", csr.indptr)
            np.save(folder / f"{name}.indices.npy", csr.indices)

    def _check(self, agree: bool) -> None:
        if not agree:
            a, b = self.user_items, self.item_users
            raise DataError(
                f"the two directions of a graph must agree: user_items is {a.rows} x {a.columns} with {a.num_edges} edges, "
                f"item_users {b.rows} x {b.columns} with {b.num_edges}"
            )


@dataclass(frozen=True)
class Behaviour:
    """A behaviour that is not predicted, such as views: its name, and its graph over the same users and items.

    `times_E` int64 seconds, the newest of each pair, and `weights_E` float32 follow the order of `graph.user_items.indices`.
    `first_times_E`: the earliest times, None where they are `times_E`.
    """

    name: str
    graph: BipartiteGraph
    times_E: NDArray[np.int64] | None = None
    weights_E: NDArray[np.float32] | None = None
    later: LaterRows | None = None
    first_times_E: NDArray[np.int64] | None = None

    @property
    def earliest_E(self) -> NDArray[np.int64] | None:
        """The earliest known time of each pair, int64, in the order of `times_E`; None where times are not known."""
        return self.times_E if self.first_times_E is None else self.first_times_E

    @cached_property
    def until_test(self) -> Behaviour:
        """The behaviour as it is known when test begins: with the later rows; itself where there are none.

        Weights follow `LaterRows.weights_with`. Later rows without weights weigh what rows of the behaviour weigh on average.
        """
        if self.later is None:
            return self
        later, csr = self.later, self.graph.user_items
        users_E = np.concatenate([csr.row_numbers(), later.users_E])
        items_E = np.concatenate([csr.indices, later.items_E])
        graph = BipartiteGraph.from_edges(users_E, items_E, csr.rows, csr.columns)
        places_E = graph.user_items.positions(users_E, items_E)
        times_E = first_times_E = weights_E = None
        if self.times_E is not None and later.times_E is not None:
            times_E, first_times_E = (np.full(graph.num_edges, end) for end in (_INT64.min, _INT64.max))
            every_E = np.concatenate([self.times_E, later.times_E])
            np.maximum.at(times_E, places_E, every_E)
            np.minimum.at(first_times_E, places_E, every_E)
        if self.weights_E is not None:
            typical = float(self.weights_E.mean(dtype=np.float64))
            weights_E = later.weights_with(csr, self.weights_E, graph.user_items, typical)
        return Behaviour(self.name, graph, times_E, weights_E, first_times_E=first_times_E)


Weights = NDArray[np.float32]


def latest_weight(before_X: Weights, later_X: Weights) -> Weights:
    """The weights of pairs that come again, by `duplicates = "latest"`: the later ones, float32 (X)."""
    return later_X


def summed_weight(before_X: Weights, later_X: Weights) -> Weights:
    """The weights of pairs that come again, by `duplicates = "sum"`: before + later, float32 (X)."""
    return (before_X.astype(np.float64) + later_X).astype(np.float32)


def summed_logarithm(before_X: Weights, later_X: Weights) -> Weights:
    """The same where a weight w is log(1 + v) of a sum v: log(1 + (e^before - 1) + (e^later - 1)), float32 (X)."""
    less_X, more_X = (of(before_X, later_X).astype(np.float64) for of in (np.minimum, np.maximum))
    return (more_X + np.log1p(np.expm1(less_X) * np.exp(-more_X))).astype(np.float32)


@dataclass(frozen=True)
class LaterRows:
    """Rows that train may not have, as they are no earlier than validation, and that are earlier than test; each pair once.

    `repeated` gives the weights of pairs that train has as well, from the weights of train and the later ones.
    """

    users_E: NDArray[np.int32]
    items_E: NDArray[np.int32]
    times_E: NDArray[np.int64] | None
    weights_E: Weights | None = None
    repeated: Callable[[Weights, Weights], Weights] = latest_weight

    def weights_with(self, before: Csr, weights_E: Weights, both: Csr, typical: float) -> Weights:
        """The weights of `both`, the entries of `before` and these rows, in its order, float32.

        `weights_E` are those of `before`. A pair of one part has its weight there; `repeated` weighs a pair of both. Without
        weights, each later row weighs `typical`.
        """
        later_E = np.full(len(self.users_E), typical, np.float32) if self.weights_E is None else self.weights_E
        found, is_known = np.empty(both.num_edges, np.float32), np.zeros(both.num_edges, np.bool_)
        places_E = both.positions(before.row_numbers(), before.indices)
        found[places_E], is_known[places_E] = weights_E, True
        places_E = both.positions(self.users_E, self.items_E)
        again_E = is_known[places_E]
        found[places_E[~again_E]] = later_E[~again_E]
        found[places_E[again_E]] = self.repeated(found[places_E[again_E]], later_E[again_E])
        return found


@dataclass(frozen=True)
class History:
    """When, and with which weights, users took items: the edges `user_items` of train, then the rows `added` by a refit.

    A refit leaves out pairs that were rated low after them (`gcnrec.runs.folder.with_valid`).
    `times_E` int64 seconds and `weights_E` float32 follow the order of `user_items.indices`; None where the data has none.
    """

    user_items: Csr
    times_E: NDArray[np.int64] | None = None
    weights_E: NDArray[np.float32] | None = None
    added: LaterRows | None = None

    @property
    def times(self) -> tuple[NDArray[np.int64], ...]:
        """The times of the edges, and of the added rows where there are some; empty where times are not known."""
        parts = (self.times_E,) if self.added is None else (self.times_E, self.added.times_E)
        known = tuple(times_E for times_E in parts if times_E is not None)
        return known if len(known) == len(parts) else ()

    @property
    def items(self) -> tuple[NDArray[np.int32], ...]:
        """The items of the edges, and of the added rows where there are some, int32."""
        return (self.user_items.indices, *(() if self.added is None else (self.added.items_E,)))


def csr_from_edges(rows_E: NDArray[np.int32], columns_E: NDArray[np.int32], num_rows: int, num_columns: int) -> Csr:
    """A CSR from edges in any order, repeated edges merged. Two stable counting sorts, O(E + R + C).

    Edges that are few against the rows and columns are sorted by comparison, so that no array but `indptr` has length R or C.
    """
    if len(rows_E) < (num_rows + num_columns) // _FEW:
        keys_E = np.unique(rows_E.astype(np.int64) * num_columns + columns_E)
        indptr = np.zeros(num_rows + 1, np.int64)
        np.add.at(indptr, keys_E // num_columns + 1, 1)
        return Csr(np.cumsum(indptr, out=indptr), (keys_E % num_columns).astype(np.int32), num_columns)
    by_column = _counting_transpose(rows_E, columns_E, num_columns)
    by_row = _counting_transpose(by_column[0], by_column[1], num_rows)
    indptr = np.zeros(num_rows + 1, np.int64)
    np.cumsum(np.bincount(by_row[0], minlength=num_rows), out=indptr[1:])
    return _merge_repeats(Csr(indptr, by_row[1], num_columns))


def merged(parts: Sequence[Csr]) -> Csr:
    """The entries of all `parts`, which have the same rows and columns, each once."""
    rows_E = np.concatenate([part.row_numbers() for part in parts])
    return csr_from_edges(rows_E, np.concatenate([part.indices for part in parts]), parts[0].rows, parts[0].columns)


def transpose(csr: Csr) -> Csr:
    """The transpose, columns ascending. O(E + R + C), other threads go on meanwhile: every block of a batch has one."""
    indptr, rows_E = _transposed(csr.indptr, csr.indices, csr.columns)
    return Csr(indptr, rows_E, csr.rows)


def _merge_repeats(csr: Csr) -> Csr:
    keep = np.ones(csr.num_edges, np.bool_)
    if csr.num_edges:
        rows = csr.row_numbers()
        keep[1:] = (csr.indices[1:] != csr.indices[:-1]) | (rows[1:] != rows[:-1])
    return csr if keep.all() else csr.kept(keep)


def mapped(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """The array in the .npy file `path`, memory-mapped and read-only. None in `shape`: any length.

    DataError unless it has that type and shape, rows one after the other.
    """
    with reading(path, "ingest again"):
        try:
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
        except (ValueError, EOFError) as problem:
            raise DataError(f"{path} cannot be opened as an array ({first_line(problem)}); ingest again") from None
    fits = len(shape) == array.ndim and all(size in (None, found) for size, found in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype or not array.flags.c_contiguous:
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        came = " x ".join(map(str, array.shape)) or "a single value"
        raise DataError(
            f"{path} must hold {wanted} values of {np.dtype(dtype)}, row by row, holds {came} of {array.dtype}; ingest again"
        )
    return array


def open_csr(folder: Path, name: str, rows: int, columns: int) -> Csr:
    """Memory-map `name.indptr.npy` and `name.indices.npy` of `folder`. DataError for arrays of another type or length."""
    indptr = mapped(folder / f"{name}.indptr.npy", np.int64, (rows + 1,))
    return Csr(indptr, mapped(folder / f"{name}.indices.npy", np.int32, (None,)), columns)


@numba.njit(cache=True, nogil=True)
def _starts(keys_E, num_keys):  # type: ignore[no-untyped-def]
    """Where the edges of each key begin once they are sorted by key, int64 (keys + 1)."""
    start = np.zeros(num_keys + 1, np.int64)
    for edge in range(len(keys_E)):
        start[keys_E[edge] + 1] += 1
    for key in range(num_keys):
        start[key + 1] += start[key]
    return start


@numba.njit(cache=True, nogil=True)
def _transposed(indptr, indices, columns):  # type: ignore[no-untyped-def]
    """By column: where its entries begin, and their rows, int32, in the order of the rows."""
    start = _starts(indices, columns)
    place = start[:-1].copy()
    rows = np.empty(len(indices), np.int32)
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            column = indices[edge]
            rows[place[column]] = row
            place[column] += 1
    return start, rows


@numba.njit(cache=True)
def _counting_transpose(values_E, keys_E, num_keys):  # type: ignore[no-untyped-def]
    """Edges stably sorted by key: returns (sorted keys int32, their values int32)."""
    start = _starts(keys_E, num_keys)
    keys = np.empty(len(keys_E), np.int32)
    values = np.empty(len(keys_E), np.int32)
    for edge in range(len(keys_E)):
        key = keys_E[edge]
        keys[start[key]] = key
        values[start[key]] = values_E[edge]
        start[key] += 1
    return keys, values


@numba.njit(cache=True)
def _rises(indptr, end):  # type: ignore[no-untyped-def]
    for row in range(len(indptr) - 1):
        if indptr[row + 1] < indptr[row]:
            return False
    return indptr[-1] == end


@numba.njit(cache=True)
def _columns_ok(indptr, indices, columns):  # type: ignore[no-untyped-def]
    for row in range(len(indptr) - 1):
        previous = -1
        for edge in range(indptr[row], indptr[row + 1]):
            if indices[edge] <= previous or indices[edge] >= columns:
                return False
            previous = indices[edge]
    return True
