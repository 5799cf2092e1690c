"""Slot rows on the CPU: rows that store some of their columns, each as a record of values and column numbers.

A record of a row with `count` slots lies at `location` (in units of 8 bytes) of one byte arena: `capacity` values
(float32, or bfloat16 as the upper half of one), then `capacity` column numbers (uint8), of which the first `count` are
used, columns ascending. The count decides the record's size and so its capacity.

Every sum runs in the order of its row's edges, on one thread: results do not depend on the number of threads.
Letters: N rows of the table, R rows read, V chosen graph rows, D width, X stored values of the rows, K counts (or slabs).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"
# (numba's decorators and overloads carry no types)

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.ops.lanes import column_cuts, edges_before, request_line, share_start
from gcnrec.ops.values import load, store

UNIT = 8
"""Bytes that a location counts in."""
LINE_BYTES = 128
"""A GPU reads pinned memory in lines of this size."""
_AHEAD = 6
"""Edges between the request for a record and its use."""
_AHEAD_ROWS = 16
"""Rows between the request for a record and its use."""


class Slots(NamedTuple):
    """The places of slots: `values` (float32, or uint16 holding bfloat16) and `columns` are two views of an arena."""

    location_N: NDArray[np.uint32]
    count_N: NDArray[np.uint8]
    values: NDArray[np.float32] | NDArray[np.uint16]
    columns: NDArray[np.uint8]
    capacity_K: NDArray[np.int64]


@numba.njit(inline="always")
def _record(slots, row):
    """Values and column numbers of a row: slices, because loops over slices need no check for negative places."""
    value, column = _places(slots, row)
    count = np.int64(slots.count_N[row])
    return slots.values[value : value + count], slots.columns[column : column + count]


@numba.njit(inline="always")
def _places(slots, row):
    """First value and first column number of a row's record, as indices of `values` and `columns`."""
    start = np.int64(slots.location_N[row]) * UNIT
    size = slots.values.itemsize
    return start // size, start + slots.capacity_K[slots.count_N[row]] * size


@numba.njit(parallel=True, cache=True)
def decode(slots, rows_R, out_RD):
    """out[r] = row rows_R[r], zero where it has no slot."""
    for r in numba.prange(len(rows_R)):
        _request_record(slots, rows_R[min(r + _AHEAD_ROWS, len(rows_R) - 1)])
        out = out_RD[r]
        out[:] = np.float32(0)
        values, columns = _record(slots, rows_R[r])
        for j in range(len(columns)):
            out[columns[j]] = load(values, j)


@numba.njit(parallel=True, cache=True)
def decode_columns(slots, first, last, out_NC):
    """out = columns first .. last-1 of every row, zero where there is no slot."""
    for row in numba.prange(len(out_NC)):
        out = out_NC[row]
        out[:] = np.float32(0)
        values, columns = _record(slots, row)
        for j in range(len(columns)):
            at = np.int64(columns[j])
            if first <= at < last:
                out[at - first] = load(values, j)


@numba.njit(parallel=True, cache=True)
def pick(slots, rows_R, tile_RD, at_R, out_X):
    """out[at[r] + j] = tile[r, column of slot j]: a dense gradient at the slots only."""
    for r in numba.prange(len(rows_R)):
        _request_record(slots, rows_R[min(r + _AHEAD_ROWS, len(rows_R) - 1)])
        tile = tile_RD[r]
        _, columns = _record(slots, rows_R[r])
        out = out_X[at_R[r] : at_R[r] + len(columns)]
        for j in range(len(columns)):
            out[j] = tile[columns[j]]


@numba.njit(parallel=True, cache=True)
def add_at_rows(slots, rows_R, tile_RD, at_N, out_X):
    """out[at[row] + j] += tile[r, column of slot j] for rows that are all different."""
    for r in numba.prange(len(rows_R)):
        _request_record(slots, rows_R[min(r + _AHEAD_ROWS, len(rows_R) - 1)])
        row, tile = rows_R[r], tile_RD[r]
        _, columns = _record(slots, row)
        out = out_X[at_N[row] : at_N[row] + len(columns)]
        for j in range(len(columns)):
            out[j] += tile[columns[j]]


@numba.njit(parallel=True, cache=True)
def add_columns(slots, first, last, plane_NC, at_N, out_X):
    """out[at[n] + j] += plane[n, column of slot j - first] for slots in columns first .. last-1 of every row."""
    for row in numba.prange(len(plane_NC)):
        plane = plane_NC[row]
        _, columns = _record(slots, row)
        out = out_X[at_N[row] : at_N[row] + len(columns)]
        for j in range(len(columns)):
            at = np.int64(columns[j])
            if first <= at < last:
                out[j] += plane[at - first]


@numba.njit(parallel=True, cache=True, nogil=True)
def propagate_rows(indptr, indices, rows_V, slots, first_row, row_scale, column_scale, out_VD, shares):
    """out[v] = row_scale * sum over c in row rows_V[v] of column_scale[c] * table row first_row + c: edges x slots of work."""
    edges = edges_before(indptr, rows_V)
    for share in numba.prange(shares):
        for v in range(share_start(edges, share, shares), share_start(edges, share + 1, shares)):
            row, out = rows_V[v], out_VD[v]
            out[:] = np.float32(0)
            last = indptr[row + 1]
            for edge in range(indptr[row], last):
                _request_record(slots, first_row + indices[min(edge + _AHEAD, last - 1)])
                node = first_row + indices[edge]
                scale = column_scale[indices[edge]]
                values, columns = _record(slots, node)
                for j in range(len(columns)):
                    out[columns[j]] += scale * load(values, j)
            for d in range(len(out)):
                out[d] *= row_scale[row]


@numba.njit(parallel=True, cache=True, nogil=True)
def scatter_rows(indptr, indices, columns, grad_VD, rows_V, slots, first_row, row_scale, column_scale, at_N, out_X, shares):
    """The transpose of `propagate_rows` at the slots only: out[at[n] + j] += scales * grad[v, column of slot j].

    Every thread owns a range of neighbours, so each slot is summed in the order of v whatever the number of threads.
    """
    cuts = column_cuts(indptr, indices, columns, rows_V, shares)
    for share in numba.prange(shares):
        first, last = cuts[share], cuts[share + 1]
        for v in range(len(rows_V)):
            row, grad = rows_V[v], grad_VD[v]
            own = indices[indptr[row] : indptr[row + 1]]
            own = own[np.searchsorted(own, first) : np.searchsorted(own, last)]
            for edge in range(len(own)):
                later = first_row + own[min(edge + _AHEAD, len(own) - 1)]
                _request_record(slots, later)
                request_line(out_X, at_N[later])
                node = first_row + own[edge]
                scale = row_scale[row] * column_scale[own[edge]]
                _, own_columns = _record(slots, node)
                out = out_X[at_N[node] : at_N[node] + len(own_columns)]
                for j in range(len(own_columns)):
                    out[j] += scale * grad[own_columns[j]]


class Sizes(NamedTuple):
    """How large records are, and where state lies: tables `_K` are indexed by a row's count.

    Records of `record_K` bytes fill slabs of `slab_bytes`. A row has `state_K` floats of state, from the float

        row * state_row + slab * state_slab + place in the slab * state_step_K

    on: state lies by row where `state_slab` and `state_step_K` are 0, and by slab where `state_row` is 0.
    """

    slab_bytes: int
    record_K: NDArray[np.int64]
    state_K: NDArray[np.int64]
    state_row: int
    state_slab: int
    state_step_K: NDArray[np.int64]


class Places(NamedTuple):
    """The places of rows, int64: the first value of each, its first float of state, and its number of values."""

    weight_at_R: NDArray[np.int64]
    state_at_R: NDArray[np.int64]
    count_R: NDArray[np.int64]


def spans(slots: Slots, rows_R: NDArray[np.int64], sizes: Sizes) -> Places:
    """The places of the rows' values and state, as indices of the arenas, and their numbers of values."""
    places = Places(*(np.empty(len(rows_R), np.int64) for _ in range(3)))
    _spans(slots, rows_R, sizes, *places)
    return places


@numba.njit(inline="always")
def _state_at(sizes, row, start, count):
    """The first float of a row's state, from the first byte of its record."""
    slab, place = start // sizes.slab_bytes, start % sizes.slab_bytes // sizes.record_K[count]
    return row * sizes.state_row + slab * sizes.state_slab + place * sizes.state_step_K[count]


@numba.njit(parallel=True, cache=True)
def _spans(slots, rows_R, sizes, weight_at_R, state_at_R, count_R):
    for r in numba.prange(len(rows_R)):
        row = rows_R[r]
        count = np.int64(slots.count_N[row])
        count_R[r] = count
        start = np.int64(slots.location_N[row]) * UNIT
        weight_at_R[r] = start // slots.values.itemsize
        state_at_R[r] = 0
        if count:
            state_at_R[r] = _state_at(sizes, row, start, count)


@numba.njit(cache=True, nogil=True)
def extent(slots, rows_R, sizes):
    """Over rows `rows_R`: floats of records and of state, values, and 128-byte lines of both, each row's counted by itself."""
    records, floats, values, lines = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for row in rows_R:
        count = np.int64(slots.count_N[row])
        if count == 0:
            continue
        start, size, width = np.int64(slots.location_N[row]) * UNIT, sizes.record_K[count], sizes.state_K[count]
        state_at = 4 * _state_at(sizes, row, start, count)
        records, floats, values = records + size // 4, floats + width, values + count
        lines += (start + size - 1) // LINE_BYTES - start // LINE_BYTES + 1
        if width:
            lines += (state_at + 4 * width - 1) // LINE_BYTES - state_at // LINE_BYTES + 1
    return records, floats, values, lines


@numba.njit(cache=True)
def count_records(slots, slab_bytes, records_K):
    """Adds to records[slab] how many records each slab holds; no array of the number of rows is made."""
    for row in range(len(slots.count_N)):
        if slots.count_N[row]:
            records_K[np.int64(slots.location_N[row]) * UNIT // slab_bytes] += 1


@numba.njit(parallel=True, cache=True)
def unpack(slots, first, at_R, columns_X, values_X):
    """Columns and values of rows first, first + 1, ..., row after row."""
    for r in numba.prange(len(at_R)):
        value, column = _places(slots, first + r)
        for j in range(slots.count_N[first + r]):
            columns_X[at_R[r] + j] = slots.columns[column + j]
            values_X[at_R[r] + j] = load(slots.values, value + j)


@numba.njit(parallel=True, cache=True)
def pack(slots, first, at_R, columns_X, values_X):
    """The reverse of `unpack`, into records whose location and count are set."""
    values, columns = slots.values, slots.columns  # numba's parallel loop would write to copies of a tuple's arrays
    for r in numba.prange(len(at_R)):
        value, column = _places(slots, first + r)
        for j in range(slots.count_N[first + r]):
            columns[column + j] = columns_X[at_R[r] + j]
            store(values, value + j, values_X[at_R[r] + j])


@numba.njit(parallel=True, cache=True)
def copy_spans(source, source_at_R, target, target_at_R, length_R):
    """target[target_at[r] + j] = source[source_at[r] + j] for j < length[r]."""
    for r in numba.prange(len(length_R)):
        # Of slices, whose places need no check, a copy by vectors: a fifth of the time of one by places (measured, 80 bytes).
        own = source[source_at_R[r] : source_at_R[r] + length_R[r]]
        out = target[target_at_R[r] : target_at_R[r] + length_R[r]]
        for j in range(len(out)):
            out[j] = own[j]


@numba.njit(cache=True)
def fill_records(count_N, allowed_A, middle_A, filled_N):
    """filled[r]: the capacity of `allowed` (ascending from 0) next to count[r] plus what rows before r gave up or gained; then
    from the last row on, one capacity less until the sum is no larger than it was. `middle` lies between neighbours."""
    carry = np.int64(0)
    for r in range(len(count_N)):
        wanted = count_N[r] + carry
        choice = np.searchsorted(middle_A, wanted)
        filled_N[r] = allowed_A[choice]
        carry = wanted - allowed_A[choice]
    r = len(count_N) - 1
    while r >= 0 and carry < 0:
        lower = allowed_A[max(np.searchsorted(allowed_A, filled_N[r]) - 1, 0)]
        carry += filled_N[r] - lower
        filled_N[r] = lower
        r -= 1


@numba.njit(inline="always")
def _request_record(slots, row):
    start = np.int64(slots.location_N[row]) * UNIT
    request_line(slots.columns, start)
    request_line(slots.columns, start + 64)
