"""Kernels of `gcnrec.ops.propagate`, on explicit vector lanes; `shares` is the number of threads that share the edges.

Numba keeps a local array in memory, so a sum over the rows of a neighbourhood would load and store its accumulator for
every edge. These intrinsics emit the loop as LLVM vectors of 16 floats that stay in registers for a whole row, and ask
for the rows of later edges and their scales ahead of time (measured: 1.4 times faster than without when the rows lie in a
shared cache; of rows in memory, 8 or 16 columns wide, 1.1 to 1.3 times).
All offsets are 64-bit counts of floats into flat vectors.

The kernels stand in this file too because numba's disk cache is keyed by the text of one file: a kernel that took these
intrinsics from another file would still use the old ones after an upgrade.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"
# (llvmlite and numba's intrinsics carry no types)

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_FLOAT = ir.FloatType()
_LONG = ir.IntType(64)
_AHEAD = 32
"""Edges between the request for a row and its use; 24 .. 48 measured alike, 12 slower."""
_BLOCK = 1024
"""Edges in one partial sum: the rounding error of a long row grows with the number of its blocks, not with its degree."""
_ROW_COST = 4
"""The cost of starting and writing a row, in edges; it cuts the rows into equal shares."""
_AHEAD_ADD = 16
"""Edges between the request for a row to add to and its use."""


@numba.njit(inline="always")
def share_start(indptr, share, shares):
    """First row of a share: rows are cut where edges + _ROW_COST * rows pass share / shares of the total."""
    rows = len(indptr) - 1
    goal = (indptr[rows] - indptr[0] + _ROW_COST * rows) * share // shares
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        if indptr[middle] - indptr[0] + _ROW_COST * middle < goal:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(parallel=True, cache=True, nogil=True)
def propagate(indptr, indices, source, pitch, row_scale, column_scale, out, out_pitch, width, shares):
    """Every row of the matrix times `source`; a thread owns a range of rows."""
    for share in numba.prange(shares):
        for row in range(share_start(indptr, share, shares), share_start(indptr, share + 1, shares)):
            _sum_scaled_rows(
                indices, indptr[row], indptr[row + 1], len(indices), source, pitch, column_scale, row_scale[row], out,
                row * out_pitch, width,
            )  # fmt: skip


@numba.njit(parallel=True, cache=True, nogil=True)
def propagate_rows(indptr, indices, rows, source, pitch, row_scale, column_scale, out, out_pitch, width, shares):
    """The chosen `rows` of the matrix times `source`, in their order; a thread owns a range of them."""
    edges = edges_before(indptr, rows)
    for share in numba.prange(shares):
        for v in range(share_start(edges, share, shares), share_start(edges, share + 1, shares)):
            row = rows[v]
            _sum_scaled_rows(
                indices, indptr[row], indptr[row + 1], indptr[row + 1], source, pitch, column_scale, row_scale[row], out,
                v * out_pitch, width,
            )  # fmt: skip


@numba.njit(parallel=True, cache=True, nogil=True)
def scatter_rows(indptr, indices, columns, rows, grad, pitch, row_scale, column_scale, out, out_pitch, width, shares):
    """Every thread owns a range of columns; ranges are cut at quantiles of a sample of the edges' columns."""
    cuts = column_cuts(indptr, indices, columns, rows, shares)
    for share in numba.prange(shares):
        first, last = cuts[share], cuts[share + 1]
        for v in range(len(rows)):
            row = rows[v]
            own = indices[indptr[row] : indptr[row + 1]]
            own = own[np.searchsorted(own, first) : np.searchsorted(own, last)]
            for edge in range(len(own)):
                if edge + _AHEAD_ADD < len(own):
                    _request_row(out, own[edge + _AHEAD_ADD] * out_pitch, width)
                scale = row_scale[row] * column_scale[own[edge]]
                _add_scaled_row(grad, v * pitch, scale, out, own[edge] * out_pitch, width)


@numba.njit(parallel=True, cache=True, nogil=True)
def collect_rows(indptr, indices, grad, pitch, row_scale, column_scale, out, out_pitch, width, shares):
    """`scatter_rows` of all rows by the transposed matrix, to the same bits; a thread owns a range of columns."""
    last = len(indices) - 1
    for share in numba.prange(shares):
        for column in range(share_start(indptr, share, shares), share_start(indptr, share + 1, shares)):
            out[column * out_pitch : column * out_pitch + width] = np.float32(0)
            for edge in range(indptr[column], indptr[column + 1]):
                _request_row(grad, np.int64(indices[min(edge + _AHEAD_ADD, last)]) * pitch, width)
                row = np.int64(indices[edge])
                scale = row_scale[row] * column_scale[column]
                _add_scaled_row(grad, row * pitch, scale, out, column * out_pitch, width)


@numba.njit(cache=True)
def column_cuts(indptr, indices, columns, rows, shares):
    """Ascending cuts 0 .. columns (shares + 1) such that each range holds about as many edges of `rows`."""
    total = 0
    for row in rows:
        total += indptr[row + 1] - indptr[row]
    step = max(1, total // (256 * shares))
    sample = np.empty(total // step + 1, np.int32)
    count, passed = 0, 0
    for row in rows:
        degree = indptr[row + 1] - indptr[row]
        position = (step - passed % step) % step
        while position < degree:
            sample[count] = indices[indptr[row] + position]
            count += 1
            position += step
        passed += degree
    sample = np.sort(sample[:count])
    cuts = np.zeros(shares + 1, np.int64)
    cuts[shares] = columns
    for share in range(1, shares):
        cuts[share] = sample[count * share // shares] if count else 0
    return cuts


@numba.njit(cache=True)
def edges_before(indptr, rows):
    """Running sum of the degrees of `rows`: the indptr of the chosen rows, int64 (V+1)."""
    edges = np.zeros(len(rows) + 1, np.int64)
    for v in range(len(rows)):
        edges[v + 1] = edges[v] + indptr[rows[v] + 1] - indptr[rows[v]]
    return edges


@numba.njit(cache=True, nogil=True)
def mark_rows(indptr, indices, rows, flags):
    """Set `flags` to 1 for every column in which one of `rows` has an edge."""
    for row in rows:
        for edge in range(indptr[row], indptr[row + 1]):
            flags[indices[edge]] = 1


@numba.njit(inline="always")
def _sum_scaled_rows(indices, begin, end, limit, source, pitch, column_scale, row_scale, out, at, width):
    """out[at : at+width] = row_scale * sum over e in begin .. end-1, ascending, of column_scale[c] * source[c * pitch : +width],
    with c = indices[e]. Rows of edges below `limit` (at least `end`) may be requested early."""
    out[at : at + width] = np.float32(0)
    for start in range(begin, end, _BLOCK):
        stop = min(start + _BLOCK, end)
        first = 0
        while width - first >= 64:
            _sum_64(indices, start, stop, limit, source, pitch, first, column_scale, row_scale, out, at + first)
            first += 64
        if width - first >= 32:
            _sum_32(indices, start, stop, limit, source, pitch, first, column_scale, row_scale, out, at + first)
            first += 32
        if width - first >= 16:
            _sum_16(indices, start, stop, limit, source, pitch, first, column_scale, row_scale, out, at + first)
            first += 16
        if width - first >= 8:
            _sum_8(indices, start, stop, limit, source, pitch, first, column_scale, row_scale, out, at + first)
            first += 8
        if width - first >= 4:
            _sum_4(indices, start, stop, limit, source, pitch, first, column_scale, row_scale, out, at + first)
            first += 4
        while first < width:
            _sum_1(indices, start, stop, limit, source, pitch, first, column_scale, row_scale, out, at + first)
            first += 1


@numba.njit(inline="always")
def _add_scaled_row(source, begin, scale, out, at, width):
    """out[at : at+width] += scale * source[begin : begin+width]; the two must not overlap."""
    first = 0
    while width - first >= 64:
        _add_64(source, begin + first, scale, out, at + first)
        first += 64
    while width - first >= 16:
        _add_16(source, begin + first, scale, out, at + first)
        first += 16
    while first < width:
        out[at + first] += scale * source[begin + first]
        first += 1


@numba.njit(inline="always")
def _request_row(out, at, width):
    """Fetch out[at : at+width] towards this core, to be written soon."""
    for line in range(0, width, 16):
        request_line(out, at + line)


@intrinsic
def request_line(typing, out, at):
    """Fetch the cache line of out[at] towards this core, to be used soon."""

    def emit(context, builder, signature, args):
        _request(builder, _pointer(context, builder, signature, args, 0), args[1], write=1)
        return context.get_dummy_value()

    return types.void(out, types.int64), emit


def _sum_lanes(lanes, vectors):
    """The intrinsic that adds row_scale * sum to `out`: `vectors` vectors of `lanes` floats at column offset `first`."""

    def gcnrec_sum(typing, indices, begin, end, limit, source, pitch, first, column_scale, row_scale, out, at):
        whole = types.int64
        signature = types.void(indices, whole, whole, whole, source, whole, whole, column_scale, types.float32, out, whole)

        def emit(context, builder, signature, args):
            index, scale, rows, target = (_pointer(context, builder, signature, args, at) for at in (0, 7, 4, 9))
            _, begin, end, limit, _, pitch, first, _, row_scale, _, at = args
            last = builder.sub(limit, _LONG(1))
            vector = ir.VectorType(_FLOAT, lanes)
            sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * lanes)) for _ in range(vectors)]
            with cgutils.for_range(builder, end, start=begin) as loop:
                column = builder.load(builder.gep(index, [loop.index]))
                weight = _splat(builder, builder.load(builder.gep(scale, [column])), lanes)
                later = _smaller(builder, builder.add(loop.index, _LONG(_AHEAD)), last)
                early_column = builder.load(builder.gep(index, [later]))
                _request(builder, scale, builder.sext(early_column, _LONG))
                early = _offset(builder, early_column, pitch, first)
                for line in range(0, lanes * vectors, 16):
                    _request(builder, rows, builder.add(early, _LONG(line)))
                offset = _offset(builder, column, pitch, first)
                for part, total in enumerate(sums):
                    row = _load(builder, rows, offset, part * lanes, vector)
                    builder.store(_multiply_add(builder, row, weight, builder.load(total)), total)
            weight = _splat(builder, row_scale, lanes)
            for part, total in enumerate(sums):
                old = _load(builder, target, at, part * lanes, vector)
                _store(builder, _multiply_add(builder, builder.load(total), weight, old), target, at, part * lanes)
            return context.get_dummy_value()

        return signature, emit

    return intrinsic(gcnrec_sum)


def _add_lanes(lanes, vectors):
    """The intrinsic that adds `scale` times `vectors` vectors of `lanes` floats."""

    def gcnrec_add(typing, source, begin, scale, out, at):
        signature = types.void(source, types.int64, types.float32, out, types.int64)

        def emit(context, builder, signature, args):
            rows, target = (_pointer(context, builder, signature, args, at) for at in (0, 3))
            _, begin, scale, _, at = args
            vector = ir.VectorType(_FLOAT, lanes)
            weight = _splat(builder, scale, lanes)
            for part in range(vectors):
                row = _load(builder, rows, begin, part * lanes, vector)
                old = _load(builder, target, at, part * lanes, vector)
                _store(builder, _multiply_add(builder, row, weight, old), target, at, part * lanes)
            return context.get_dummy_value()

        return signature, emit

    return intrinsic(gcnrec_add)


def _pointer(context, builder, signature, args, position):
    kind = signature.args[position]
    return context.make_array(kind)(context, builder, value=args[position]).data


def _offset(builder, column, pitch, first):
    return builder.add(builder.mul(builder.sext(column, _LONG), pitch), first)


def _smaller(builder, a, b):
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _request(builder, base, offset, write=0):
    """Fetch the cache line at `base + offset` into the second-level cache, without waiting."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), (byte, word, word, word))
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    place = builder.bitcast(builder.gep(base, [offset]), byte)
    builder.call(prefetch, (place, word(write), word(2), word(1)))


def _splat(builder, value, lanes):
    single = builder.insert_element(
        ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def _address(builder, base, offset, extra, vector):
    place = builder.add(offset, _LONG(extra))
    return builder.bitcast(builder.gep(base, [place]), vector.as_pointer())


def _load(builder, base, offset, extra, vector):
    return builder.load(_address(builder, base, offset, extra, vector), align=4)


def _store(builder, value, base, offset, extra):
    builder.store(value, _address(builder, base, offset, extra, value.type), align=4)


def _multiply_add(builder, a, b, c):
    # fmuladd: one instruction where the CPU has it, two elsewhere (llvm.fma would call the C library there)
    kind = ir.FunctionType(a.type, (a.type, a.type, a.type))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{a.type.count}f32")
    return builder.call(function, (a, b, c))


_SHAPES = (16, 4), (16, 2), (16, 1), (8, 1), (4, 1), (1, 1)
_sum_64, _sum_32, _sum_16, _sum_8, _sum_4, _sum_1 = (_sum_lanes(*shape) for shape in _SHAPES)
_add_64, _add_16 = _add_lanes(16, 4), _add_lanes(16, 1)
